package mesh_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// talk is a behaviour of two programs: each does its part and says what it saw.
type talk struct {
	name           string
	client, server func(c *net.TCPConn) string
}

// talks are what programs do with TCP besides asking and answering.
var talks = []talk{
	{"answer after the client's end", func(c *net.TCPConn) string { return send(c, 1<<20) + ended(c) + rest(c) },
		func(c *net.TCPConn) string { return rest(c) + send(c, 3<<20) + ended(c) }},
	{"the server ends first and listens on", func(c *net.TCPConn) string { return rest(c) + send(c, 1<<20) + ended(c) },
		func(c *net.TCPConn) string { return ended(c) + rest(c) }},
	{"only the client sends", func(c *net.TCPConn) string { return send(c, 5<<20) + ended(c) + rest(c) }, rest},
	{"only the server sends", rest, func(c *net.TCPConn) string { return send(c, 5<<20) + ended(c) + rest(c) }},
	{"nothing is sent", func(c *net.TCPConn) string { return ended(c) + rest(c) }, rest},
	{"the server resets", func(c *net.TCPConn) string { return send(c, 1) + get(c, 1) + send(c, 1) + rest(c) },
		func(c *net.TCPConn) string { return get(c, 1) + send(c, 1) + get(c, 1) + reset(c) }},
	{"the client resets", func(c *net.TCPConn) string { return send(c, 1) + get(c, 1) + reset(c) },
		func(c *net.TCPConn) string { return get(c, 1) + send(c, 1) + rest(c) }},
	{"the client resets behind its end", func(c *net.TCPConn) string { return send(c, 1) + ended(c) + get(c, 1) + reset(c) },
		func(c *net.TCPConn) string { return rest(c) + send(c, 1) + untilItFails(c) }},
	{"the server goes while the client sends", func(c *net.TCPConn) string { return get(c, 1) + untilItFails(c) },
		func(c *net.TCPConn) string { return send(c, 1) + closed(c) }},
	{"one octet at a time", func(c *net.TCPConn) string { return turns(c, send, get) }, func(c *net.TCPConn) string { return turns(c, get, send) }},
}

// TestLikeADirectConnection holds that both programs see the same over the mesh as they see of each other directly.
func TestLikeADirectConnection(t *testing.T) {
	noLeaks(t)
	served := make(chan func(*net.TCPConn) string, 1)
	said := make(chan string, 1)
	address := instance(t, func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		said <- (<-served)(c)
	})
	both := func(t *testing.T, to string, of talk) string {
		t.Helper()
		served <- of.server
		c := dial(t, to)
		client := of.client(c)
		_ = c.Close()
		select {
		case server := <-said:
			return "client: " + client + "\nserver: " + server
		case <-time.After(25 * time.Second):
			t.Fatal("the server does not end")
			return ""
		}
	}
	want := map[string]string{}
	for _, of := range talks {
		want[of.name] = both(t, address, of)
	}
	for _, lanes := range [][]string{nil, {tunnel.LaneQUIC}, {tunnel.LaneTCP}} {
		aws, _ := quicPair(t, address, lanes...)
		to := aws.upstream("to-shop", "shop")
		for _, of := range talks {
			t.Run(fmt.Sprint(of.name, lanes), func(t *testing.T) {
				if got := both(t, to, of); got != want[of.name] {
					t.Errorf("through the mesh\n%s\ndirectly\n%s", got, want[of.name])
				}
			})
		}
	}
}

// send writes n octets, the same each time.
func send(c *net.TCPConn, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	sent, err := c.Write(b)
	return fmt.Sprintf("sent %d %s; ", sent, outcome(err))
}

// get reads n octets.
func get(c *net.TCPConn, n int) string {
	got, err := io.ReadFull(c, make([]byte, n))
	return fmt.Sprintf("got %d %s; ", got, outcome(err))
}

// rest reads all that comes.
func rest(c *net.TCPConn) string {
	sum := sha256.New()
	n, err := io.Copy(sum, c)
	if err != nil { // how much of it arrived before a reset, nothing promises
		return outcome(err) + "; "
	}
	return fmt.Sprintf("then %d octets %.4x to the end; ", n, sum.Sum(nil))
}

// ended says that nothing more is sent.
func ended(c *net.TCPConn) string { return "ended " + outcome(c.CloseWrite()) + "; " }

// closed goes away in an orderly way.
func closed(c *net.TCPConn) string { return "closed " + outcome(c.Close()) + "; " }

// reset goes away at once.
func reset(c *net.TCPConn) string {
	return "reset " + outcome(errors.Join(c.SetLinger(0), c.Close())) + "; "
}

// untilItFails writes for as long as anybody takes it.
func untilItFails(c *net.TCPConn) string {
	b := make([]byte, 64<<10)
	for {
		if _, err := c.Write(b); err != nil {
			return "writing ended with " + outcome(err) + "; "
		}
	}
}

func turns(c *net.TCPConn, first, second func(*net.TCPConn, int) string) (said string) {
	for range 100 {
		said += first(c, 1) + second(c, 1)
	}
	return said
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "well"
	case isReset(err):
		return "a reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the end"
	}
	return err.Error()
}
