package tunnel

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
)

func TestClassify(t *testing.T) {
	id := func(c class) []byte {
		cid, err := connIDs(c).GenerateConnectionID()
		if err != nil {
			t.Fatal(err)
		}
		return cid.Bytes()
	}
	long := func(dst, src []byte) []byte {
		b := append([]byte{0xc0, 0, 0, 0, 1, byte(len(dst))}, dst...)
		return append(append(b, byte(len(src))), src...)
	}
	for name, c := range map[string]struct {
		packet []byte
		want   class
	}{
		"empty":                   {nil, 0},
		"short header":            {append(append([]byte{0x40}, id(classFlow)...), 1, 2, 3), classFlow},
		"short header, exchange":  {append([]byte{0x40}, id(classExchange)...), classExchange},
		"short header, cut":       {[]byte{0x40, 1, 2}, 0},
		"short header, no class":  {append([]byte{0x40}, 9, 0, 0, 0, 0, 0, 0), 0},
		"first of a client":       {long(make([]byte, 8), id(classExchange)), classExchange},
		"first, longest":          {long(make([]byte, 20), id(classJoin)), classJoin},
		"later":                   {long(id(classFlow), id(classExchange)), classFlow},
		"answer to a client":      {long(id(classExchange), id(classFlow)), classExchange},
		"stranger":                {long(make([]byte, 8), make([]byte, 4)), classJoin},
		"stranger without ID":     {long(make([]byte, 8), nil), classJoin},
		"class that is not known": {long(make([]byte, 8), []byte{7, 0, 0, 0, 0, 0, 0}), classJoin},
		"long header, cut":        {[]byte{0xc0, 0, 0, 0, 1}, classJoin},
		"length beyond the end":   {[]byte{0xc0, 0, 0, 0, 1, 200, 1}, classJoin},
	} {
		if got := classify(c.packet); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte{0xc0, 0, 0, 0, 1, 7, 1, 2, 3, 4, 5, 6, 7, 0})
	f.Add([]byte{0x40, 2, 2, 3, 4, 5, 6, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		if c := classify(b); c > classJoin {
			t.Errorf("class %d", c)
		}
	})
}

func TestGateBoundsOneSource(t *testing.T) {
	g := newGate(classFlow)
	g.perSource = 3
	info := &quic.ClientInfo{RemoteAddr: &net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1}}
	neighbour := &quic.ClientInfo{RemoteAddr: &net.UDPAddr{IP: net.ParseIP("2001:db8::ffff"), Port: 2}} // the same /64
	other := &quic.ClientInfo{RemoteAddr: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 3}}
	ctx, cancel := context.WithCancel(t.Context())
	for _, i := range []*quic.ClientInfo{info, neighbour, info} {
		if _, err := g.admit(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.admit(ctx, neighbour); err == nil {
		t.Error("a fourth connection of one source")
	}
	admitted, err := g.admit(ctx, other)
	if err != nil {
		t.Errorf("another source: %v", err)
	}
	established(admitted)
	established(admitted)
	if g.handshaking != 3 || g.admitted != 4 {
		t.Errorf("%d handshakes, %d connections", g.handshaking, g.admitted)
	}
	cancel()
	for {
		g.mu.Lock()
		left := g.admitted + g.handshaking + len(g.bySource)
		g.mu.Unlock()
		if left == 0 {
			break
		}
	}
}

func TestGateAsksForProofWhenCrowded(t *testing.T) {
	g := newGate(classFlow)
	for i := range unvalidatedLimit {
		if g.mustValidate(nil) {
			t.Fatalf("proof asked for with %d handshakes under way", i)
		}
		if _, err := g.admit(t.Context(), &quic.ClientInfo{RemoteAddr: &net.UDPAddr{IP: net.IPv4(192, 0, 2, byte(i))}}); err != nil {
			t.Fatal(err)
		}
	}
	if !g.mustValidate(nil) {
		t.Error("no proof asked for")
	}
}

func TestSmallBuffersAreReportedOnce(t *testing.T) {
	var out bytes.Buffer
	transport := &Transport{log: slog.New(slog.NewTextHandler(&out, nil)), sockets: []*socket{{buffer: 0}, {buffer: 4 << 20}}}
	transport.reportBuffers()
	if out.Len() > 0 {
		t.Errorf("large enough, or unknown: %s", &out)
	}
	transport.sockets = append(transport.sockets, &socket{buffer: 208 << 10}, &socket{buffer: 208 << 10})
	transport.reportBuffers()
	if line := out.String(); strings.Count(line, "\n") != 1 || !strings.Contains(line, "net.core.rmem_max=7340032") ||
		!strings.Contains(line, "granted=\"208 KiB\"") {
		t.Errorf("logged %q", line)
	}
}
