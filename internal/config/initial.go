package config

import (
	"fmt"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Initial returns a working gateway.hcl for region. Everything but the region is commented out, with its default or an example.
// dataDir is written down only when it is not the default.
func Initial(region federation.Region, dataDir string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# One gateway process. Only region is required; the rest shows defaults and examples.\n")
	fmt.Fprintf(&b, "# Check it with: tradewind config validate FILE\n\nregion = %q\n\n", region)
	if dataDir != "" && dataDir != DefaultDataDir() {
		fmt.Fprintf(&b, "# Keys, resources, peerings and imports live here.\ndata_dir = %q\n\n", dataDir)
	} else {
		fmt.Fprintf(&b, "# Keys, resources, peerings and imports live here.\n# data_dir = %q\n\n", DefaultDataDir())
	}
	fmt.Fprintf(&b, `# The name in every identity of this region. It cannot be changed once peers know it.
# trust_domain = %q

# The name of this gateway among the region's, part of its identity. The default is the name of the host.
# name = "gw-1"

mesh {
  # Peers' gateways dial this over UDP and TCP. Open it for both in the firewall on at least one side of every pair.
  listen = ":8443"
  # Addresses that peers reach it by, when they are not those of this host (a load balancer, NAT).
  # advertise = ["gw.example.com:8443"]
  # What gateways may talk over. TCP stands by where UDP is blocked, and takes bulk transfers.
  # lanes = ["quic", "tcp"]
}

# Workloads that bring their own certificate (tradewind cert issue) connect here.
# local {
#   listen = "127.0.0.1:15001"
# }

# admin {
#   listen = "127.0.0.1:8480"    # token in DATA_DIR/admin.token; the socket needs none
#   group  = "tradewind"         # whose members may use the socket; none by default
# }

# Files in this directory are applied whenever they change.
# resources_dir = "/etc/tradewind/resources.d"

# Instances from a file that something else keeps up to date.
# source "file" "shop" {
#   path = "/etc/tradewind/shop.json"
# }

# Instances that a provider lists. A tag or name alone grants nothing: a discover block must allow it.
# provider "dns" "corp" {
#   name "web.corp.example.com" {
#     port    = 8080
#     service = "web"
#   }
#   discover {
#     service = "web"
#   }
# }

# Where this gateway runs. What is left out, the cloud's metadata service says.
# location {
#   zone   = "euw1-az2"
#   lookup = false               # asks nobody
# }

# Where the gateways of a peer are, when they move. The peering itself is made by a token.
# peer "gcp-europe-west1" {
#   retry_join = ["provider=gce project_name=example-project label_key=role label_value=mesh-gateway", "gw.example.com:8443"]
# }

# Where the keys of jwt resources may be fetched from: nowhere, unless it is said here.
# jwks {
#   hosts = ["idp.example.com"]
# }

# log {
#   level  = "info"              # debug, info, warn or error
#   format = "json"              # or "text"
# }

# access_log    = "stdout"   # or "off", or a file
# max_stale     = "24h"      # how long the services of a silent peer stay usable
# drain_timeout = "30s"      # how long a stop waits for open connections
`, federation.DefaultTrustDomain(region))
	return []byte(b.String())
}
