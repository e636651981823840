package gcp

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Cluster is a GKE cluster, with all that a Kubernetes client needs.
type Cluster struct {
	Name, Region, Account string // the region is that of the zone for a cluster of one zone; the account is the project
	Location              string // region or zone, as the cluster's full name has it
	Endpoint              string // URL of the API server
	CA                    []byte // PEM, the only authority that the API server's certificate may come from; nil: the public ones
	// Token returns a bearer token and until when it is good.
	Token func(ctx context.Context) (string, time.Time, error)
}

type gkeCluster struct {
	Name, Location, Status string
	Endpoint               string // IP address; empty where the cluster has only a name
	MasterAuth             struct{ ClusterCACertificate string }

	ControlPlaneEndpointsConfig struct {
		DNSEndpointConfig struct{ Endpoint string }
	}
}

// Clusters returns the GKE clusters that serve, of all locations that are configured, in the order of project, location and name. With
// an error it returns those that could be listed; the error names the others.
func Clusters(ctx context.Context, l *Lister) ([]Cluster, error) { // no method: as one, it would stay in builds that never call it
	var all []Cluster
	var errs []error
	for _, p := range l.cfg.Projects {
		v, err := l.visit(p, nil)
		if err == nil {
			var here []Cluster
			here, err = l.clustersIn(ctx, v)
			all = append(all, here...)
			l.forget(v.identity, err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("list GKE clusters of %s: %w", p, err))
		}
	}
	slices.SortFunc(all, func(a, b Cluster) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Location, b.Location), cmp.Compare(a.Name, b.Name))
	})
	return all, errors.Join(errs...)
}

func (l *Lister) clustersIn(ctx context.Context, v *visit) ([]Cluster, error) {
	var page struct {
		Clusters     []gkeCluster
		MissingZones []string
	}
	if err := v.call(ctx, &listClusters, "/v1/projects/"+v.project+"/locations/-/clusters", url.Values{}, &page); err != nil {
		return nil, err
	}
	page.MissingZones = slices.DeleteFunc(page.MissingZones, func(z string) bool { return !l.cfg.covers(z) })
	v.miss("clusters", page.MissingZones)
	errs := v.Partial
	var here []Cluster
	for n := range page.Clusters {
		g := &page.Clusters[n]
		if !slices.Contains([]string{"RUNNING", "RECONCILING", "DEGRADED"}, g.Status) || !l.cfg.covers(g.Location) {
			continue
		}
		c, err := g.cluster()
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster %.64q: %w", g.Name, err))
			continue
		}
		c.Account, c.Token = v.project, l.token
		here = append(here, c)
	}
	return here, errors.Join(errs...)
}

func (g *gkeCluster) cluster() (Cluster, error) {
	c := Cluster{Name: g.Name, Location: g.Location, Region: regionOf(g.Location)}
	host := g.Endpoint
	if host == "" { // it cannot be reached by address; the certificate of its name comes from a public authority
		host = g.ControlPlaneEndpointsConfig.DNSEndpointConfig.Endpoint
	} else {
		ca, err := base64.StdEncoding.DecodeString(g.MasterAuth.ClusterCACertificate)
		if err != nil || len(ca) == 0 {
			return Cluster{}, errors.New("its certificate authority cannot be read")
		}
		c.CA = ca
	}
	if host == "" || strings.ContainsAny(host, "/?#@ ") {
		return Cluster{}, fmt.Errorf("its endpoint %.256q is none", host)
	}
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		host = "[" + host + "]"
	}
	c.Endpoint = "https://" + host
	return c, nil
}

// token returns an access token: GKE takes those of the cloud.
func (l *Lister) token(ctx context.Context) (string, time.Time, error) {
	id, err := l.identify()
	if err != nil {
		return "", time.Time{}, err
	}
	t, err := id.token(ctx)
	if err != nil {
		l.forget(id, err)
		return "", time.Time{}, err
	}
	return t.Value, t.Expiry, nil
}
