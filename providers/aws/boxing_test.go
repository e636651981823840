package aws

import (
	"testing"

	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

func TestNoClientReachesAnInterface(t *testing.T) {
	providertest.NoBoxing(t, 7, func(_, name string) bool { return name == "NewFromConfig" }) // six services in newClients, STS in assume
}
