package gcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Filter chooses instances to join, by a label or, as go-discover's tag_value does, by a network tag.
type Filter struct {
	Project         string   // default: that in which this process runs
	Locations       []string // regions or zones; none: all
	LabelKey        string
	LabelValue      string // empty: the label exists
	NetworkTag      string
	AddressType     string // PrivateV4 (default), PublicV4 or PrivateV6
	CredentialsFile string // as Config.CredentialsFile
	Endpoint        string // as Config.Endpoint
}

// Addresses returns an address of each running instance that the filter chooses, of the filter's type, sorted. It reads all pages. A zone
// that could not be asked is no error: whoever is joined knows of the others.
func Addresses(ctx context.Context, f Filter) ([]netip.Addr, error) {
	fail := func(err error) ([]netip.Addr, error) {
		return nil, fmt.Errorf("look up Compute Engine instances to join: %w", err)
	}
	if f.LabelKey == "" && f.NetworkTag == "" {
		return fail(errors.New("label_key or network_tag: without one every instance of the project would be joined"))
	}
	if f.Project == "" {
		here, err := Locate(ctx)
		if err != nil {
			return fail(fmt.Errorf("project: %w", err))
		}
		f.Project = here.Account
	}
	cfg := Config{Projects: []string{f.Project}, Kinds: []string{KindInstances}, Locations: f.Locations, NoGroupHealth: true,
		AddressType: f.AddressType, CredentialsFile: f.CredentialsFile, Endpoint: f.Endpoint}
	if f.LabelKey != "" {
		cfg.Labels = map[string]string{f.LabelKey: f.LabelValue}
	}
	l, err := New(cfg)
	if err != nil {
		return fail(err)
	}
	defer l.Close()
	v, err := l.visit(f.Project, nil)
	if err != nil {
		return fail(err)
	}
	v.tag, v.only = f.NetworkTag, true
	if err := v.listInstances(ctx); err != nil {
		return fail(err)
	}
	return poll.Running(v.Found, func(r *poll.Record) (*poll.Record, []netip.Addr) { return r, r.Addresses }), nil
}
