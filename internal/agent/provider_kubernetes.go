//go:build !no_kubernetes

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/kubernetes"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var openKubernetes opener = func(body any, log *slog.Logger) (poll.Lister, error) {
	c, ok := body.(*config.KubernetesProvider)
	if !ok {
		return nil, wrongBody(body)
	}
	cfg := kubernetes.Config{
		Kubeconfig: c.Kubeconfig, Context: c.Context, InCluster: c.InCluster, Server: c.Server, CAFile: c.CAFile, TokenFile: c.TokenFile,
		Cluster: c.Cluster, Region: c.Region, Namespaces: c.Namespaces, Selector: c.Selector, Log: log,
	}
	if len(c.From) > 0 {
		var err error
		if cfg.Enumerate, err = enumerate(c.From); err != nil {
			return nil, err
		}
	}
	l, err := kubernetes.New(cfg)
	if err != nil {
		return nil, err // not l: a nil *kubernetes.Lister would be a lister
	}
	return l, nil
}

// enumerate returns what lists the clusters of all the clouds that from names.
func enumerate(from []config.Provider) (func(context.Context) ([]kubernetes.Cluster, error), error) {
	lists := make([]listClusters, len(from))
	for i, p := range from {
		c, err := cloudOf(p.Kind, fmt.Sprintf("clusters_from %q", p.Name))
		if err != nil {
			return nil, err
		}
		if lists[i], err = c.clusters(p.Config); err != nil {
			return nil, fmt.Errorf("clusters_from %q: %w", p.Name, err)
		}
	}
	return func(ctx context.Context) ([]kubernetes.Cluster, error) {
		found, errs := make([][]cluster, len(lists)), make([]error, len(lists))
		var all sync.WaitGroup
		for i, list := range lists { // side by side: one that hangs must not cost the others their time
			all.Go(func() {
				if found[i], errs[i] = list(ctx); errs[i] != nil {
					errs[i] = fmt.Errorf("%s: %w", from[i].Name, errs[i])
				}
			})
		}
		all.Wait()
		var out []kubernetes.Cluster
		for _, c := range slices.Concat(found...) {
			out = append(out, kubernetes.Cluster{Name: c.Name, Account: c.Account, Region: c.Region, Endpoint: c.Endpoint, CA: c.CA, Token: c.Token})
		}
		return out, errors.Join(errs...)
	}, nil
}
