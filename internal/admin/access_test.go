package admin

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestRefusals(t *testing.T) {
	w := start(t, nil)
	const status = "/tradewind.v1.Admin/Status"
	for _, c := range []struct {
		name   string
		path   string
		body   string
		change func(*http.Request)
		code   int
		want   []string
	}{
		{"no token", status, "{}", func(r *http.Request) { r.Header.Del("Authorization") }, 401, []string{"TW-8004", "no bearer token",
			"unauthenticated"}},
		{"wrong token", status, "{}", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+strings.Repeat("A", 43)) }, 401,
			[]string{"TW-8004", "not this gateway's"}},
		{"token as basic", status, "{}", func(r *http.Request) { r.Header.Set("Authorization", "Basic "+w.token) }, 401,
			[]string{"TW-8004"}},
		{"rebound name", status, "{}", func(r *http.Request) { r.Host = "attacker.example.com" }, 403, []string{"TW-8005",
			"attacker.example.com"}},
		{"rebound name with port", status, "{}", func(r *http.Request) { r.Host = "127.0.0.1.example.com:8480" }, 403, []string{"TW-8005"}},
		{"empty host", status, "{}", func(r *http.Request) { r.Host = "0.0.0.0" }, 403, []string{"TW-8005"}},
		{"foreign page", status, "{}", func(r *http.Request) { r.Header.Set("Origin", "https://attacker.example.com") }, 403,
			[]string{"TW-8005", "another origin"}},
		{"cross-site", status, "{}", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403, []string{"TW-8005"}},
		{"unknown field", status, `{"reigon":"x"}`, nil, 400, []string{"invalid_argument", "reigon"}},
		{"two values", status, `{}{}`, nil, 400, []string{"more than one value"}},
		{"unknown field of a resource", "/tradewind.v1.Admin/ApplyResources",
			`{"owner":"x","put":[{"kind":"export","name":"a","spec":{"too":["b"]}}]}`, nil, 400, []string{"too"}},
		{"form", status, "a=b", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, 415, nil},
		{"get", status, "", func(r *http.Request) { r.Method = http.MethodGet }, 405, nil},
		{"unknown method", "/tradewind.v1.Admin/Nope", "{}", nil, 404, nil},
		{"backend left out", "/tradewind.v1.Admin/Reload", "{}", nil, 404, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, answer := w.post(t, c.path, c.body, c.change)
			if code != c.code {
				t.Errorf("status %d, want %d: %s", code, c.code, answer)
			}
			for _, want := range c.want {
				if !strings.Contains(answer, want) {
					t.Errorf("answer lacks %q: %s", want, answer)
				}
			}
		})
	}
}

func TestOversizeBody(t *testing.T) {
	w := start(t, nil)
	code, answer := w.post(t, "/tradewind.v1.Admin/Status", `{"x":"`+strings.Repeat("a", maxBody)+`"}`, nil)
	if code != 429 || !strings.Contains(answer, "TW-8006") { // Connect's status for resource_exhausted
		t.Errorf("%d %.200s", code, answer)
	}
	// Without a token nothing is read at all.
	code, answer = w.post(t, "/tradewind.v1.Admin/Status", strings.Repeat("a", 1<<20),
		func(r *http.Request) { r.Header.Del("Authorization") })
	if code != 401 {
		t.Errorf("%d %.200s", code, answer)
	}
}

// TestNobodyHoldsAConnection: who sends half of a request is answered and let go, also one who has no token.
func TestNobodyHoldsAConnection(t *testing.T) {
	w := start(t, nil)
	token, err := ReadToken(w.tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	server := w.Server.http(w.Server.onLoopback(w.api))
	if server.ReadTimeout <= 0 || server.WriteTimeout <= 0 || server.IdleTimeout <= 0 {
		t.Fatalf("a server without limits: %v, %v, %v", server.ReadTimeout, server.WriteTimeout, server.IdleTimeout)
	}
	server.ReadHeaderTimeout, server.ReadTimeout = 200*time.Millisecond, 200*time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() { _ = server.Close(); <-done }()
	const rest = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
	for name, c := range map[string]struct{ request, want string }{
		"half a header":      {"POST /tradewind.v1.Admin/Status HT", ""},
		"no token":           {"POST /tradewind.v1.Admin/Status HTTP/1.1\r\n" + rest + "\r\n", " 401 "},
		"foreign host":       {"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100\r\n\r\n", " 403 "},
		"probe with a body":  {"GET /livez HTTP/1.1\r\n" + rest + "\r\n", " 200 "},
		"token, half a body": {"POST /tradewind.v1.Admin/Status HTTP/1.1\r\n" + rest + "Authorization: Bearer " + token + "\r\n\r\n{", "TW-8006"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(c.request)); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn) // ends when the server closes the connection
			if errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(string(answer), c.want) {
				t.Errorf("%v, answer %q", err, answer[:min(len(answer), 200)])
			}
		})
	}
}

