package admin

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// HealthCheck is one line of /livez or /readyz. Check returns nil when all is well; it gets 2 s.
type HealthCheck struct {
	Name  string
	Check func(context.Context) error
}

const probeTimeout = 2 * time.Second // below the customary timeout of a kubelet or a load balancer

var probePaths = []string{"/livez", "/readyz", "/metrics"}

// isProbe reports whether r asks for what needs no token: it tells little and changes nothing.
func isProbe(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	for _, p := range probePaths {
		if r.URL.Path == p {
			return true
		}
	}
	return false
}

func (s *Server) probes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/livez", probe("livez", s.cfg.Live))
	mux.Handle("/readyz", probe("readyz", s.cfg.Ready))
	if s.cfg.Gatherer != nil {
		mux.Handle("/metrics", promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	}
	return mux
}

// probe answers as Kubernetes' API server does: "ok", or with ?verbose or on a failure one line for each check.
func probe(name string, checks []HealthCheck) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		var lines strings.Builder
		status := http.StatusOK
		for _, c := range checks {
			if err := c.Check(ctx); err != nil {
				status = http.StatusServiceUnavailable
				fmt.Fprintf(&lines, "[-]%s failed: %s\n", c.Name, strings.ReplaceAll(err.Error(), "\n", " "))
				continue
			}
			fmt.Fprintf(&lines, "[+]%s ok\n", c.Name)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		switch {
		case status != http.StatusOK:
			fmt.Fprintf(w, "%s%s check failed\n", lines.String(), name)
		case r.URL.Query().Has("verbose"):
			fmt.Fprintf(w, "%s%s check passed\n", lines.String(), name)
		default:
			fmt.Fprint(w, "ok")
		}
	})
}
