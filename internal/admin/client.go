package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Target says which gateway a client talks to: the one at Address when it is set, else the one behind Socket.
type Target struct {
	Socket  string
	Address string // "127.0.0.1:8480"
	Token   string // needed with Address

	Timeout time.Duration // of each call, within what its context allows; 0: none
}

// String names the target as messages do.
func (t Target) String() string {
	if t.Address != "" {
		return t.Address
	}
	return "unix:" + t.Socket
}

// Client calls a gateway's API. It implements every backend interface of this package. Errors are *federation.Diagnostic; they
// match ErrUnreachable, ErrTimeout, ErrRefused, ErrInvalid, ErrNotFound or ErrConflict where one applies. A call lasts as
// long as its context allows. It is safe for concurrent use.
type Client struct {
	target    Target
	http      *http.Client
	base      string
	connected atomic.Bool // at some time
}

var _ interface {
	Answers
	Services
	Resources
	Peerings
	Certificates
	Instances
	Process
	Providers
	Ingresses
	Failover
} = (*Client)(nil)

const dialTimeout = 3 * time.Second // a local socket is accepted by the kernel at once, or not at all

// NewClient returns a client for target. It connects when it is first used; Close ends its idle connections.
func NewClient(target Target) *Client {
	c := &Client{target: target, base: "http://tradewind"}
	dialer := net.Dialer{Timeout: dialTimeout}
	network, address := "unix", target.Socket
	if target.Address != "" {
		network, address = "tcp", target.Address
		c.base = "http://" + target.Address
	}
	c.http = &http.Client{Transport: &http.Transport{
		// Proxy is left out on purpose: HTTP_PROXY must never see the token.
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err == nil {
				c.connected.Store(true)
			}
			return conn, err
		},
	}}
	return c
}

// Close ends the client's idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Target returns whom c talks to.
func (c *Client) Target() Target { return c.target }

func (c *Client) options() []connect.ClientOption {
	return []connect.ClientOption{connect.WithCodec(codec{name: "json"}), connect.WithAcceptCompression("gzip", nil, nil)}
}

// call makes one call of a method.
func call[Req, Res any](ctx context.Context, c *Client, name string, r *Req) (*Res, error) {
	start, waitingFor := time.Now(), methods[name].waitingFor
	if wait, ok := any(r).(*PeerWaitRequest); ok {
		waitingFor = fmt.Sprintf("%s to be %v", wait.Peer, wait.State)
	}
	ctx, cancel := c.bound(ctx)
	defer cancel()
	request := connect.NewRequest(r)
	c.authorize(request.Header())
	response, err := connect.NewClient[Req, Res](c.http, c.base+procedure(name), c.options()...).CallUnary(ctx, request)
	if err != nil {
		return nil, c.explain(ctx, start, waitingFor, err)
	}
	return response.Msg, nil
}

// bound applies the target's timeout.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.target.Timeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.target.Timeout)
}

func (c *Client) authorize(h http.Header) {
	if c.target.Token != "" {
		h.Set("Authorization", "Bearer "+c.target.Token)
	}
}

// explain turns an error of a call that began at start into a diagnostic.
func (c *Client) explain(ctx context.Context, start time.Time, waitingFor string, err error) error {
	if connect.IsWireError(err) { // the gateway answered
		var answer *connect.Error
		errors.As(err, &answer)
		if answer.Code() == connect.CodeDeadlineExceeded && len(answer.Details()) == 0 {
			return c.timeout(ctx, start, waitingFor, err)
		}
		return received(answer)
	}
	var dial *net.OpError
	switch {
	case errors.As(err, &dial) && dial.Op == "dial" && ctx.Err() == nil:
		return c.unreachable(err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded), connect.CodeOf(err) == connect.CodeDeadlineExceeded:
		return c.timeout(ctx, start, waitingFor, err)
	case ctx.Err() != nil:
		return &federation.Diagnostic{Code: "TW-8015", What: "interrupted while waiting for " + waitingFor,
			Why: "the call was cancelled here", Fix: "look at what was done: tradewind status", Err: fmt.Errorf("%w: %w", ctx.Err(), err)}
	}
	var answer *connect.Error
	// A read or a write that failed, an answer that was cut off: whatever Connect makes of it, the gateway did not answer.
	broken := dial != nil || errors.Is(err, io.ErrUnexpectedEOF)
	if errors.As(err, &answer) && !broken && answer.Code() != connect.CodeUnavailable && answer.Code() != connect.CodeUnknown {
		return received(answer)
	}
	return &federation.Diagnostic{Code: "TW-8001",
		What: "the gateway at " + c.target.String() + " went away while " + waitingFor + " was awaited",
		Why:  err.Error(), Fix: "see whether it is running: systemctl status tradewind-gateway", Err: fmt.Errorf("%w: %w",
			ErrUnreachable, err)}
}

