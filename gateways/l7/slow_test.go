package l7

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowloris has a caller send one octet a second, as its first request and as a later one: it is cut off when a head's time is over,
// not when its octets stop.
func TestSlowloris(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, first := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			caller, c := net.Pipe()
			server := &Server{Idle: time.Minute, Handle: func(x *Exchange) { _, _ = x.Respond(Text(200, "ok")) }}
			ended := make(chan struct{})
			go func() { server.NewSession(c).Run(context.Background()); close(ended) }()
			answered := make(chan struct{})
			go func() { _, _ = io.Copy(io.Discard, caller); close(answered) }()
			if !first {
				if _, err := io.WriteString(caller, request); err != nil {
					t.Fatal(err)
				}
				<-time.After(30 * time.Second) // at rest, which is allowed
			}
			begin := time.Now()
			for {
				if _, err := io.WriteString(caller, "G"); err != nil {
					break
				}
				<-time.After(time.Second)
			}
			<-ended
			if took := time.Since(begin); took < headTimeout || took > headTimeout+3*time.Second {
				t.Errorf("first=%v: cut off after %v", first, took)
			}
			_ = caller.Close()
			<-answered
		})
	}
}

// TestSlowBody has a caller stop in the middle of a body, and another one not read the response: both are cut off after the idle timeout.
func TestSlowBody(t *testing.T) {
	const idle = time.Minute
	for name, raw := range map[string]string{
		"request":  "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
		"response": "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			caller, c := net.Pipe()
			server := &Server{Idle: idle, Handle: func(x *Exchange) {
				if _, err := io.Copy(io.Discard, x.Request.Body); err != nil {
					x.Abort()
					return
				}
				_, _ = x.Respond(Text(200, "ok"))
			}}
			ended := make(chan struct{})
			begin := time.Now()
			go func() { server.NewSession(c).Run(context.Background()); close(ended) }()
			if _, err := io.WriteString(caller, raw); err != nil {
				t.Fatal(err)
			}
			<-ended
			if took := time.Since(begin); took < idle*7/8 || took > idle+lingerTimeout {
				t.Errorf("%s: cut off after %v", name, took)
			}
			_ = caller.Close()
		})
	}
}
