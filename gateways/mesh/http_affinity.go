package mesh

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/http1"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
)

// Header fields by which a gateway asks another one for what it cannot do itself. They are believed on flows of gateways only.
const (
	headerAffinity = "X-Tradewind-Affinity" // key in hexadecimal
	headerSubset   = "X-Tradewind-Subset"   // name, of the serving region's resolver
	headerTimeout  = "X-Tradewind-Timeout"  // milliseconds until nobody waits for the response any more

	// headerTried names, by a key in hexadecimal, the instance that broke off: in a response with outcomeBroken, and in the next try.
	headerTried = "X-Tradewind-Tried"
)

// affinity is what keeps the requests of one client together.
type affinity struct {
	key    uint64            // chooses the instance; 0: none
	region federation.Region // that served it before; empty: not known
	fresh  bool              // the client has no cookie yet
}

// affinityOf reads what r brings for a; source is who sends it.
func affinityOf(a *federation.Affinity, r *http.Request, source string) affinity {
	switch {
	case a == nil:
		return affinity{}
	case a.Source:
		return affinity{key: balance.Key(source)}
	case a.Header != "":
		if v := r.Header.Get(a.Header); v != "" {
			return affinity{key: balance.Key(v)}
		}
		return affinity{}
	}
	if c, err := r.Cookie(a.Cookie); err == nil {
		key, region, _ := strings.Cut(c.Value, ".")
		if n, err := strconv.ParseUint(key, 16, 64); err == nil && n != 0 {
			if region, err := federation.ParseRegion(region); err == nil {
				return affinity{key: n, region: region}
			}
			return affinity{key: n, fresh: true}
		}
	}
	return affinity{key: rand.Uint64() | 1, fresh: true}
}

// keep has the client send its next request to the same place: region, and there the instance of the key.
func (s affinity) keep(a *federation.Affinity, h http.Header, region federation.Region) {
	if a == nil || a.Cookie == "" || !s.fresh && s.region == region {
		return
	}
	c := http.Cookie{Name: a.Cookie, Value: fmt.Sprintf("%x.%s", s.key, region), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
		MaxAge: int(a.TTL.D().Seconds())}
	h["Set-Cookie"] = append(h["Set-Cookie"], c.String())
}

// tell is what the gateway of a peer has to know of the request.
func (t *trip) tell(deadline time.Time) (fields []http1.Field) {
	if t.sticks.key != 0 {
		fields = append(fields, http1.Field{Name: headerAffinity, Value: strconv.FormatUint(t.sticks.key, 16)})
	}
	if t.subset != "" {
		fields = append(fields, http1.Field{Name: headerSubset, Value: t.subset})
	}
	if t.spill.detour {
		fields = append(fields, http1.Field{Name: headerDetour, Value: "1"})
	}
	if !deadline.IsZero() {
		left := strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10)
		fields = append(fields, http1.Field{Name: headerTimeout, Value: left})
	}
	if t.rule.Priority != nil {
		fields = append(fields, http1.Field{Name: headerUrgency, Value: strconv.Itoa(t.urgency)})
	}
	if t.tried != 0 {
		fields = append(fields, http1.Field{Name: headerTried, Value: strconv.FormatUint(t.tried, 16)})
	}
	return fields
}

// asks is what the gateway of a peer has written down.
type asks struct {
	key      uint64
	subset   string
	deadline time.Time
	detour   bool
	urgency  int
	tried    uint64 // key of an instance; 0: none
}

// takeAsks reads it, and removes it: no instance is to see it. What cannot be read was not asked.
func takeAsks(r *http.Request) asks {
	var a asks
	a.key, _ = strconv.ParseUint(r.Header.Get(headerAffinity), 16, 64)
	if s := r.Header.Get(headerSubset); len(s) <= 64 {
		a.subset = s
	}
	if ms, err := strconv.ParseInt(r.Header.Get(headerTimeout), 10, 64); err == nil && ms > 0 && ms < int64(24*time.Hour/time.Millisecond) {
		a.deadline = time.Now().Add(time.Duration(ms) * time.Millisecond)
	}
	a.detour = r.Header.Get(headerDetour) != ""
	if a.urgency = urgencyOf(r.Header); len(r.Header[headerUrgency]) == 1 {
		if u, err := strconv.ParseUint(r.Header[headerUrgency][0], 10, 3); err == nil {
			a.urgency = int(u)
		}
	}
	a.tried, _ = strconv.ParseUint(r.Header.Get(headerTried), 16, 64)
	l7.StripReserved(r.Header)
	return a
}
