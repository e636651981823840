package l7

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// told notes when a caller has left.
type told chan time.Time

func (l told) Left() { l <- time.Now() }

// watchedSession serves one connection with handle in virtual time, and returns the caller's end and what tells that the session has ended.
func watchedSession(handle func(*Exchange)) (caller net.Conn, ended chan struct{}) {
	caller, c := net.Pipe()
	ended = make(chan struct{})
	go func() {
		(&Server{Idle: time.Minute, Handle: handle}).NewSession(c).Run(context.Background())
		close(ended)
	}()
	return caller, ended
}

// TestLeavingIsNoticed has callers leave in the middle of a request that waits, before and after the head of its response.
func TestLeavingIsNoticed(t *testing.T) {
	for _, raw := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"} {
		for _, begun := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				left := make(told, 1)
				slow, more := io.Pipe()
				caller, ended := watchedSession(func(x *Exchange) {
					x.Watch(left)
					_, _ = io.Copy(io.Discard, x.Request.Body)
					if begun {
						go func() { _ = more.CloseWithError(fmt.Errorf("left %v ago", time.Since(<-left))) }()
						_, _ = x.Respond(&http.Response{StatusCode: 200, ContentLength: -1, Body: slow})
						return
					}
					if at := <-left; time.Since(at) > 0 {
						t.Error("too late")
					}
					x.Abort()
				})
				_, _ = io.WriteString(caller, raw)
				if begun {
					_, _ = http.ReadResponse(bufio.NewReader(caller), nil)
				}
				<-time.After(3 * time.Minute) // longer than anything else waits
				_ = caller.Close()
				begin := time.Now()
				<-ended
				if took := time.Since(begin); took > 0 {
					t.Errorf("noticed after %v", took)
				}
			})
		}
	}
}

// TestWhatIsSentEarlyIsKept has a caller send its next request, or the first octets of another protocol, while the first request waits.
func TestWhatIsSentEarlyIsKept(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			left := make(told, 1)
			caller, ended := watchedSession(func(x *Exchange) {
				x.Watch(left)
				<-time.After(wait)
				if x.Upgrade == "" {
					_, _ = x.Respond(Text(200, x.Request.RequestURI))
					return
				}
				c, err := x.Switch(&http.Response{StatusCode: 101, Header: http.Header{"Upgrade": {"echo"}}})
				if err != nil {
					t.Error(err)
					return
				}
				b := make([]byte, 5)
				_, _ = io.ReadFull(c, b)
				_, _ = c.Write(b)
				_ = c.Close()
			})
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				for _, target := range []string{"/1", "/2", "/3"} {
					_, _ = fmt.Fprintf(caller, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target)
					<-time.After(wait / 4)
				}
				_, _ = io.WriteString(caller, "GET /4 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				<-time.After(2 * wait)
				_, _ = io.WriteString(caller, "hello")
			}()
			in := bufio.NewReader(caller)
			for _, want := range []string{"/1\n", "/2\n", "/3\n"} {
				res, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(res.Body); string(body) != want || err != nil {
					t.Errorf("%q, %v, want %q", body, err, want)
				}
			}
			if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 101 {
				t.Fatal(res, err)
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(in, b); string(b) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
			<-ended
			<-sent
			if len(left) > 0 {
				t.Error("it is said to have left")
			}
			_ = caller.Close()
		})
	}
}