func (c *Client) timeout(ctx context.Context, start time.Time, waitingFor string, err error) error {
	waited := time.Since(start)
	if deadline, ok := ctx.Deadline(); ok {
		waited = deadline.Sub(start)
	}
	why := "the gateway at " + c.target.String() + " took the call but has not answered yet"
	if !c.connected.Load() {
		why = "nobody at " + c.target.String() + " has answered an attempt to connect yet: is the address right, and does a firewall drop packets to it?"
	}
	return &federation.Diagnostic{Code: "TW-8002", What: fmt.Sprintf("timed out after %v waiting for %s", roundWait(waited), waitingFor),
		Why: why,
		Fix: "wait longer with --timeout, or look at: tradewind status",
		Err: fmt.Errorf("%w: %w", ErrTimeout, err)}
}

// roundWait keeps what a person set: 5 s minus the microseconds that passed before the call is still 5 s.
func roundWait(d time.Duration) time.Duration {
	if d >= 500*time.Millisecond {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}

// unreachable says what was tried and what the likeliest cause is.
func (c *Client) unreachable(err error) error {
	d := &federation.Diagnostic{Code: "TW-8001", What: "cannot reach the gateway at " + c.target.String(), Why: err.Error(),
		Fix: "see whether it is running: systemctl status tradewind-gateway", Err: fmt.Errorf("%w: %w", ErrUnreachable, err)}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.Why = "there is no such socket: no gateway runs with this data_dir"
		d.Fix = "start it (tradewind-gateway -config gateway.hcl), or name its socket with --socket or TRADEWIND_SOCKET"
	case errors.Is(err, syscall.ECONNREFUSED):
		d.Why = "nobody listens there"
		d.Fix = cmp.Or(map[bool]string{true: "start the gateway: a socket without one is left over from a crash"}[c.target.Address == ""],
			"start the gateway, or name its address with --address (admin.listen in gateway.hcl)")
	case errors.Is(err, os.ErrDeadlineExceeded):
		d.Why = fmt.Sprintf("nobody there has answered an attempt to connect within %v", dialTimeout)
		d.Fix = "check the address (admin.listen in gateway.hcl, loopback only) and firewalls on the way"
	case errors.Is(err, fs.ErrPermission):
		d.Why = "this user may not open the socket"
		d.Fix = "run it with sudo or as the gateway's user; admin.group in gateway.hcl lets a group in"
	}
	return d
}

// PeerEstablish implements Peerings. It calls progress from its own goroutine.
func (c *Client) PeerEstablish(ctx context.Context, r *PeerEstablishRequest, progress func(PeerStep)) (*PeerEstablished, error) {
	start, waitingFor := time.Now(), methods["PeerEstablish"].waitingFor
	ctx, cancel := c.bound(ctx)
	defer cancel()
	request := connect.NewRequest(r)
	c.authorize(request.Header())
	client := connect.NewClient[PeerEstablishRequest, PeerEstablishEvent](c.http, c.base+procedure("PeerEstablish"), c.options()...)
	stream, err := client.CallServerStream(ctx, request)
	if err != nil {
		return nil, c.explain(ctx, start, waitingFor, err)
	}
	defer stream.Close()
	for stream.Receive() {
		switch e := stream.Msg(); {
		case e.Step != nil:
			progress(*e.Step)
			waitingFor = methods["PeerEstablish"].waitingFor + " (" + e.Step.Text + ")"
		case e.Result != nil:
			return e.Result, nil
		}
	}
	err = stream.Err()
	if err == nil {
		err = connect.NewError(connect.CodeUnavailable, errors.New("the stream ended without a result"))
	}
	return nil, c.explain(ctx, start, waitingFor, err)
}
