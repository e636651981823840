package health

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// TestTLS asks servers whose certificate is for 127.0.0.1 and example.com and signed by none of the system's roots.
func TestTLS(t *testing.T) {
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/", http.StatusFound)
		}
	}))
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // handshakes fail on purpose
	web.StartTLS()
	defer web.Close()
	dir := t.TempDir()
	ca, empty, pipe := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "empty.pem"), filepath.Join(dir, "pipe.pem")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	for file, content := range map[string][]byte{ca: certificate, empty: nil} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addresses := map[federation.CheckKind]string{federation.CheckHTTP: web.Listener.Addr().String(),
		federation.CheckTCP: web.Listener.Addr().String(), federation.CheckGRPC: serveGRPC(t, web.TLS.Certificates[0])}
	for kind, address := range addresses {
		for _, c := range []struct {
			spec federation.CheckSpec
			want string
		}{
			{federation.CheckSpec{TLSCAFile: ca}, ""},
			{federation.CheckSpec{TLSCAFile: ca, TLSServerName: "example.com"}, ""},
			{federation.CheckSpec{TLSCAFile: ca, Host: "example.com:443"}, ""},
			{federation.CheckSpec{TLSSkipVerify: true, TLSServerName: "shop.example.net"}, ""},
			{federation.CheckSpec{TLSCAFile: ca, TLSServerName: "shop.example.net"}, "not shop.example.net"},
			{federation.CheckSpec{TLSCAFile: ca, TLSServerName: "example.com", Host: "shop.example.net"}, ""},
			{federation.CheckSpec{}, "x509: certificate signed by unknown authority"},
			{federation.CheckSpec{TLSCAFile: empty}, "holds no certificate"},
			{federation.CheckSpec{TLSCAFile: filepath.Join(dir, "none.pem")}, "read tls_ca_file"},
			{federation.CheckSpec{TLSCAFile: pipe}, "is not a regular file"}, // and nobody waits for its writer
			{federation.CheckSpec{TLSCAFile: "/dev/zero"}, "is not a regular file"},
		} {
			c.spec.Kind, c.spec.TLS = kind, true
			if err := c.spec.Validate(); err != nil {
				t.Fatal(err)
			}
			o := try(t, c.spec, address)
			if got := fmt.Sprint(o.err); o.err == nil && c.want != "" || o.err != nil && (c.want == "" || !strings.Contains(got, c.want)) {
				t.Errorf("%s %+v: %v, want %q", kind, c.spec, o.err, c.want)
			}
		}
	}
	if o := try(t, federation.CheckSpec{Kind: federation.CheckHTTP, Path: "/moved", TLS: true, TLSCAFile: ca}, addresses[federation.CheckHTTP]); o.err == nil {
		t.Error("a redirect passes over TLS")
	}
	if o := try(t, federation.CheckSpec{Kind: federation.CheckHTTP}, addresses[federation.CheckHTTP]); o.err == nil {
		t.Error("a question without TLS passes at a server with TLS")
	}
}

func serveGRPC(t *testing.T, certificate tls.Certificate) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
	healthpb.RegisterHealthServer(server, grpchealth.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-served })
	return l.Addr().String()
}
