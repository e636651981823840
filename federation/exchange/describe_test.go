package exchange

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

func shortEpoch(e federation.Epoch) string { return fmt.Sprintf("%d.%x", e.Counter, e.Incarnation) }

func shortCursor(c Cursor) string {
	if c.Epoch.Counter == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%s/%d#%04x", shortEpoch(c.Epoch), c.Seq, c.Digest.Lo&0xffff)
}

// describe writes a frame as the stories show it.
func describe(s Send) string {
	k, b, err := unwrap(s.Lane, s.Frame)
	if err != nil {
		return err.Error()
	}
	switch k {
	case kindHello:
		h, _ := decodeHello(b)
		return fmt.Sprintf("hello from %s epoch %s; of you: knows %s, has %s", h.region, shortEpoch(h.epoch),
			shortEpoch(h.known), shortCursor(h.cursor))
	case kindSync:
		q, _ := decodeSync(b)
		return fmt.Sprintf("sync %d %s from %s", q.sub, [...]string{"auto", "reconcile", "snapshot"}[q.mode], shortCursor(q.cursor))
	case kindHead:
		h, _ := decodeHead(b)
		return "head " + shortCursor(h.cursor)
	case kindApplied:
		a, _ := decodeApplied(b)
		return fmt.Sprintf("applied %d frames of %d: %s", a.frames, a.sub, shortCursor(a.cursor))
	case kindNack:
		return "nack" + describePairs(b, " %s TW-%d")
	case kindGoAway:
		v, _ := decodeOne(b, 10)
		return "go away: " + [...]string{"?", "removed", "paused"}[v]
	case kindHealthWant:
		return "want health of " + hex.EncodeToString(b[2:])
	case kindBundle:
		v, _ := decodeBytes(b, MaxFrame)
		return fmt.Sprintf("bundle %q", v)
	case kindWithdraw:
		return "withdraw" + describePairs(b, " %s at %d")
	case kindDrain:
		v, _ := decodeOne(b, 1<<20)
		return fmt.Sprintf("drain for %d s", v)
	case kindHealth:
		return describeHealth(b)
	}
	return describeBulk(k, b)
}

func describePairs(b []byte, format string) (out string) {
	_ = decodePairs(b, MaxFrame, func(service []byte, n uint64) error {
		out += fmt.Sprintf(format, service, n)
		return nil
	})
	return out
}

func describeHealth(b []byte) string {
	out := "health"
	seen := map[string]bool{}
	_ = decodeHealth(b, func(st statement) error {
		if key := fmt.Sprint(st.hv); seen[key] {
			return nil
		} else {
			seen[key] = true
		}
		out += fmt.Sprintf(" #%d", st.handle)
		if len(st.service) > 0 {
			out += fmt.Sprintf("=%s", st.service)
		}
		for rest := st.slots; len(rest) > 0; {
			p, h, next, err := nextSlot(rest)
			if err != nil {
				return err
			}
			out += fmt.Sprintf(" %d.%d:%d/%d", p.num, p.gen, h.Healthy, h.Total)
			rest = next
		}
		return nil
	})
	return out
}

func describeBulk(k kind, b []byte) string {
	switch k {
	case kindDelta:
		d, _ := decodeDelta(b)
		out := fmt.Sprintf("delta %d (%d,%d]%s", d.sub, d.from, d.to, describeRows(&d))
		if d.atHead {
			out += fmt.Sprintf(" head #%04x", d.digest.Lo&0xffff)
		}
		return out
	case kindRows:
		d, _ := decodeRows(b)
		return fmt.Sprintf("rows %d%s", d.sub, describeRows(&d))
	case kindBegin:
		g, _ := decodeBegin(b)
		return fmt.Sprintf("begin %d %s", g.sub, [...]string{"", "reconcile", "snapshot", "adopt"}[g.mode])
	case kindDigests, kindWant:
		l, _ := decodeListing(b, 8)
		size, what := digestEntry, "digests"
		if k == kindWant {
			size, what = 8, "want"
		}
		out := fmt.Sprintf("%s %d of %d rows", what, l.sub, len(l.entries)/size)
		if l.last {
			out += ", last"
		}
		return out
	case kindBarrier:
		g, _ := decodeBarrier(b)
		return fmt.Sprintf("barrier %d: %d rows at %s", g.sub, g.count, shortCursor(g.cursor))
	}
	return "?"
}

func describeRows(d *delta) (out string) {
	_ = d.eachRow(func(r rawRow) error {
		if r.gone {
			out += fmt.Sprintf(" -%s@%d", r.service, r.seq)
			return nil
		}
		out += fmt.Sprintf(" %s@%d", r.service, r.seq)
		return nil
	})
	if d.part.present {
		out += fmt.Sprintf(" part %d+%d of %d", d.part.offset, len(d.part.data), d.part.total)
	}
	return out
}

// describeImport writes an import as "LIVE 1.aaaa/3: web(i-1 i-2!) db()".
func describeImport(i *federation.Import) string {
	if i == nil {
		return "nothing"
	}
	return fmt.Sprintf("%v %s/%d:%s", i.Freshness, shortEpoch(i.Epoch), i.Seq, describeServices(i))
}

