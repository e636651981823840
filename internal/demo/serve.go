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

// regionHeader tells the caller who answered.
const regionHeader = "X-Served-By"

// Serve is the small HTTP service of the demo: it answers with the region it runs in, on listen, until ctx ends.
func Serve(ctx context.Context, listen, region string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(regionHeader, region)
		fmt.Fprintf(w, "checkout in %s, process %d: %s %s\n", region, os.Getpid(), r.Method, r.URL.Path)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen for the demo service: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
