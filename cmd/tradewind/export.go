package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) exportCommand() *cobra.Command {
	var opts struct {
		to, allow []string
		f         changeFlags
	}
	cmd := &cobra.Command{
		Use: "export SERVICE --to PEER", Short: "Show a service to peers, and allow callers there", Args: takes(1, 1),
		ValidArgsFunction: c.completeServices,
		Long: `Show a service of this region to peers, in addition to those that are shown it already. To be shown is not to be
allowed: name the callers with --allow, or write intentions. "--to '*'" means every peer, also those to come.`,
		Example: `  tradewind services export checkout --to gcp-europe-west1
  tradewind services export checkout --to gcp-europe-west1 --allow web`,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			service, err := parseService(args[0])
			if err != nil {
				return err
			}
			if len(opts.to) == 0 {
				return usage("no peer is named", "write --to PEER, or --to '*' for all")
			}
			export, err := exportOf(ctx, gw, service)
			if err != nil {
				return err
			}
			for _, to := range opts.to {
				if !slices.Contains(export.To, to) {
					export.To = append(export.To, to)
				}
			}
			put := []federation.Resource{{Key: exportKey(service), Spec: export}}
			for _, caller := range opts.allow {
				for _, to := range opts.to {
					source := caller + "@" + to
					put = append(put, federation.Resource{Key: federation.Key{Kind: federation.KindIntention,
						Name: intentionName(source, service.String())},
						Spec: &federation.Intention{Source: source, Destination: service.String(), Action: federation.Allow}})
				}
			}
			for _, r := range put {
				if err := r.Validate(); err != nil {
					return usage(err.Error(), "")
				}
			}
			opts.f.yes = true // service and peers were typed out; that is enough of a confirmation
			if err := c.apply(ctx, gw, &admin.ChangeRequest{Owner: owner, Put: put, Force: opts.f.force}, opts.f); err != nil {
				return err
			}
			if len(opts.allow) == 0 {
				c.next("tradewind intention allow CALLER@%s %s   (shown is not allowed)", opts.to[0], service)
			}
			return nil
		}),
	}
	cmd.Flags().StringSliceVar(&opts.to, "to", nil, "peer to show it to, or '*' for all; may be repeated")
	cmd.Flags().StringSliceVar(&opts.allow, "allow", nil, "service there that may call it; may be repeated")
	cmd.Flags().BoolVar(&opts.f.dryRun, "dry-run", false, "only show what would change")
	cmd.Flags().BoolVar(&opts.f.force, "force", false, "take over an export of another owner")
	_ = cmd.RegisterFlagCompletionFunc("to", c.completePeerFlag)
	return cmd
}

func (c *cli) unexportCommand() *cobra.Command {
	var from []string
	var f changeFlags
	cmd := &cobra.Command{
		Use: "unexport SERVICE", Short: "Stop showing a service to peers", Args: takes(1, 1), ValidArgsFunction: c.completeServices,
		Long:    "Stop showing a service: to the peers named with --from, or to all. Connections that its callers there have are closed.",
		Example: "  tradewind services unexport checkout --from gcp-europe-west1\n  tradewind services unexport checkout",
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			service, err := parseService(args[0])
			if err != nil {
				return err
			}
			export, err := exportOf(ctx, gw, service)
			if err != nil {
				return err
			}
			rest := slices.DeleteFunc(slices.Clone(export.To), func(to string) bool { return len(from) == 0 || slices.Contains(from, to) })
			change := &admin.ChangeRequest{Owner: owner, Force: f.force}
			switch {
			case len(export.To) == 0:
				return usage(fmt.Sprintf("%s is not exported", service), "see: tradewind services list")
			case len(rest) == len(export.To):
				return usage(fmt.Sprintf("%s is exported to %s, not to %s", service, strings.Join(export.To, ", "), strings.Join(from,
					", ")), "")
			case len(rest) == 0:
				change.Delete = []federation.Key{exportKey(service)}
			default:
				export.To = rest
				change.Put = []federation.Resource{{Key: exportKey(service), Spec: export}}
			}
			return c.apply(ctx, gw, change, f)
		}),
	}
	cmd.Flags().StringSliceVar(&from, "from", nil, "peer to hide it from (default: all); may be repeated")
	f.yesFlags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("from", c.completePeerFlag)
	return cmd
}

func exportKey(service federation.ServiceName) federation.Key {
	return federation.Key{Kind: federation.KindExport, Name: service.String()}
}

// exportOf returns the stored export of service, or an empty one.
func exportOf(ctx context.Context, gw *admin.Client, service federation.ServiceName) (*federation.Export, error) {
	res, err := gw.ListResources(ctx, &admin.ListResourcesRequest{Kinds: []federation.Kind{federation.KindExport}})
	if err != nil {
		return nil, err
	}
	for _, r := range res.Resources {
		if r.Name != service.String() {
			continue
		}
		if e, ok := r.Spec.(*federation.Export); ok {
			return e, nil
		}
		return nil, errors.New("the gateway sent an export that is none")
	}
	return &federation.Export{}, nil
}