func describeServices(i *federation.Import) (out string) {
	if i == nil {
		return " nothing"
	}
	names := make([]federation.ServiceName, 0, len(i.Services))
	for name := range i.Services {
		names = append(names, name)
	}
	slices.SortFunc(names, federation.ServiceName.Compare)
	for _, name := range names {
		s := i.Services[name]
		var slots []string
		for j, slot := range s.Slots {
			h := s.Lane.Load(j)
			text := slot.Key
			switch {
			case h.Total > 1:
				text += fmt.Sprintf("*%d/%d", h.Healthy, h.Total)
			case h.Healthy == 0:
				text += "!"
			}
			slots = append(slots, text)
		}
		out += fmt.Sprintf(" %s(%s)", name, strings.Join(slots, " "))
	}
	if out == "" {
		return " no services"
	}
	return out
}

func describeStatus(e *storyEnd) string {
	s := e.m.Status()
	out := fmt.Sprintf("%s is %v, phase %s, applied %s, head %s", e.name, s.State, s.Import.Phase,
		shortCursor(s.Import.Applied), shortCursor(s.Import.Head))
	if s.Import.Lagging {
		out += ", LAGGING"
	}
	if s.Import.Braked {
		out += fmt.Sprintf(", braked (%d held)", s.Import.Held)
	}
	if s.Import.PeerHeld {
		out += ", peer in quarantine"
	}
	if s.Export.Held {
		out += ", export held"
	}
	for _, q := range s.Import.Quarantined {
		out += fmt.Sprintf(", keeps out %s (%s %s)", q.Service, q.Code, q.Reason)
	}
	for _, q := range s.Export.Refused {
		out += fmt.Sprintf(", is refused %s (%s)", q.Service, q.Code)
	}
	if s.Reason != "" {
		out += ": " + s.Reason
	}
	return out
}

// forgeFrame builds a frame from "delta sub=1 from=3 to=4 row=web:5:bad-key".
func forgeFrame(s *story, e *storyEnd, words []string) (Lane, []byte) {
	n := map[string]uint64{}
	text := map[string]string{}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		n[k], _ = strconv.ParseUint(v, 10, 64)
		text[k] = v
	}
	c := e.m.log.cursor()
	if v, ok := n["seq"]; ok {
		c.Seq = v
	}
	c.Digest.Lo += n["digest"]
	sent := s.now.UnixNano()
	switch words[0] {
	case "delta":
		b := appendUint(appendUint(appendUint(nil, 1, n["sub"]), 2, n["from"]), 3, n["to"])
		if row, ok := text["row"]; ok {
			b = append(b, forgeRow(row)...)
		}
		return LaneMembership, frame(kindDelta, b)
	case "barrier":
		return LaneBulk, barrier{sub: n["sub"], count: n["count"], cursor: c, time: sent}.frame()
	case "head":
		return LaneControl, head{cursor: c, time: sent}.frame()
	case "health":
		var slots []byte
		for _, v := range strings.Split(text["slots"], ",") {
			u, _ := strconv.ParseUint(v, 10, 64)
			slots = appendVarint(slots, u)
		}
		return LaneHealth, frame(kindHealth, appendMessage(nil, 1, func(b []byte) []byte {
			b = appendUint(b, 1, n["handle"])
			if text["service"] != "" {
				b = appendString(b, 2, text["service"])
			}
			return appendBytes(appendUint(b, 3, n["hv"]), 4, slots)
		}))
	case "nack":
		return LaneControl, frame(kindNack, appendRefusal(nil, "web", n["web"]))
	case "withdraw":
		return LaneUrgent, frame(kindWithdraw, appendGone(nil, "web", n["web"]))
	case "junk":
		b, _ := hex.DecodeString(text["hex"])
		return Lane(n["lane"]), b
	}
	s.t.Fatalf("cannot forge %s", words[0])
	return 0, nil
}

// forgeRow builds a row from "name:seq:kind", where kind is what is wrong with it.
func forgeRow(text string) []byte {
	f := strings.Split(text, ":")
	seq, _ := strconv.ParseUint(f[1], 10, 64)
	slots := []federation.ExportedSlot{{Key: "i-1", Weight: 1}, {Key: "i-2", Weight: 1}}
	places := []place{{0, 1}, {1, 1}}
	switch f[2] {
	case "key":
		slots[1].Key = "i-\x1b[2J"
	case "twice":
		places[1].num = 0
	}
	body := appendBody(nil, federation.ProtocolTCP, federation.DetailEndpoints, slots, places)
	switch f[2] {
	case "must":
		body = appendUint(body, 5, 1)
	case "identity":
		body = appendString(body, 6, "spiffe://west.mesh.internal/ns/default/svc/web")
	case "protocol":
		body = appendString(body, 1, "gopher")
	}
	return appendMessage(nil, 4, func(b []byte) []byte {
		b = appendUint(appendString(b, 1, f[0]), 2, seq)
		return appendBytes(appendUint(appendBytes(b, 3, body), 5, 1000), 6, []byte{1, 1, 1, 1})
	})
}

func appendVarint(b []byte, v uint64) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}
