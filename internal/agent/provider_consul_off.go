//go:build no_consul

package agent

import (
	"context"

	"github.com/tradewind-mesh/tradewind/internal/admin"
)

var openConsul opener

type consulSyncs struct{}

func (*consulSyncs) status(string) *admin.ConsulSync { return nil }

func (a *Agent) keepConsulSyncs(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
