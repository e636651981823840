package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/internal/demo"
)

func (c *cli) demoCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Three regions on this machine: discover, federate, split, drain, kill, heal, deny",
		Long: `Starts three gateways and five small HTTP services on loopback addresses, joined by links with the delay of an ocean, and tells a
story: discover the services, federate, send load, split it between two clouds as a canary, drain a region and give it its share back,
add a machine and take it away, kill every instance of a service in one region, kill a whole gateway, heal, deny a caller and explain it.
Every number shown was measured in that run. It takes some 25 seconds. The exit code is 0 only if every step held: 1 when a
request failed, a share was off or it took too long, 130 after Ctrl-C. With -o json it ends with one object, also then: what was
measured until that moment, and "ok".

The gateways find the services by asking AWS, Google Cloud and Azure. Here these are doubles on loopback addresses that speak the clouds'
protocols; of the user's own credentials nothing is used. On a terminal everything stays up afterwards until Ctrl-C; nothing is left
behind.`,
		Example: "  tradewind demo\n  tradewind demo --once -o json",
		Args:    takes(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.demo(cmd.Context(), once) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the story, also on a terminal")
	return cmd
}

func (c *cli) demo(ctx context.Context, once bool) error {
	hold := c.outTTY && !once && c.human()
	result, err := demo.Run(ctx, demo.Options{Out: c.err, Live: c.errTTY && c.env("TERM") != "dumb", Color: c.colored(c.errTTY),
		Columns: c.columns, Hold: hold, Program: os.Args[0]})
	if !c.human() {
		if err := json.NewEncoder(c.out).Encode(result); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
	}
	if ctx.Err() != nil {
		c.say("stopped; nothing is left behind")
		if err != nil {
			return &exit{code: exitInterrupted}
		}
	}
	if err != nil {
		return err
	}
	if !result.OK {
		return &exit{code: exitFailed}
	}
	if c.human() && !hold {
		c.next("federate two real regions: see the README, or start with: tradewind init REGION")
	}
	return nil
}

// demoServiceCommand is the service that the demo starts; it is of no use by itself.
func (c *cli) demoServiceCommand() *cobra.Command {
	var listen, region, machine string
	cmd := &cobra.Command{
		Use:    "demo-service",
		Hidden: true,
		Args:   takes(0, 0),
		RunE:   func(cmd *cobra.Command, _ []string) error { return demo.Serve(cmd.Context(), listen, region, machine) },
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address to serve on")
	cmd.Flags().StringVar(&region, "region", "", "region to answer with")
	cmd.Flags().StringVar(&machine, "machine", "", "machine to answer with")
	return cmd
}