func TestSocketCredentials(t *testing.T) {
	w := start(t, nil)
	w.Server.socket.uids = []uint32{4242} // nobody who runs this test
	_, err := w.onSocket(t).Status(t.Context(), &StatusRequest{})
	if federation.CodeOf(err) != "TW-8003" || !errors.Is(err, ErrRefused) {
		t.Fatalf("error %v", err)
	}
	if !strings.Contains(err.Error(), fmt.Sprintf("user %d", os.Geteuid())) {
		t.Errorf("the error does not name the user: %v", err)
	}
	w.Server.socket.group = os.Getegid()
	if _, err := w.onSocket(t).Status(t.Context(), &StatusRequest{}); err != nil {
		t.Errorf("a member of the group is refused: %v", err)
	}
}

func TestSocketAccess(t *testing.T) {
	a := socketAccess{uids: []uint32{0, 990}, group: -1}
	b := socketAccess{uids: []uint32{0, 990}, group: 700}
	for _, c := range []struct {
		access socketAccess
		peer   credentials
		want   bool
	}{
		{a, credentials{uid: 0}, true}, {a, credentials{uid: 990}, true}, {a, credentials{uid: 1000, groups: []uint32{0, 700}}, false},
		{b, credentials{uid: 1000, groups: []uint32{100, 700}}, true}, {b, credentials{uid: 1000, groups: []uint32{100}}, false}, {b,
			credentials{uid: 0}, true},
	} {
		if got := c.access.allows(c.peer); (got == nil) != c.want {
			t.Errorf("%+v allows %+v: %v", c.access, c.peer, got)
		}
	}
}

func TestSocketMode(t *testing.T) {
	w := start(t, nil)
	if mode := statMode(t, w.socket); mode != 0o600 {
		t.Errorf("mode %04o", mode)
	}
	grouped := start(t, func(c *Config) { c.Group = fmt.Sprint(os.Getegid()) })
	if mode := statMode(t, grouped.socket); mode != 0o660 {
		t.Errorf("with a group: mode %04o", mode)
	}
	// The data directory is its owner's alone; members of the group reach the socket in it and see nothing else.
	if mode := statMode(t, filepath.Dir(grouped.socket)); mode != 0o710 {
		t.Errorf("the directory with a group: mode %04o", mode)
	}
	if mode := statMode(t, filepath.Dir(w.socket)); mode != 0o700 {
		t.Errorf("the directory without one: mode %04o", mode)
	}
	if mode := statMode(t, w.tokenFile); mode != 0o600 {
		t.Errorf("token: mode %04o", mode)
	}
	if _, err := New(Config{Group: "no-such-group-here"}); federation.CodeOf(err) != "TW-8013" {
		t.Errorf("unknown group: %v", err)
	}
}

func statMode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestStaleSocketIsRemovedAndALiveOneIsNot(t *testing.T) {
	w := start(t, nil)
	second, err := New(Config{Socket: w.socket})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Listen(t.Context()); federation.CodeOf(err) != "TW-8008" || !strings.Contains(err.Error(), "answers") {
		t.Errorf("a second server on the socket: %v", err)
	}
	if _, err := w.onSocket(t).Status(t.Context(), &StatusRequest{}); err != nil {
		t.Errorf("the first server was disturbed: %v", err)
	}
	stale := filepath.Join(w.dir, "stale.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: stale}), syscall.Close(fd)); err != nil {
		t.Fatal(err)
	}
	third, err := New(Config{Socket: stale})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(third.Listen(t.Context()), third.closeListeners()); err != nil {
		t.Errorf("a stale socket is in the way: %v", err)
	}
	file := filepath.Join(w.dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	fourth, err := New(Config{Socket: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := fourth.Listen(t.Context()); federation.CodeOf(err) != "TW-8008" {
		t.Errorf("a file in the way: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

func TestOnlyLoopback(t *testing.T) {
	for _, address := range []string{":8480", "0.0.0.0:8480", "[::]:8480", "192.0.2.1:8480", "example.com:80", "localhost:8480",
		"127.0.0.1"} {
		if _, err := New(Config{Listen: address, TokenFile: filepath.Join(t.TempDir(), "t")}); federation.CodeOf(err) != "TW-8009" {
			t.Errorf("%s: %v", address, err)
		}
	}
	for host, want := range map[string]bool{"127.0.0.1": true, "127.0.0.1:8480": true, "[::1]:80": true, "[::1]": true,
		"localhost:1": true, "127.9.9.9": true,
		"example.com": false, "": false, "localhost.example.com": false, "0.0.0.0:80": false, "[::ffff:192.0.2.1]:80": false} {
		if loopbackHost(host) != want {
			t.Errorf("loopbackHost(%q) = %v", host, !want)
		}
	}
}

func TestPortInUse(t *testing.T) {
	w := start(t, nil)
	s, err := New(Config{Socket: filepath.Join(w.dir, "b.sock"), Listen: w.Addr().String(), TokenFile: w.tokenFile})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); federation.CodeOf(err) != "TW-8010" {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(filepath.Join(w.dir, "b.sock")); err == nil {
		t.Error("the socket stayed bound")
	}
}

func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", TokenFile)
	first, err := loadToken(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := loadToken(path); err != nil || again != first {
		t.Errorf("read again: %q, %v", again, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := loadToken(path); federation.CodeOf(err) != "TW-8012" {
		t.Errorf("a token that everybody may read: %v", err)
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadToken(path); federation.CodeOf(err) != "TW-8012" {
		t.Errorf("no token: %v", err)
	}
}
