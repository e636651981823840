package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// script is a Consul that answers as a test says, without a network, so that time can be the test's.
type script struct {
	mu       sync.Mutex
	index    uint64
	own      map[string]uint64 // index by service, where it is not the other one
	services map[string][]any  // instances by service; "consul" is always there
	fault    func(path string, index uint64) *fault
	changed  chan struct{} // closed and replaced with each change
	asked    []asked
	open     int // blocking queries now
	mostOpen int
}

// asked is one request.
type asked struct {
	at    time.Time
	path  string
	index uint64
	token string
	query map[string][]string
}

// fault is an answer in place of the usual one.
type fault struct {
	status int // 0: the usual answer, with header
	text   string
	header map[string]string
	hang   bool
	fail   error // of the connection
}

func newScript() *script {
	return &script{index: 10, services: map[string][]any{"consul": {}}, changed: make(chan struct{})}
}

// set changes the world: a new index, and the instances of a service; none removes it.
func (s *script) set(index uint64, service string, instances ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index = index; len(instances) == 0 {
		delete(s.services, service)
	} else {
		s.services[service] = instances
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// meet makes requests meet a fault where f returns one.
func (s *script) meet(f func(path string, index uint64) *fault) {
	s.mu.Lock()
	s.fault = f
	close(s.changed) // those that wait meet it too
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

// requests returns the requests since the last call, of those whose path ends so.
func (s *script) requests(end string) (out []asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if len(a.path) >= len(end) && a.path[len(a.path)-len(end):] == end {
			out = append(out, a)
		}
	}
	s.asked = nil
	return out
}

// at returns the index of an answer. The caller holds s.mu.
func (s *script) at(path string) uint64 {
	if index, own := s.own[strings.TrimPrefix(path, "/v1/health/service/")]; own {
		return index
	}
	return s.index
}

// RoundTrip implements http.RoundTripper.
func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	index, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(q.Get("wait"))
	s.mu.Lock()
	s.asked = append(s.asked, asked{time.Now(), r.URL.Path, index, r.Header.Get("X-Consul-Token"), q})
	s.mu.Unlock()
	if index > 0 {
		if err := s.block(r, index, wait); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := httptest.NewRecorder()
	w.Header().Set("X-Consul-KnownLeader", "true")
	w.Header().Set("X-Consul-LastContact", "0")
	w.Header().Set("X-Consul-Index", fmt.Sprint(s.at(r.URL.Path)))
	if s.fault != nil {
		if f := s.fault(r.URL.Path, index); f != nil {
			if f.hang {
				s.mu.Unlock()
				<-r.Context().Done()
				s.mu.Lock()
				return nil, r.Context().Err()
			}
			if f.fail != nil {
				return nil, f.fail
			}
			for k, v := range f.header {
				w.Header().Set(k, v)
			}
			if f.status != 0 {
				w.WriteHeader(f.status)
				io.WriteString(w, f.text)
				return w.Result(), nil
			}
		}
	}
	s.serve(w, r.URL.Path)
	return w.Result(), nil
}

func (s *script) serve(w *httptest.ResponseRecorder, path string) {
	if path == "/v1/catalog/services" {
		names := map[string][]string{}
		for name := range s.services {
			names[name] = []string{"a"}
		}
		json.NewEncoder(w).Encode(names)
		return
	}
	list := s.services[path[len("/v1/health/service/"):]]
	json.NewEncoder(w).Encode(slices.Concat([]any{}, list))
}

// block waits as a blocking query does. It answers at a restored index too, as the waits of a restarted server break off.
func (s *script) block(r *http.Request, index uint64, wait time.Duration) error {
	s.mu.Lock()
	s.open++
	s.mostOpen = max(s.mostOpen, s.open)
	now, changed := s.at(r.URL.Path), s.changed
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.open--; s.mu.Unlock() }()
	if now > index {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	return nil
}

// lister returns a lister of the script.
func (s *script) lister(t testing.TB, cfg Config) *Lister {
	t.Helper()
	cfg.Datacenters = []string{"dc1"}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.client.http.Transport = bounded{s}
	return l
}

// heard is what a watch has told.
type heard struct {
	mu   sync.Mutex
	list []poll.Listing
	at   []time.Time
}

func (h *heard) tell(l poll.Listing) {
	h.mu.Lock()
	h.list, h.at = append(h.list, l), append(h.at, time.Now())
	h.mu.Unlock()
}

// last returns the newest listing, and when it was told.
func (h *heard) last(t testing.TB) (poll.Listing, time.Time) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.list) == 0 {
		t.Fatal("nothing was told")
	}
	return h.list[len(h.list)-1], h.at[len(h.at)-1]
}

// all returns what was told, and when.
func (h *heard) all() ([]poll.Listing, []time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list), slices.Clone(h.at)
}

func (h *heard) count() int { list, _ := h.all(); return len(list) }

// startWatch runs a watch until the returned function is called, which returns its error.
func startWatch(l *Lister) (*heard, func() error) {
	h, ended := &heard{}, make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- l.Watch(ctx, dc1, nil, h.tell) }()
	return h, func() error { cancel(); return <-ended }
}
