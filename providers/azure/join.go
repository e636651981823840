package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Filter chooses machines to join, in the words of go-discover: "provider=azure tag_name=... tag_value=... subscription_id=...
// resource_group=...". Those of scale sets count too.
type Filter struct {
	Subscription  string // default: where this process runs
	ResourceGroup string // empty: all
	TagName       string
	TagValue      string // empty: the tag exists
	AddressType   string // PrivateV4 (default), PublicV4 or PrivateV6
	Cloud         string // as Config.Cloud
	Endpoint      string // as Config.Endpoint
}

// Addresses returns an address of each running machine that the filter chooses, of the filter's type, sorted. It reads all pages.
func Addresses(ctx context.Context, f Filter) ([]netip.Addr, error) {
	fail := func(err error) ([]netip.Addr, error) {
		return nil, fmt.Errorf("look up Azure machines to join: %w", err)
	}
	if f.TagName == "" {
		return fail(errors.New("tag_name: without one every machine of the subscription would be joined"))
	}
	if f.Subscription == "" {
		here, err := Locate(ctx)
		if err != nil {
			return fail(fmt.Errorf("subscription_id: %w", err))
		}
		f.Subscription = here.Account
	}
	cfg := Config{Subscriptions: []string{f.Subscription}, Kinds: []string{KindVM, KindScaleSet},
		Tags: map[string]string{f.TagName: f.TagValue}, AddressType: cmp.Or(f.AddressType, PrivateV4), Cloud: f.Cloud, Endpoint: f.Endpoint}
	if f.AddressType == PublicV4 {
		cfg.Kinds = []string{KindVM}
	}
	if f.ResourceGroup != "" {
		cfg.ResourceGroups = []string{f.ResourceGroup}
	}
	l, err := New(cfg)
	if err != nil {
		return fail(err)
	}
	defer l.Close()
	var all []found
	for _, kind := range cfg.Kinds {
		v, err := l.visit(nil)
		if err == nil {
			err = v.list(ctx, kind)
		}
		if err != nil {
			return fail(err)
		}
		all = append(all, v.Found...)
	}
	return poll.Running(all, func(f *found) (*poll.Record, []netip.Addr) { return &f.Record, f.Of(cfg.AddressType) }), nil
}
