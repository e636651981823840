package azure

import (
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

func TestNoClientReachesAnInterface(t *testing.T) {
	providertest.NoBoxing(t, 3, func(pkg, name string) bool { // Resource Graph, network interfaces, AKS
		return strings.HasPrefix(pkg, "arm") && strings.HasPrefix(name, "New") && strings.HasSuffix(name, "Client")
	})
}
