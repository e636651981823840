package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/tradewind-mesh/tradewind/federation"
)

// credentials are what the kernel says about the process at the other end of a unix socket.
type credentials struct {
	uid    uint32
	pid    int32
	groups []uint32 // primary and supplementary
}

// socketAccess says whose processes may use the socket.
type socketAccess struct {
	uids  []uint32
	group int // -1: none
}

func newSocketAccess(group string) (socketAccess, error) {
	a := socketAccess{uids: []uint32{0, uint32(os.Geteuid())}, group: -1}
	if group == "" {
		return a, nil
	}
	number := group
	if g, err := user.LookupGroup(group); err == nil {
		number = g.Gid
	}
	gid, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return a, &federation.Diagnostic{Code: "TW-8013", What: fmt.Sprintf("admin.group %q does not exist", group),
			Why: "this host knows no group of that name",
			Fix: "create it (groupadd --system " + group + "), or remove admin.group", Err: err}
	}
	a.group = int(gid)
	return a, nil
}

// allows returns nil when the process with credentials c may use the API, else the reason why not.
func (a socketAccess) allows(c credentials) error {
	switch {
	case slices.Contains(a.uids, c.uid):
		return nil
	case a.group >= 0 && slices.Contains(c.groups, uint32(a.group)):
		return nil
	case a.group >= 0:
		return fmt.Errorf("user %d is not root, not the gateway's user and not in group %d", c.uid, a.group)
	}
	return fmt.Errorf("user %d is neither root nor the gateway's user", c.uid)
}

type (
	peerKey   struct{}
	callerKey struct{}
)

// withPeer notes who is at the other end of a unix connection.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	c, err := peerCredentials(conn)
	if err != nil {
		return context.WithValue(ctx, peerKey{}, err)
	}
	return context.WithValue(ctx, peerKey{}, c)
}

// onSocket lets in who the kernel says may come.
func (s *Server) onSocket(api http.Handler) http.Handler {
	probes := s.probes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := errors.New("the kernel did not say who calls")
		caller := ""
		switch peer := r.Context().Value(peerKey{}).(type) {
		case credentials:
			err = s.socket.allows(peer)
			caller = fmt.Sprintf("uid %d, pid %d", peer.uid, peer.pid)
		case error:
			err = peer
		}
		if err != nil {
			s.refuse(w, r, connect.CodePermissionDenied, &federation.Diagnostic{Code: "TW-8003",
				What: "the gateway does not take orders from this user",
				Why:  err.Error(), Fix: "run it with sudo or as the gateway's user; admin.group lets a group in", Err: ErrRefused})
			return
		}
		if isProbe(r) {
			probes.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
	})
}

// onLoopback lets in who has the token. Every process and every web page on the machine can reach a loopback port, so first
// come the two checks that stop a browser from being used: DNS rebinding shows in the Host header, a foreign page in Origin.
func (s *Server) onLoopback(api http.Handler) http.Handler {
	probes := s.probes()
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, connect.CodePermissionDenied, &federation.Diagnostic{Code: "TW-8005",
			What: "refused a call from a web page of another origin",
			Why:  fmt.Sprintf("Origin is %q", r.Header.Get("Origin")), Fix: "call the API from a program, with the token", Err: ErrRefused})
	}))
	guarded := origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isProbe(r) {
			probes.ServeHTTP(w, r)
			return
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || !sameToken(token, s.token) {
			why := "the request has no bearer token"
			if token != "" {
				why = "the token is not this gateway's"
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="tradewind"`)
			s.refuse(w, r, connect.CodeUnauthenticated, &federation.Diagnostic{Code: "TW-8004", What: "the gateway refused the token",
				Why: why,
				Fix: "name the right file with --token-file (it is " + TokenFile + " in the gateway's data_dir)", Err: ErrRefused})
			return
		}
		api.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, "token from "+r.RemoteAddr)))
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopbackHost(r.Host) {
			s.refuse(w, r, connect.CodePermissionDenied, &federation.Diagnostic{Code: "TW-8005",
				What: "refused a call under a foreign host name",
				Why:  fmt.Sprintf("Host is %q, not a loopback address", r.Host), Fix: "address the API as 127.0.0.1 or localhost",
				Err: ErrRefused})
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// loopbackHost reports whether a Host header names this machine and nothing that a foreign DNS server could have made up.
func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback()
}

// bounded reads the whole body before it calls next, so that a caller can neither send more than maxBody nor take for ever. The
// server's timeouts are lifted afterwards: net/http would take that for reading for the death of a caller who waits for a long
// answer. After an error they stay, because net/http goes on to read what is left of the body.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err == nil {
			control := http.NewResponseController(w)
			err = errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Now().Add(waitTimeout+bodyTimeout)))
		}
		if err != nil {
			writeRefusal(w, r, connect.CodeResourceExhausted, &federation.Diagnostic{Code: "TW-8006",
				What: "the gateway did not accept the request",
				Why:  fmt.Sprintf("its body could not be read: %v (at most %d MiB)", err, maxBody>>20), Fix: "send less at once",
				Err: ErrInvalid})
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
		next.ServeHTTP(w, r)
	})
}

// refuse answers with d, and logs it: somebody may be trying.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, code connect.Code, d *federation.Diagnostic) {
	s.log.Warn("admin call refused", "code", d.Code, "why", d.Why, "path", r.URL.Path, "remote", r.RemoteAddr)
	writeRefusal(w, r, code, d)
}

func writeRefusal(w http.ResponseWriter, r *http.Request, code connect.Code, d *federation.Diagnostic) {
	w.Header().Set("Connection", "close") // else net/http reads what is left of the body before it answers
	e := withDetail(connect.NewError(code, errors.New(d.What+": "+d.Why)), d)
	if err := connect.NewErrorWriter().Write(w, r, e); err != nil {
		return // the caller is gone: nobody is left to be told
	}
}
