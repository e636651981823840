// Command tradewind-gateway runs one gateway of a region: control plane, peerings and data path in one process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/agent"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

// version is set by the linker.
var version = "devel"

func main() {
	// quic-go prints a warning of its own where the kernel's buffers are small; the gateway says so in its log and in "check".
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "1")
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	flags := flag.NewFlagSet("tradewind-gateway", flag.ContinueOnError)
	path := flags.String("config", envOr("TRADEWIND_CONFIG", "/etc/tradewind/gateway.hcl"), "gateway.hcl, or a directory of *.hcl files (env TRADEWIND_CONFIG)")
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil || flags.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: tradewind-gateway -config FILE|DIR")
		return 2
	}
	if *showVersion {
		fmt.Println(version)
		return 0
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP) // from the beginning: unasked, it would end the process
	cfg, err := config.Load(*path)
	if err != nil {
		return fail(err, 2)
	}
	// SIGTERM and SIGINT drain and stop; a second one stops at once, because the handler is gone by then.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop)
	a, err := agent.New(ctx, agent.Options{Config: cfg, Path: *path, Version: version, Out: os.Stdout, Err: os.Stderr, Reload: reload})
	if err == nil {
		err = a.Run(ctx)
	}
	if err != nil {
		return fail(err, 1)
	}
	return 0
}

// fail prints err as an operator should read it and returns code.
func fail(err error, code int) int {
	var d *federation.Diagnostic
	if !errors.As(err, &d) {
		fmt.Fprintln(os.Stderr, "tradewind-gateway:", err)
		return code
	}
	fmt.Fprintf(os.Stderr, "%s %s\n", d.Code, d.What)
	if d.Why != "" {
		why := "  " + strings.TrimRight(d.Why, "\n")
		if strings.HasPrefix(d.Why, "\n") { // lines of its own, such as a snippet of the file
			why = strings.TrimRight(d.Why, "\n")
		}
		fmt.Fprintf(os.Stderr, "  why%s\n", why)
	}
	if d.Fix != "" {
		fmt.Fprintf(os.Stderr, "  fix  %s\n", d.Fix)
	}
	fmt.Fprintf(os.Stderr, "  more tradewind help %s\n", d.Code)
	return code
}

func envOr(name, unset string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return unset
}
