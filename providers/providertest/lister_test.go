package providertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// The smallest API that has all the cases, GET /workloads?page=N and GET /names, and an adapter for it: the example of how an
// adapter's test plugs into the suite.

type exampleItem struct {
	ID      string `json:"id"`
	Address string `json:"address"`
}

type examplePage struct {
	Items   []exampleItem `json:"items"`
	Next    *int          `json:"next"`
	Missing string        `json:"missing"`
}

// exampleAPI is the fake.
type exampleAPI struct {
	Player
	server *httptest.Server
	key    atomic.Int64  // the credentials that are accepted at the moment
	over   chan struct{} // closed at the end
}

func newExampleAPI(t *testing.T) *exampleAPI {
	a := &exampleAPI{over: make(chan struct{})}
	a.server = httptest.NewServer(a)
	t.Cleanup(func() {
		close(a.over) // for a mutant that would never let go, and asks again when it is cut off
		a.server.CloseClientConnections()
		a.server.Close()
	})
	return a
}

func (a *exampleAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/key" {
		fmt.Fprint(w, a.key.Load())
		return
	}
	if r.Header.Get("Key") != strconv.FormatInt(a.key.Load(), 10) {
		http.Error(w, "unknown key", http.StatusUnauthorized)
		return
	}
	page, _ := strconv.Atoi(r.FormValue("page"))
	items, fault, next := a.Page(page)
	answer := examplePage{Items: []exampleItem{}}
	switch fault {
	case Throttle:
		w.Header().Set("Retry-After", "3")
		http.Error(w, "slow down", http.StatusTooManyRequests)
		return
	case Deny:
		http.Error(w, "example.workloads.list", http.StatusForbidden)
		return
	case Expired:
		a.key.Add(1)
		http.Error(w, "expired key", http.StatusUnauthorized)
		return
	case Hang:
		select {
		case <-r.Context().Done():
		case <-a.over:
		}
		return
	case Unavailable:
		http.Error(w, "out of order", http.StatusInternalServerError)
		return
	case Garbage:
		fmt.Fprint(w, `{"items": [`)
		return
	case Partial:
		answer.Missing = "zone b"
	}
	for _, i := range items {
		item := exampleItem{ID: fmt.Sprint("w", i.N), Address: Address(i.N).String()}
		if i.Malformed {
			item.Address = "not-an-address"
		}
		if !i.Gone {
			answer.Items = append(answer.Items, item)
		}
	}
	if next >= 0 {
		answer.Next = &next
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// exampleLister is the adapter.
type exampleLister struct {
	base   string
	client *http.Client
	key    atomic.Pointer[string]
	sabotage
}

var exampleScope = poll.Scope{Provider: "example", Account: "a", Kind: "workload"}

func (l *exampleLister) Scopes(context.Context) ([]poll.Scope, error) {
	return []poll.Scope{exampleScope}, nil
}

func (l *exampleLister) List(ctx context.Context, scope poll.Scope, budget poll.Budget) (poll.Listing, error) {
	if l.key.Load() == nil {
		key, err := l.get(ctx, "/key", "")
		if err != nil {
			return poll.Listing{}, err
		}
		text := string(key)
		l.key.Store(&text)
	}
	var out poll.Listing
	for page := 0; ; {
		if !l.ignoresBudget {
			if err := budget.Wait(ctx); err != nil {
				return poll.Listing{}, err
			}
		}
		out.Calls++
		body, err := l.get(ctx, fmt.Sprintf("/workloads?page=%d", page), *l.key.Load())
		if errors.Is(err, poll.ErrCredentials) {
			l.key.Store(nil)
		}
		if err != nil && !(l.forgivesPages && page > 0) {
			return poll.Listing{}, err
		}
		var answer examplePage
		if err := json.Unmarshal(body, &answer); err != nil {
			if l.forgivesPages {
				return out, nil
			}
			return poll.Listing{}, fmt.Errorf("read page %d: %w", page, err)
		}
		if answer.Missing != "" {
			out.Partial = errors.New(answer.Missing + " did not answer")
		}
		l.read(&out, scope, answer.Items)
		switch {
		case answer.Next == nil || l.readsOnePage:
			return out, nil
		case *answer.Next <= page && !l.loops:
			return poll.Listing{}, fmt.Errorf("page %d says that the next is %d", page, *answer.Next)
		}
		page = *answer.Next
	}
}

func (l *exampleLister) read(out *poll.Listing, scope poll.Scope, items []exampleItem) {
	for _, i := range items {
		addr, err := netip.ParseAddr(i.Address)
		if err != nil {
			if !l.hidesBadItems {
				out.Bad = append(out.Bad, poll.BadItem{ID: i.ID, Err: err})
			}
			continue
		}
		out.Records = append(out.Records, poll.Record{ID: i.ID, Account: scope.Account, Kind: scope.Kind, Addresses: []netip.Addr{addr},
			State: poll.StateRunning, Health: federation.HealthUnknown})
	}
}

func (l *exampleLister) get(ctx context.Context, path, key string) ([]byte, error) {
	if l.ignoresContext {
		ctx = context.WithoutCancel(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Key", key)
	resp, err := l.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("list workloads: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read workloads: %w", err)
	}
	err = fmt.Errorf("list workloads: %s: %s", resp.Status, body)
	switch {
	case resp.StatusCode == http.StatusOK:
		return body, nil
	case l.saysNoReasons:
	case resp.StatusCode == http.StatusTooManyRequests:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return nil, &poll.ThrottledError{RetryAfter: time.Duration(seconds) * time.Second, Err: err}
	case resp.StatusCode == http.StatusForbidden:
		return nil, &poll.DeniedError{Action: "example.workloads.list", Err: err}
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("%w: %w", poll.ErrCredentials, err)
	}
	return nil, err
}

// sabotage is what a mutant of the adapter gets wrong.
type sabotage struct {
	readsOnePage, forgivesPages, hidesBadItems, ignoresBudget, ignoresContext, saysNoReasons, loops bool
}

func exampleRig(t *testing.T, s sabotage, within time.Duration) ListerRig {
	api := newExampleAPI(t)
	client := &http.Client{Transport: &http.Transport{}}
	return ListerRig{Lister: &exampleLister{base: api.server.URL, client: client, sabotage: s}, Scope: exampleScope,
		Serve:    func(_ *testing.T, w World) { api.Serve(w) },
		Requests: api.Requests, Action: "example.workloads.list", Close: client.CloseIdleConnections, Within: within}
}

func TestExampleLister(t *testing.T) {
	Lister(t, func(t *testing.T) ListerRig { return exampleRig(t, sabotage{}, 0) })
}
