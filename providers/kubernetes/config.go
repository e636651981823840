package kubernetes

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Config configures a Lister. One way to the cluster is given: Kubeconfig, Server, InCluster, or Clusters and Enumerate. Without any
// the gateway runs in the cluster.
type Config struct {
	Kubeconfig string // a file; it and the files that it names are read again with each look for clusters
	Context    string // of the kubeconfig; default: the current one
	InCluster  bool   // the service account of the pod that the gateway runs in

	Server    string // URL of the API server: "https://10.0.0.1:6443"
	CAFile    string // PEM of the authorities that its certificate may come from; default: those of the system
	TokenFile string // read before each request, so that a renewed token needs no restart; at most 16 KiB

	// Cluster is the cluster's name in IDs, in discover rules (accounts) and as the network of its addresses. Default: the name in the
	// kubeconfig, else "kubernetes".
	Cluster string
	Region  string // of the cloud that the cluster is in

	Clusters []Cluster
	// Enumerate returns the clusters that there are now, as the cloud adapters know them. With an error it returns those that it could
	// find, and of the others those that were there before stay.
	Enumerate func(ctx context.Context) ([]Cluster, error)

	Namespaces []string // default: all, which takes a cluster role
	// Selector is a label selector on EndpointSlices, which have the labels of their Service: "stage=live,team in (a,b)".
	Selector string
	Log      *slog.Logger // default: discard
}

// Cluster is a cluster with all that it takes to reach it.
type Cluster struct {
	Name     string
	Account  string // of the cloud; empty: the name alone tells clusters apart
	Region   string // of the cloud
	Endpoint string // URL of the API server; https only, because a token goes there
	CA       []byte // PEM of the authorities that its certificate may come from; empty: those of the system
	// Token returns a bearer token and until when it is good; the zero time: it is asked for before each request. Nil: there is none.
	Token func(ctx context.Context) (string, time.Time, error)

	serverName  string           // that the certificate must be for, when not the endpoint
	proxy       *url.URL         // nil: as the environment says
	certificate *tls.Certificate // of the client
	version     string           // of the kubeconfig
}

// same reports whether a client of c serves for d too. Tokens are not compared: a cloud's closure is a new one each time.
func (c *Cluster) same(d *Cluster) bool {
	der := func(c *tls.Certificate) []byte {
		if c == nil {
			return nil
		}
		return slices.Concat(c.Certificate...)
	}
	return c.Endpoint == d.Endpoint && bytes.Equal(c.CA, d.CA) && c.version == d.version && bytes.Equal(der(c.certificate), der(d.certificate))
}

// account is the cluster's name among all clusters but for the region: the account of its scopes.
func (c *Cluster) account() string {
	if c.Account == "" {
		return c.Name
	}
	return c.Account + "/" + c.Name
}

// maxClusters bounds what Enumerate can make us hold.
const maxClusters = 1000

var (
	namespaceForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`) // RFC 1123 label
	clusterForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@:._/-]{0,127}$`)
)

// validate returns every mistake, joined.
func (c *Config) validate() error {
	var errs []error
	ways := 0
	for _, given := range []bool{c.Kubeconfig != "", c.InCluster, c.Server != "", len(c.Clusters) > 0 || c.Enumerate != nil} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		errs = append(errs, errors.New("kubeconfig, server, in_cluster and clusters of a cloud exclude each other"))
	}
	if c.Context != "" && c.Kubeconfig == "" {
		errs = append(errs, errors.New("context is one of a kubeconfig: give that too"))
	}
	if (c.CAFile != "" || c.TokenFile != "") && c.Server == "" {
		errs = append(errs, errors.New("ca_file and token_file come with server"))
	}
	if c.Server != "" {
		if _, err := parseEndpoint(c.Server); err != nil {
			errs = append(errs, err)
		}
	}
	if c.Cluster != "" && !clusterForm.MatchString(c.Cluster) {
		errs = append(errs, fmt.Errorf("cluster %q is not a name: use letters, digits and @:._/-", c.Cluster))
	}
	seen := map[string]bool{}
	for _, ns := range c.Namespaces {
		if !namespaceForm.MatchString(ns) {
			errs = append(errs, fmt.Errorf("namespace %q is not a name that Kubernetes can have", ns))
		}
		if seen[ns] {
			errs = append(errs, fmt.Errorf("namespace %q is there twice", ns))
		}
		seen[ns] = true
	}
	if len(c.Selector) > 1024 || strings.ContainsFunc(c.Selector, func(r rune) bool { return !unicode.IsPrint(r) }) {
		errs = append(errs, errors.New("selector is longer than 1024 octets or not text"))
	}
	for i := range c.Clusters {
		errs = append(errs, c.Clusters[i].validate())
	}
	return errors.Join(errs...)
}

func (c *Cluster) validate() error {
	if !clusterForm.MatchString(c.account()) || len(c.Region) > 64 {
		return fmt.Errorf("cluster %q of account %q in region %q: use letters, digits and @:._/-", poll.Clip(c.Name), poll.Clip(c.Account), poll.Clip(c.Region))
	}
	if _, err := parseEndpoint(c.Endpoint); err != nil {
		return fmt.Errorf("cluster %s: %w", c.account(), err)
	}
	return nil
}

// parseEndpoint reads the URL of an API server.
func parseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server %q: use https://host:port; a token must not be sent in the clear", u.Redacted())
	}
	return u, nil
}

const (
	accountDir = "/var/run/secrets/kubernetes.io/serviceaccount" // where a pod's service account is mounted
	maxFile    = 1 << 20                                         // of a kubeconfig or a bundle of authorities
	maxToken   = 16 << 10                                        // Azure's tokens list a person's groups
)

// own returns the cluster that the configuration itself names. Errors have ErrCredentials in their tree.
func (c *Config) own() (Cluster, error) {
	var own Cluster
	var err error
	switch {
	case c.Kubeconfig != "":
		own, err = readKubeconfig(c.Kubeconfig, c.Context)
	case c.Server != "":
		own.Endpoint = c.Server
		if c.CAFile != "" {
			own.CA, err = readFile(c.CAFile, maxFile)
		}
		if c.TokenFile != "" {
			own.Token = fileToken(c.TokenFile)
		}
	default:
		own, err = inCluster(accountDir, os.Getenv)
	}
	if err != nil {
		return Cluster{}, fmt.Errorf("%w: %w", poll.ErrCredentials, err)
	}
	own.Name, own.Region = cmp.Or(c.Cluster, own.Name, "kubernetes"), c.Region
	return own, own.validate()
}

// inCluster returns the cluster that this process runs in.
func inCluster(dir string, env func(string) string) (Cluster, error) {
	host, port := env("KUBERNETES_SERVICE_HOST"), env("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return Cluster{}, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod; " +
			"name a kubeconfig or a server")
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	ca, err := readFile(dir+"/ca.crt", maxFile)
	return Cluster{Endpoint: "https://" + host + ":" + port, CA: ca, Token: fileToken(dir + "/token")}, err
}
