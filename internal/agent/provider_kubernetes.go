//go:build !no_kubernetes

package agent

import (
	"fmt"
	"log/slog"

	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/kubernetes"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var openKubernetes opener = func(body any, log *slog.Logger) (poll.Lister, error) {
	c, ok := body.(*config.KubernetesProvider)
	if !ok {
		return nil, fmt.Errorf("configuration is a %T", body)
	}
	l, err := kubernetes.New(kubernetes.Config{
		Kubeconfig: c.Kubeconfig, Context: c.Context, InCluster: c.InCluster, Server: c.Server, CAFile: c.CAFile, TokenFile: c.TokenFile,
		Cluster: c.Cluster, Region: c.Region, Namespaces: c.Namespaces, Selector: c.Selector, Log: log,
	})
	if err != nil {
		return nil, err // not l: a nil *kubernetes.Lister would be a lister
	}
	return l, nil
}
