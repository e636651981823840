package azure

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v6"
	"go.yaml.in/yaml/v3"
)

// Cluster is an AKS cluster, with all that a Kubernetes client needs.
type Cluster struct {
	Name, Region, Account string // Account is the subscription's ID
	Group                 string // resource group, in lower case: a name is unique in it only
	Endpoint              string // URL of the API server
	CA                    []byte // PEM, the only authority that the API server's certificate may come from
	// Token returns a bearer token and until when it is good.
	Token func(ctx context.Context) (string, time.Time, error)
}

// Clusters returns the AKS clusters that run, in the order of subscription, region and name. With an error it returns those that
// could be described; the error names the others.
func Clusters(ctx context.Context, l *Lister) ([]Cluster, error) { // no method: as one, it would stay in builds that never call it
	v, err := l.visit(nil)
	if err != nil {
		return nil, fmt.Errorf("list AKS clusters: %w", err)
	}
	all, err := l.clusters(ctx, v)
	l.leave(v, err)
	if err != nil {
		err = fmt.Errorf("list AKS clusters: %w", err)
	}
	return all, err
}

func (l *Lister) clusters(ctx context.Context, v *visit) ([]Cluster, error) {
	kql, err := v.cfg.kql(KindAKS)
	if err != nil {
		return nil, err
	}
	var rows []row
	if err := v.graph(ctx, kql, func(r row) error { rows = append(rows, r); return nil }); err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b row) int {
		order := func(r row) []string {
			return []string{strings.ToLower(r.text("subscriptionId")), r.text("location"), r.text("name")}
		}
		return slices.Compare(order(a), order(b))
	})
	errs := slices.Clone(v.Partial)
	var all []Cluster
	for _, r := range rows {
		busy := strings.EqualFold(r.text("provisioning"), "Creating") || strings.EqualFold(r.text("provisioning"), "Deleting")
		if busy || strings.EqualFold(r.text("power"), "Stopped") {
			continue
		}
		c, err := l.describe(ctx, v, r)
		switch {
		case gone(err):
		case err != nil:
			errs = append(errs, fmt.Errorf("cluster %q of subscription %s: %w", r.text("name"), r.text("subscriptionId"), err))
		default:
			all = append(all, c)
		}
	}
	return all, errors.Join(errs...)
}

// describe asks for the authority of a cluster. The API gives it for one cluster at a time, in the form of a kubeconfig.
func (l *Lister) describe(ctx context.Context, v *visit, r row) (Cluster, error) {
	ask, err := v.clusterCredentials(r.text("subscriptionId"))
	if err != nil {
		return Cluster{}, err
	}
	out, _, err := call(ctx, &v.spend, actionClusterCredential,
		func(ctx context.Context) (armcontainerservice.ManagedClustersClientListClusterUserCredentialsResponse, error) {
			return ask(ctx, r.text("resourceGroup"), r.text("name"), nil)
		})
	if err != nil {
		return Cluster{}, err
	}
	if len(out.Kubeconfigs) == 0 || out.Kubeconfigs[0] == nil {
		return Cluster{}, errors.New("there is no kubeconfig in the answer")
	}
	c := Cluster{Name: r.text("name"), Region: r.text("location"), Account: strings.ToLower(r.text("subscriptionId")),
		Group: strings.ToLower(r.text("resourceGroup"))}
	if c.Endpoint, c.CA, err = readKubeconfig(out.Kubeconfigs[0].Value); err != nil {
		return Cluster{}, err
	}
	c.Token = func(ctx context.Context) (string, time.Time, error) { return l.token(ctx, c.Name) }
	if r["directory"] == nil { // it knows nobody of the directory, only certificates of its own
		c.Token = func(context.Context) (string, time.Time, error) {
			return "", time.Time{}, fmt.Errorf("get a token for AKS cluster %q: it has no Microsoft Entra integration; switch it on "+
				"(az aks update --enable-aad)", c.Name)
		}
	}
	return c, nil
}

// readKubeconfig returns the API server and its authority.
func readKubeconfig(raw []byte) (endpoint string, ca []byte, err error) {
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string `yaml:"server"`
				CA     string `yaml:"certificate-authority-data"`
			} `yaml:"cluster"`
		} `yaml:"clusters"`
	}
	if err := yaml.Unmarshal(raw, &config); err != nil {
		return "", nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	if len(config.Clusters) != 1 {
		return "", nil, fmt.Errorf("read the kubeconfig: it has %d clusters, not one", len(config.Clusters))
	}
	c := config.Clusters[0].Cluster
	if u, err := url.Parse(c.Server); err != nil || u.Scheme != "https" || u.Host == "" {
		return "", nil, fmt.Errorf("read the kubeconfig: server %q is not an https URL", bounds(c.Server, 256))
	}
	if ca, err = base64.StdEncoding.DecodeString(c.CA); err != nil || !x509.NewCertPool().AppendCertsFromPEM(ca) {
		return "", nil, errors.New("read the kubeconfig: its certificate authority is no certificate")
	}
	return c.Server, ca, nil
}

// aksServer is the application, the same everywhere, that AKS clusters take tokens for
// (https://azure.github.io/kubelogin/concepts/aks.html).
const aksServer = "6dae42f8-4368-4678-94ff-3960e28e3630/.default"

func (l *Lister) token(ctx context.Context, cluster string) (string, time.Time, error) {
	v, err := l.visit(nil)
	if err == nil {
		t, failed := v.credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{aksServer}})
		if failed == nil {
			return t.Token, t.ExpiresOn, nil
		}
		err = classify(ctx, "", failed)
		l.leave(v, err)
	}
	return "", time.Time{}, fmt.Errorf("get a token for AKS cluster %q: %w", cluster, err)
}
