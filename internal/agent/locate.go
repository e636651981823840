package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unicode"

	"github.com/tradewind-mesh/tradewind/federation/registry"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

// whereabouts is where the gateway runs, and how that is known.
type whereabouts struct {
	admin.Location
	local string // the zone of instances that say none, as providers name it
}

// locateWithin bounds all the questions to metadata services together: outside a cloud nobody answers them.
const locateWithin = 2 * time.Second

// environment names the variables that say a cloud's region, and its zone, to the cloud's own tools.
var environment = map[string]struct{ region, zone []string }{
	"aws":   {region: []string{"AWS_REGION", "AWS_DEFAULT_REGION"}},
	"azure": {region: []string{"AZURE_LOCATION"}},
	"gcp":   {region: []string{"GOOGLE_CLOUD_REGION", "CLOUDSDK_COMPUTE_REGION"}, zone: []string{"CLOUDSDK_COMPUTE_ZONE"}},
}

// presumed is where the gateway runs as far as that can be told without asking anybody. A cloud's variables say where its tools are to
// work, on machines of other clouds too: they count when they are those of the configured cloud, or of one cloud only.
func presumed(cfg config.Location, env func(string) string) whereabouts {
	here := admin.Location{Provider: cfg.Provider, Region: cfg.Region, Zone: cfg.Zone, ZoneID: cfg.ZoneID, Instance: cfg.Instance}
	first := func(names []string) string {
		for _, name := range names {
			if v := env(name); v != "" {
				return v
			}
		}
		return ""
	}
	var said []admin.Location
	for provider, names := range environment {
		l := admin.Location{Provider: provider, Region: first(names.region), Zone: first(names.zone)}
		if l != (admin.Location{Provider: provider}) && validPlace(l) == nil && cmp.Or(cfg.Provider, provider) == provider {
			said = append(said, l)
		}
	}
	if len(said) == 1 && cmp.Or(cfg.Region, said[0].Region) == said[0].Region {
		here = merge(here, said[0])
	}
	return whereabouts{here, zoneOf(cfg, here)}
}

// merge fills in what a leaves open from b. A zone and its ID go together.
func merge(a, b admin.Location) admin.Location {
	if a.Zone == "" && a.ZoneID == "" || a.Zone == b.Zone {
		a.Zone, a.ZoneID = cmp.Or(a.Zone, b.Zone), cmp.Or(a.ZoneID, b.ZoneID)
	}
	a.Provider, a.Region = cmp.Or(a.Provider, b.Provider), cmp.Or(a.Region, b.Region)
	a.Instance, a.Account = cmp.Or(a.Instance, b.Instance), cmp.Or(a.Account, b.Account)
	return a
}

// zoneOf is the zone of instances that say none: what the configuration says, else as the provider's listings name it.
func zoneOf(cfg config.Location, l admin.Location) string {
	if l.Provider == "aws" { // its names of zones differ between accounts
		return cmp.Or(cfg.ZoneID, cfg.Zone, l.ZoneID, l.Zone)
	}
	return cmp.Or(cfg.Zone, l.Zone)
}

var _ registry.Distant = (*provider)(nil)

// Distant implements registry.Distant: a provider sees whole regions, and what it gives no zone has none that is known.
func (p *provider) Distant() {}

// settleAt makes w known.
func (a *Agent) settleAt(w whereabouts) error {
	a.location.Store(&w)
	return a.reg.SetZone(w.local)
}

// locate asks the clouds where this process runs, once, and fills in what the configuration leaves open. Nothing waits for it.
func (a *Agent) locate(ctx context.Context) {
	cfg := a.opts.Config.Location
	if !cfg.Lookup || cfg.Provider != "" && cfg.Zone != "" && cfg.Instance != "" {
		return
	}
	ask := map[string]func(context.Context) (admin.Location, error){}
	for kind, c := range cloudsByKind {
		if c != nil && cmp.Or(cfg.Provider, kind) == kind {
			ask[kind] = func(ctx context.Context) (admin.Location, error) {
				l, err := c.locate(ctx)
				return admin.Location{Provider: l.Provider, Region: l.Region, Zone: l.Zone, ZoneID: l.ZoneID, Instance: l.InstanceID, Account: l.Account}, err
			}
		}
	}
	found, err := askAll(ctx, ask)
	if err != nil {
		a.log.Debug("no metadata service says where this process runs", "reason", err.Error()) // as everywhere outside the three clouds
		return
	}
	said := presumed(cfg, os.Getenv).Location
	here, agreed := reconcile(said, found)
	if !agreed {
		a.log.Warn("configuration or environment says another place than the metadata service", "provider", said.Provider,
			"cloud_region", said.Region, "metadata_provider", found.Provider, "metadata_region", found.Region)
	}
	if err := a.settleAt(whereabouts{here, zoneOf(cfg, here)}); err != nil {
		a.log.Warn("the zone of this process cannot be used", "error", err)
	}
	a.log.Info("located", "provider", here.Provider, "cloud_region", here.Region, "zone", here.Zone, "zone_id", here.ZoneID, "instance", here.Instance)
}

// reconcile fills in what was said from what the metadata service has found, and reports whether the two agree. What was said counts
// first, and a zone of another region than that would send traffic astray.
func reconcile(said, found admin.Location) (here admin.Location, agreed bool) {
	agreed = cmp.Or(said.Provider, found.Provider) == found.Provider && cmp.Or(said.Region, found.Region) == found.Region
	if !agreed {
		found = admin.Location{Instance: found.Instance}
	}
	return merge(said, found), agreed
}

// askAll asks all at once and returns the first good answer, after all of them have ended.
func askAll(ctx context.Context, ask map[string]func(context.Context) (admin.Location, error)) (admin.Location, error) {
	ctx, cancel := context.WithTimeout(ctx, locateWithin)
	defer cancel()
	type answer struct {
		admin.Location
		err error
	}
	answers := make(chan answer)
	for _, locate := range ask {
		go func() {
			l, err := locate(ctx)
			if err == nil {
				err = validPlace(l)
			}
			answers <- answer{l, err}
		}()
	}
	var first admin.Location
	var errs []error
	for range ask {
		got := <-answers
		switch {
		case got.err != nil:
			errs = append(errs, got.err)
		case first == admin.Location{}:
			first = got.Location
			cancel() // the others have nothing to add
		}
	}
	if first == (admin.Location{}) {
		return first, errors.Join(errs...)
	}
	return first, nil
}

// validPlace judges what somebody else has said.
func validPlace(l admin.Location) error {
	for _, s := range []string{l.Provider, l.Region, l.Zone, l.ZoneID, l.Account} {
		if len(s) > config.MaxPlace {
			return fmt.Errorf("where this process runs has a part of %d octets", len(s))
		}
	}
	odd := func(r rune) bool { return r <= ' ' || r > unicode.MaxASCII }
	if len(l.Instance) > config.MaxInstance || slices.ContainsFunc([]rune(l.Provider+l.Region+l.Zone+l.ZoneID+l.Account+l.Instance), odd) {
		return errors.New("where this process runs is no text, or has an instance without end")
	}
	return nil
}
