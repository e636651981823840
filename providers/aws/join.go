package aws

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Filter chooses EC2 instances to join, in the words of go-discover: "provider=aws region=... tag_key=... tag_value=...
// addr_type=...".
type Filter struct {
	Region      string // default: where this process runs
	TagKey      string
	TagValue    string // empty: the tag exists
	AddressType string // PrivateV4 (default), PublicV4 or PrivateV6
	Account     Account
	Endpoint    string // as Config.Endpoint
}

// Addresses returns an address of each running instance that the filter chooses, of the filter's type, sorted. It reads all pages.
func Addresses(ctx context.Context, f Filter) ([]netip.Addr, error) {
	fail := func(err error) ([]netip.Addr, error) {
		return nil, fmt.Errorf("look up EC2 instances to join: %w", err)
	}
	if f.TagKey == "" {
		return fail(errors.New("tag_key: without one every instance of the account would be joined"))
	}
	if f.Region == "" {
		here, err := Locate(ctx)
		if err != nil {
			return fail(fmt.Errorf("region: %w", err))
		}
		f.Region = here.Region
	}
	l, err := New(Config{Regions: []string{f.Region}, Accounts: []Account{f.Account}, Kinds: []string{KindEC2},
		Tags: map[string]string{f.TagKey: f.TagValue}, NoTargetHealth: true, AddressType: f.AddressType, Endpoint: f.Endpoint})
	if err != nil {
		return fail(err)
	}
	defer l.Close()
	v, err := l.visit(ctx, l.places[placeKey{f.Account.id(), f.Region}], nil)
	if err == nil {
		err = v.listEC2(ctx)
	}
	if err != nil {
		return fail(err)
	}
	return poll.Running(v.Found, func(f *found) (*poll.Record, []netip.Addr) { return &f.Record, f.Of(v.cfg.AddressType) }), nil
}
