// Command bench measures Tradewind against other ways to carry a connection over two hops: a plain TCP proxy, TLS for each flow,
// an HTTP/2 CONNECT tunnel, a naive QUIC tunnel (all in this package), and haproxy and nginx where they are installed.
//
// Every comparison is made in turn, A B A B, on one machine and in one run, and is reported as the median of the ratios of
// neighbours. CPU seconds of both proxies are the hard figure: they hold on a busy machine, rates and latencies do not. Nothing
// is printed that this run did not measure; README.md says how to repeat it.
//
// The programs that are measured, the backend and the load generator are processes of their own: this program runs itself again
// in the role that its first argument names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	roles := map[string]func(context.Context, []string) error{
		"backend": backendMain, // what stands behind the second hop
		"tunnel":  tunnelMain,  // one hop of a yardstick
		"load":    loadMain,    // the generator, on the near side of the first hop
	}
	var err error
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		err = roles[os.Args[1]](ctx, os.Args[2:])
	} else {
		err = benchMain(ctx, os.Args[1:])
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the command line of the benchmark itself says.
type options struct {
	quick    bool
	smoke    bool
	strict   bool
	slack    float64
	rounds   int
	only     string
	bin      string
	out      string
	isolated string
}

// benchMain measures, prints and writes the results. A missed goal is an error only with -strict.
func benchMain(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&o.quick, "quick", false, "only what compares with the yardsticks of this package; no root, at most 150 s")
	flags.BoolVar(&o.smoke, "smoke", false, "tiny counts: shows that it runs, its figures mean nothing")
	flags.BoolVar(&o.strict, "strict", false, "a missed goal is a failure")
	flags.Float64Var(&o.slack, "slack", 0, "with -strict: how much a goal may be missed, 0.1 for a tenth")
	flags.IntVar(&o.rounds, "rounds", 0, "at most so many rounds of each case (default: as many as the medians want)")
	flags.StringVar(&o.only, "only", "", "cases to run, separated by commas (default: all of them)")
	flags.StringVar(&o.bin, "bin", "bin", "directory of tradewind and tradewind-gateway")
	flags.StringVar(&o.out, "out", "", "file for the results as JSON (default: none)")
	flags.StringVar(&o.isolated, "isolated", "", "internal: the namespace this process was started in")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown role or argument %q", flags.Arg(0))
	}
	if o.isolated == "" {
		return isolate(ctx, args)
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.run(ctx); err != nil {
		return err
	}
	return b.report(os.Stdout)
}
