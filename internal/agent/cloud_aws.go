//go:build !no_aws

package agent

import (
	"context"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/providers/aws"
)

var cloudAWS = &cloud{
	locate: aws.Locate,
	addresses: func(ctx context.Context, w map[string]string) ([]netip.Addr, error) {
		return aws.Addresses(ctx, aws.Filter{Region: w["region"], TagKey: w["tag_key"], TagValue: w["tag_value"], AddressType: addressType(w),
			Account: aws.Account{RoleARN: w["role_arn"], ExternalID: w["external_id"]}, Endpoint: w["endpoint"]})
	},
	clusters: awsClusters,
}
