// Command tradewind is the command line of Tradewind: it asks a gateway and gives it orders through its admin API, and it
// writes and checks configuration files without one.
//
// What a command finds goes to standard output, what it says about it to standard error. The exit code is 0 for done, allowed
// and direct; 1 failed; 2 used wrongly or configuration not valid; 3 a check found errors; 4 works, but not as it should; 5
// unreachable or timed out; 6 denied by policy; 130 interrupted. With -o json or jsonl an error is one JSON object on standard
// error, {"errors": [{"code", "what", "why", "fix"}]}.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // the second signal ends the program at once, whatever it waits for
	c := &cli{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, now: time.Now,
		inTTY: term.IsTerminal(int(os.Stdin.Fd())), outTTY: term.IsTerminal(int(os.Stdout.Fd())),
		errTTY: term.IsTerminal(int(os.Stderr.Fd())),
	}
	c.columns, _, _ = term.GetSize(int(os.Stderr.Fd()))
	code := c.execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
