package agent

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// cloud is what a gateway asks a cloud besides its workloads.
type cloud struct {
	// locate asks the cloud's metadata service where this process runs. Without one it fails after 2 s.
	locate func(ctx context.Context) (poll.Location, error)
	// addresses returns the machines that the words of a retry_join choose.
	addresses func(ctx context.Context, words map[string]string) ([]netip.Addr, error)
	// clusters returns what lists the Kubernetes clusters that the body of a provider block covers.
	clusters func(body any) (listClusters, error)
}

// cloudsByKind has each cloud by the kind of its provider; nil when the gateway was built without it (build tag no_<kind>).
var cloudsByKind = map[string]*cloud{"aws": cloudAWS, "azure": cloudAzure, "gcp": cloudGCP}

// listClusters returns the clusters that there are now. With an error it returns those that could be listed.
type listClusters func(ctx context.Context) ([]cluster, error)

// cluster is a Kubernetes cluster as a cloud knows it.
type cluster struct {
	Name     string // unique within account and region
	Account  string
	Region   string
	Endpoint string // URL of the API server
	CA       []byte // PEM; nil: the system's
	Token    func(ctx context.Context) (string, time.Time, error)
}

// cloudOf returns a cloud, or why what wants it cannot be.
func cloudOf(kind, what string) (*cloud, error) {
	if c := cloudsByKind[kind]; c != nil {
		return c, nil
	}
	return nil, &federation.Diagnostic{Code: federation.CodeProviderExcluded, What: what + " cannot be used",
		Why: "this gateway was built without " + kind, Fix: "use a build without the tag no_" + kind}
}

// wrongBody is the error of a provider block whose body is not of its kind.
func wrongBody(body any) error { return fmt.Errorf("configuration is a %T", body) }
