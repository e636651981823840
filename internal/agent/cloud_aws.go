//go:build !no_aws

package agent

import (
	"context"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/providers/aws"
)

var cloudAWS = &cloud{
	locate: func(ctx context.Context) (admin.Location, error) {
		l, err := aws.Locate(ctx)
		return admin.Location{Provider: l.Provider, Region: l.Region, Zone: l.Zone, ZoneID: l.ZoneID, Instance: l.InstanceID, Account: l.Account}, err
	},
	addresses: func(ctx context.Context, w map[string]string) ([]netip.Addr, error) {
		return aws.Addresses(ctx, aws.Filter{Region: w["region"], TagKey: w["tag_key"], TagValue: w["tag_value"], AddressType: addressType(w),
			Account: aws.Account{RoleARN: w["role_arn"], ExternalID: w["external_id"]}, Endpoint: w["endpoint"]})
	},
	clusters: awsClusters,
}
