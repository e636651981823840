package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// The headers that tell the caller who answered.
const (
	regionHeader  = "X-Served-By"
	machineHeader = "X-Machine"
)

// Serve is the small HTTP service of the demo: it answers with the region and the machine it runs in, on listen, until ctx ends.
func Serve(ctx context.Context, listen, region, machine string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(regionHeader, region)
		w.Header().Set(machineHeader, machine)
		fmt.Fprintf(w, "checkout in %s, process %d: %s %s\n", region, os.Getpid(), r.Method, r.URL.Path)
	})
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen for the demo service: %w", err)
	}
	return serve(ctx, l, mux)
}

// serve answers what comes to l until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
