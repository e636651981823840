package health

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// BenchmarkAttempt is one whole attempt over loopback, the answering side included: what a second's checks cost.
func BenchmarkAttempt(b *testing.B) {
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer web.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, grpchealth.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Stop(); <-served }()
	for kind, addr := range map[federation.CheckKind]string{federation.CheckTCP: web.Listener.Addr().String(),
		federation.CheckHTTP: web.Listener.Addr().String(), federation.CheckGRPC: l.Addr().String()} {
		k := &check{spec: federation.CheckSpec{Kind: kind}.Defaulted(), addr: netip.MustParseAddrPort(addr)}
		b.Run(string(kind), func(b *testing.B) {
			for b.Loop() {
				if o := ask(b.Context(), k); o.err != nil {
					b.Fatal(o.err)
				}
			}
		})
	}
}

// BenchmarkTTL is the end of one TTL and the heartbeat after it, among 10,000 TTL checks.
func BenchmarkTTL(b *testing.B) {
	c := New(Config{})
	for i := range 10_000 {
		c.Watch(federation.CheckTarget{Service: federation.ServiceName{Namespace: "default", Name: "web"},
			Instance: federation.InstanceID(strconv.Itoa(i)), Address: netip.MustParseAddrPort("192.0.2.1:80"),
			Checks: []federation.CheckSpec{{Kind: federation.CheckTTL, TTL: federation.Duration(time.Second)}}})
	}
	now, done := time.Now().Add(time.Hour), 0
	for b.Loop() {
		if done == 0 {
			c.turn(b.Context(), now) // every TTL has run out
		}
		c.Beat(federation.ServiceName{Namespace: "default", Name: "web"}, federation.InstanceID(strconv.Itoa(done)), federation.HealthPassing, "")
		done = (done + 1) % 10_000
	}
}
