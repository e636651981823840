package admin

import (
	"context"
	"errors"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestLoopbackMoves holds that a call on the address that is given up is answered, that the next one goes to the new address with
// the same token, and that an address can be given up and taken again.
func TestLoopbackMoves(t *testing.T) {
	w := start(t, nil)
	token, err := ReadToken(w.tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	called, moved := make(chan struct{}), make(chan struct{})
	w.g.status = func(context.Context) (*Status, error) {
		close(called)
		<-moved
		return &Status{Region: "here"}, nil
	}
	before, old, answered := w.Addr().String(), w.onTCP(t, token), make(chan error, 1)
	go func() {
		_, err := old.Status(t.Context(), &StatusRequest{})
		answered <- err
	}()
	<-called
	if _, err := w.BindLoopback(t.Context(), "192.0.2.1:80"); federation.CodeOf(err) != "TW-8009" {
		t.Errorf("an address of another host: %v", err)
	}
	if _, err := w.BindLoopback(t.Context(), before); federation.CodeOf(err) != "TW-8010" {
		t.Errorf("an address in use: %v", err)
	}
	l, err := w.BindLoopback(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.SetLoopback(l)
	close(moved)
	if err := <-answered; err != nil {
		t.Errorf("a call that ran: %v", err)
	}
	w.g.status = func(context.Context) (*Status, error) { return &Status{Region: "here"}, nil }
	if w.Addr().String() != l.Addr().String() {
		t.Errorf("Addr is %v", w.Addr())
	}
	if _, err := w.onTCP(t, token).Status(t.Context(), &StatusRequest{}); err != nil {
		t.Errorf("at the new address: %v", err)
	}
	if _, err := w.client(t, Target{Address: before, Token: token}).Status(t.Context(), &StatusRequest{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("at the old address: %v", err)
	}
	w.SetLoopback(nil)
	if w.Addr() != nil {
		t.Errorf("without an address, Addr is %v", w.Addr())
	}
	if l, err = w.BindLoopback(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	w.SetLoopback(l)
	if _, err := w.onTCP(t, token).Status(t.Context(), &StatusRequest{}); err != nil {
		t.Errorf("at the first address again: %v", err)
	}
}
