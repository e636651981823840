package agent

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/peering"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// dialer gives peering the tunnel without letting it know of QUIC.
type dialer struct{ *tunnel.Transport }

var (
	_ peering.Dialer  = dialer{}
	_ peering.Session = (*tunnel.ExchangeSession)(nil)
)

// DialExchange implements peering.Dialer.
func (d dialer) DialExchange(ctx context.Context, peer federation.Region, addr string) (peering.Session, error) {
	s, err := d.Transport.DialExchange(ctx, peer, addr)
	if err != nil {
		return nil, err // not s: a nil *ExchangeSession in an interface is not nil
	}
	return s, nil
}

// registrations keeps what was registered through the API in the region's store.
type registrations struct{ store store.Store }

const registrationPrefix = "registration/"

func (r registrations) Save(ctx context.Context, key string, value []byte) error {
	_, err := r.store.Commit(ctx, store.Op{Key: registrationPrefix + key, Value: value, Any: true})
	return err
}

func (r registrations) Delete(ctx context.Context, key string) error {
	_, err := r.store.Commit(ctx, store.Op{Key: registrationPrefix + key, Delete: true, Any: true})
	return err
}

func (r registrations) Load(ctx context.Context) (map[string][]byte, error) {
	list, err := r.store.List(ctx, registrationPrefix)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(list))
	for _, e := range list {
		out[strings.TrimPrefix(e.Key, registrationPrefix)] = e.Value
	}
	return out, nil
}

// addresses are what a peer can dial this gateway by: as configured, or the host's own addresses with the mesh port, those that
// can be reached from elsewhere first.
func (a *Agent) addresses() []string {
	if cfg := a.cfg.Load(); len(cfg.Advertise) > 0 {
		return cfg.Advertise
	}
	bound, err := netip.ParseAddrPort(a.tunnel.Addr().String())
	if err != nil {
		return nil
	}
	if !bound.Addr().IsUnspecified() {
		return []string{bound.String()}
	}
	var global, loopback []string
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, f := range found {
		prefix, err := netip.ParsePrefix(f.String())
		if err != nil {
			continue
		}
		text := netip.AddrPortFrom(prefix.Addr().Unmap(), bound.Port()).String()
		switch ip := prefix.Addr(); {
		case ip.IsLoopback():
			loopback = append(loopback, text)
		case ip.IsGlobalUnicast():
			global = append(global, text)
		}
	}
	if len(global) > 0 {
		return global[:min(len(global), maxAdvertised)]
	}
	return loopback[:min(len(loopback), 1)]
}

// maxAdvertised is how many addresses a token can hold.
const maxAdvertised = 8
