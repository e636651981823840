package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen binds the same port for UDP and TCP.
func listen(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if tcp, err := net.Listen("tcp", udp.LocalAddr().String()); err == nil {
			return udp, tcp
		}
		_ = udp.Close() // somebody has the port for TCP
	}
}

// serve runs a DNS server for handle on loopback, over UDP and TCP, and returns its address.
func serve(t *testing.T, handle dns.HandlerFunc) string {
	t.Helper()
	udp, tcp := listen(t)
	var group sync.WaitGroup
	t.Cleanup(group.Wait)
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handle}, {Listener: tcp, Handler: handle}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		group.Go(func() { _ = s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return udp.LocalAddr().String()
}

func rr(t *testing.T, text string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// zone answers from a list of records, as an authoritative server.
func zone(t *testing.T, records ...string) dns.HandlerFunc {
	var all []dns.RR
	for _, r := range records {
		all = append(all, rr(t, r))
	}
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Authoritative = true
		for name, kind := r.Question[0].Name, r.Question[0].Qtype; name != ""; {
			next := ""
			for _, r := range all {
				if h := r.Header(); h.Name == name && (h.Rrtype == kind || h.Rrtype == dns.TypeCNAME) {
					m.Answer = append(m.Answer, r)
					if c, ok := r.(*dns.CNAME); ok {
						next = c.Target
					}
				}
			}
			name = next
		}
		_ = w.WriteMsg(m)
	}
}

type free struct{}

func (free) Wait(ctx context.Context) error { return ctx.Err() }

func list(t *testing.T, handle dns.HandlerFunc, n Name) (string, error) {
	t.Helper()
	n.Service = "web"
	l, err := New(Config{Servers: []string{serve(t, handle)}, Names: []Name{n}, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	scopes, _ := l.Scopes(t.Context())
	listing, err := l.List(t.Context(), scopes[0], free{})
	var out []string
	for _, r := range listing.Records {
		out = append(out, fmt.Sprintf("%v:%d*%d", r.Addresses[0], r.Ports[0].Number, r.Weight))
	}
	slices.Sort(out)
	if listing.Partial != nil {
		out = append(out, "partial: "+listing.Partial.Error())
	}
	return strings.Join(out, " "), err
}

func TestRecords(t *testing.T) {
	records := []string{
		"web.example.com. 30 A 192.0.2.1", "web.example.com. 30 A 192.0.2.2", "web.example.com. 30 AAAA 2001:db8::1", "other.example.com. 30 A 192.0.2.9",
		"alias.example.com. 30 CNAME web.example.com.", "loop.example.com. 30 CNAME loop.example.com.",
		"_http._tcp.example.com. 30 SRV 10 60 8080 a.example.com.", "_http._tcp.example.com. 30 SRV 10 40 8081 b.example.com.",
		"_http._tcp.example.com. 30 SRV 20 1 9999 spare.example.com.",
		"a.example.com. 30 A 192.0.2.10", "b.example.com. 30 AAAA 2001:db8::b",
		"_x._tcp.example.com. 30 SRV 0 0 80 gone.example.com.", "_x._tcp.example.com. 30 SRV 0 0 80 a.example.com.",
		"_none._tcp.example.com. 30 SRV 0 0 0 .",
	}
	records = slices.DeleteFunc(records, func(r string) bool { return strings.HasPrefix(r, "loop") })
	for _, c := range []struct {
		n    Name
		want string
	}{
		{Name{Name: "web.example.com", Port: 80}, "192.0.2.1:80*0 192.0.2.2:80*0"},
		{Name{Name: "WEB.example.com.", Type: "AAAA", Port: 80}, "2001:db8::1:80*0"},
		{Name{Name: "alias.example.com", Port: 80}, "192.0.2.1:80*0 192.0.2.2:80*0"},
		{Name{Name: "_http._tcp.example.com", Type: "SRV"}, "192.0.2.10:8080*60 2001:db8::b:8081*40"},
		{Name{Name: "_x._tcp.example.com", Type: "SRV"}, "192.0.2.10:80*0 partial: target gone.example.com. has no address"},
		{Name{Name: "_none._tcp.example.com", Type: "SRV"}, ""},
		{Name{Name: "nothing.example.com", Port: 80}, ""},
	} {
		if got, err := list(t, zone(t, records...), c.n); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.n.Name, got, err, c.want)
		}
	}
}

// TestAnswersThatSayNothing: none of them is an empty listing.
func TestAnswersThatSayNothing(t *testing.T) {
	reply := func(change func(q, m *dns.Msg)) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.Authoritative = true
			change(q, m)
			_ = w.WriteMsg(m)
		}
	}
	for name, handle := range map[string]dns.HandlerFunc{
		"SERVFAIL":         reply(func(_, m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }),
		"REFUSED":          reply(func(_, m *dns.Msg) { m.Rcode = dns.RcodeRefused }),
		"empty, no SOA":    reply(func(_, m *dns.Msg) { m.Authoritative = false }),
		"NXDOMAIN, no SOA": reply(func(_, m *dns.Msg) { m.Authoritative, m.Rcode = false, dns.RcodeNameError }),
	} {
		if got, err := list(t, handle, Name{Name: "web.example.com", Port: 80}); err == nil {
			t.Errorf("%s gives %q", name, got)
		}
	}
	foreign := reply(func(_, m *dns.Msg) { m.Answer = []dns.RR{rr(t, "evil.example.com. 30 A 192.0.2.66")} })
	if got, err := list(t, foreign, Name{Name: "web.example.com", Port: 80}); err != nil || got != "" {
		t.Errorf("records of another name give %q, %v", got, err)
	}
	soa := reply(func(_, m *dns.Msg) {
		m.Authoritative, m.Rcode = false, dns.RcodeNameError
		m.Ns = []dns.RR{rr(t, "example.com. 30 SOA ns.example.com. admin.example.com. 1 2 3 4 5")}
	})
	if got, err := list(t, soa, Name{Name: "web.example.com", Port: 80}); err != nil || got != "" {
		t.Errorf("a name that is not there gives %q, %v", got, err)
	}
}

