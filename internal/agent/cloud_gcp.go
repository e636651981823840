//go:build !no_gcp

package agent

import (
	"context"
	"net/netip"
	"strings"

	"github.com/tradewind-mesh/tradewind/providers/gcp"
)

var cloudGCP = &cloud{
	locate: gcp.Locate,
	addresses: func(ctx context.Context, w map[string]string) ([]netip.Addr, error) {
		f := gcp.Filter{Project: w["project_name"], LabelKey: w["label_key"], LabelValue: w["label_value"], NetworkTag: w["tag_value"],
			AddressType: addressType(w), CredentialsFile: w["credentials_file"], Endpoint: w["endpoint"]}
		// A pattern is understood that takes all zones of a region, or names one.
		if zone := strings.TrimSuffix(strings.TrimSuffix(w["zone_pattern"], "*"), "-."); zone != "" {
			f.Locations = []string{strings.TrimSuffix(zone, "-")}
		}
		return gcp.Addresses(ctx, f)
	},
	clusters: gcpClusters,
}