func TestASecondServerIsAsked(t *testing.T) {
	broken := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
	good := serve(t, zone(t, "web.example.com. 30 A 192.0.2.1"))
	l, err := New(Config{Servers: []string{broken, good}, Names: []Name{{Name: "web.example.com", Port: 80, Service: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	scopes, _ := l.Scopes(t.Context())
	listing, err := l.List(t.Context(), scopes[0], free{})
	if err != nil || len(listing.Records) != 1 || listing.Calls != 2 {
		t.Errorf("%+v, %v", listing, err)
	}
}

// TestWatchFollowsTheTTL: a name with a TTL of one second is asked for again long before any interval.
func TestWatchFollowsTheTTL(t *testing.T) {
	var mu sync.Mutex
	address := "192.0.2.1"
	server := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		mu.Lock()
		defer mu.Unlock()
		zone(t, "web.example.com. 1 A "+address)(w, q)
	})
	l, err := New(Config{Servers: []string{server}, Names: []Name{{Name: "web.example.com", Port: 80, Service: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	scopes, _ := l.Scopes(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	told := make(chan netip.Addr, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- l.Watch(ctx, scopes[0], free{}, func(l poll.Listing) { told <- l.Records[0].Addresses[0] })
	}()
	if first := <-told; first.String() != address {
		t.Errorf("told %v", first)
	}
	mu.Lock()
	address = "192.0.2.2"
	mu.Unlock()
	for got := range told {
		if got.String() == "192.0.2.2" {
			break
		}
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("Watch ended without an error")
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	ok := Name{Name: "web.example.com", Port: 80, Service: "web"}
	for name, cfg := range map[string]Config{
		"no names": {}, "twice": {Names: []Name{ok, ok}}, "no port": {Names: []Name{{Name: "a.example.com", Service: "web"}}},
		"a port for SRV": {Names: []Name{{Name: "a.example.com", Type: "SRV", Port: 1, Service: "web"}}},
		"unknown type":   {Names: []Name{{Name: "a.example.com", Type: "MX", Port: 1, Service: "web"}}},
		"no service":     {Names: []Name{{Name: "a.example.com", Port: 1}}}, "no name": {Names: []Name{{Port: 1, Service: "web"}}},
		"bad server": {Servers: []string{"ns.example.com"}, Names: []Name{ok}},
	} {
		if cfg.Servers == nil {
			cfg.Servers = []string{"192.0.2.53:53"}
		}
		if _, err := New(cfg); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

// TestLister holds the adapter to the framework's contract.
func TestLister(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		player := &providertest.Player{}
		server := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.Authoritative = true
			items, fault := player.All()
			switch fault {
			case providertest.Deny:
				m.Rcode = dns.RcodeRefused
			case providertest.Unavailable:
				m.Rcode = dns.RcodeServerFailure
			case providertest.Hang:
				return // no answer is all that there is to see of it
			case providertest.Garbage:
				_, _ = w.Write([]byte("garbage"))
				return
			default:
				for _, i := range items {
					m.Answer = append(m.Answer, rr(t, fmt.Sprintf("web.example.com. 30 A %v", providertest.Address(i.N))))
				}
			}
			if _, datagram := w.RemoteAddr().(*net.UDPAddr); datagram {
				m.Truncate(udpSize)
			}
			_ = w.WriteMsg(m)
		})
		l, err := New(Config{Servers: []string{server}, Names: []Name{{Name: "web.example.com", Port: 8080, Service: "web"}}, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return providertest.ListerRig{Lister: l, Scope: poll.Scope{Provider: "dns", Kind: "a", Part: "web.example.com"},
			Serve: func(_ *testing.T, w providertest.World) { player.Serve(w) }, Requests: player.Requests, Action: "dns:query",
			Cost: func(w providertest.World) int {
				n := 0
				for _, p := range w.Pages {
					n += len(p.Items)
				}
				if n > 70 { // does not fit into a datagram
					return 2
				}
				return 1
			},
			Lacks: map[string]string{
				"gone": "an address is listed or not", "malformed": "a record that cannot be read makes the message unreadable",
				"throttle": "there is no such answer", "partial": "an answer is whole", "expired": "there are no credentials", "loop": "there are no pages",
			}}
	})
}
