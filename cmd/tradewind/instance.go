package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) instanceCommand() *cobra.Command {
	return group("instance", "Register and list instances of services", `Register instances of services through the gateway's API: for
what no provider discovers. A registered instance stays until it is deregistered, over restarts too; one with a ttl check fails when
nobody sends a heartbeat.`,
		c.instanceRegisterCommand(),
		&cobra.Command{
			Use: "deregister SERVICE ID", Short: "Remove a registered instance", Args: takes(2, 2), ValidArgsFunction: c.completeServices,
			RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
				name, err := parseService(args[0])
				if err != nil {
					return err
				}
				if _, err := gw.DeregisterInstance(ctx, &admin.InstanceRequest{Service: name,
					ID: federation.InstanceID(args[1])}); err != nil {
					return err
				}
				c.say("deregistered %s of %v", args[1], name)
				c.next("tradewind instance list %v", name)
				return nil
			}),
		},
		&cobra.Command{
			Use: "heartbeat SERVICE ID", Short: "Say that an instance with a ttl check is alive", Args: takes(2, 2),
			ValidArgsFunction: c.completeServices,
			RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
				name, err := parseService(args[0])
				if err != nil {
					return err
				}
				res, err := gw.HeartbeatInstance(ctx, &admin.InstanceRequest{Service: name, ID: federation.InstanceID(args[1])})
				if err != nil {
					return err
				}
				c.say("heartbeat of %s noted; the next is due within %s", args[1], c.until(res.Expires))
				return nil
			}),
		},
		&cobra.Command{
			Use: "list [SERVICE]", Aliases: []string{"ls"}, Short: "List local instances with their health", Args: takes(0, 1),
			ValidArgsFunction: c.completeServices,
			RunE:              c.withGateway(usualTimeout, c.listInstances),
		})
}

// registration is the flags of instance register.
type registration struct {
	id, address, zone, protocol string
	weight                      uint16
	labels                      map[string]string
	checks                      []string
	ttl                         time.Duration
}

func (c *cli) instanceRegisterCommand() *cobra.Command {
	var r registration
	cmd := &cobra.Command{
		Use: "register SERVICE --address IP:PORT", Short: "Add an instance, or replace the one with its ID", Args: takes(1, 1),
		ValidArgsFunction: c.completeServices,
		Example: `  tradewind instance register checkout --address 192.0.2.10:8080
  tradewind instance register checkout --address 192.0.2.10:8080 --check http:/healthz
  tradewind instance register batch --address 192.0.2.11:9000 --check ttl --ttl 30s`,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			instance, err := r.instance(args[0])
			if err != nil {
				return err
			}
			res, err := gw.RegisterInstance(ctx, &admin.RegisterInstanceRequest{Instance: instance})
			if err != nil {
				return err
			}
			word := "registered"
			if res.Replaced {
				word = "replaced"
			}
			c.say("%s %s of %v at %v", word, res.Instance.ID, res.Instance.Service, res.Instance.Address)
			c.next("tradewind services show %v", res.Instance.Service)
			return c.emit(answer{value: res, names: []string{string(res.Instance.ID)}, table: func(*screen) {}})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&r.address, "address", "", "IP:port it listens on (required)")
	f.StringVar(&r.id, "id", "", "its ID within the service (default: the address)")
	f.StringVar(&r.zone, "zone", "", "zone it runs in")
	f.StringVar(&r.protocol, "protocol", "", "tcp (default), http, http2 or grpc")
	f.Uint16Var(&r.weight, "weight", 0, "relative share of load (default 100)")
	f.StringToStringVar(&r.labels, "label", nil, "label as key=value; may be repeated")
	f.StringArrayVar(&r.checks, "check", nil, "tcp, http:/path, grpc or ttl; may be repeated")
	f.DurationVar(&r.ttl, "ttl", 0, "with --check ttl: how long one heartbeat lasts (default 15s)")
	return cmd
}

// instance builds the instance that the flags describe.
func (r registration) instance(service string) (federation.Instance, error) {
	name, err := parseService(service)
	if err != nil {
		return federation.Instance{}, err
	}
	address, err := netip.ParseAddrPort(r.address)
	if err != nil {
		return federation.Instance{}, usage(fmt.Sprintf("address %q is not an IP address and a port", r.address),
			"write --address 192.0.2.10:8080")
	}
	protocol, err := federation.ParseProtocol(r.protocol)
	if err != nil {
		return federation.Instance{}, usage(err.Error(), "")
	}
	i := federation.Instance{ID: federation.InstanceID(cmp.Or(r.id, r.address)), Service: name, Address: address, Protocol: protocol,
		Locality: federation.Locality{Zone: r.zone}, Weight: r.weight, Labels: r.labels, Health: federation.HealthPassing}
	hasTTL := false
	for _, text := range r.checks {
		kind, path, _ := strings.Cut(text, ":")
		check := federation.CheckSpec{Kind: federation.CheckKind(kind), Path: path}
		if check.Kind == federation.CheckTTL {
			check.TTL, hasTTL = federation.Duration(r.ttl), true
		}
		if err := check.Validate(); err != nil {
			return i, usage(err.Error(), "write --check tcp, --check http:/healthz, --check grpc or --check ttl")
		}
		i.Checks = append(i.Checks, check)
	}
	if r.ttl != 0 && !hasTTL {
		return i, usage("--ttl is given without --check ttl", "add --check ttl")
	}
	return i, nil
}

func (c *cli) listInstances(ctx context.Context, gw *admin.Client, args []string) error {
	request := &admin.ListInstancesRequest{}
	if len(args) > 0 {
		name, err := parseService(args[0])
		if err != nil {
			return err
		}
		request.Service = name
	}
	res, err := gw.ListInstances(ctx, request)
	if err != nil {
		return err
	}
	var names []string
	for _, i := range res.Instances {
		names = append(names, i.Service.String()+"/"+string(i.ID))
	}
	return c.emit(answer{value: res, items: listOf(res.Instances), names: names, table: func(s *screen) {
		if len(res.Instances) == 0 {
			s.line("No instances.")
			return
		}
		c.instanceTable(s, res.Instances)
	}})
}

func (c *cli) instanceTable(s *screen, list []admin.InstanceStatus) {
	header := []string{"SERVICE", "INSTANCE", "ADDRESS", "ZONE", "HEALTH", "SINCE", "SOURCE"}
	if s.wide {
		header = append(header, "WEIGHT", "LABELS")
	}
	reasons := slices.ContainsFunc(list, func(i admin.InstanceStatus) bool { return i.Reason != "" })
	if reasons {
		header = append(header, "REASON")
	}
	var rows [][]cell
	for _, i := range list {
		health := map[federation.Health]style{federation.HealthPassing: good, federation.HealthFailing: bad}[i.Health]
		row := []cell{{text: i.Service.String()}, {text: string(i.ID)}, {text: i.Address.String()}, {text: i.Locality.Zone},
			{text: i.Health.String(), style: health}, {text: c.ago(i.Since)}, {text: string(i.Source)}}
		if s.wide {
			var labels []string
			for _, key := range slices.Sorted(maps.Keys(i.Labels)) {
				labels = append(labels, key+"="+i.Labels[key])
			}
			row = append(row, text(fmt.Sprint(cmp.Or(i.Weight, federation.DefaultWeight)), strings.Join(labels, ","))...)
		}
		if reasons {
			row = append(row, cell{text: i.Reason})
		}
		rows = append(rows, row)
	}
	s.table(header, rows)
}

func (c *cli) sourceCommand() *cobra.Command {
	return group("source", "Show where instances come from", "", &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List sources with the age of what they last said", Args: takes(0, 0),
		Long: "List sources. A source that fails changes nothing: its last complete set stays in use, and its age grows.",
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
			res, err := gw.ListSources(ctx, &admin.ListSourcesRequest{})
			if err != nil {
				return err
			}
			var names []string
			var rows [][]cell
			for _, src := range res.Sources {
				names = append(names, string(src.Name))
				state := cell{text: "ok", style: good}
				if src.Error != "" {
					state = cell{text: "failing: " + src.Error, style: bad}
				}
				rows = append(rows, []cell{{text: string(src.Name)}, {text: fmt.Sprint(src.Instances)}, {text: secs(src.AgeSeconds)},
					{text: c.ago(src.LastComplete)}, state})
			}
			return c.emit(answer{value: res, items: listOf(res.Sources), names: names, table: func(s *screen) {
				s.table([]string{"SOURCE", "INSTANCES", "AGE", "LAST COMPLETE", "STATE"}, rows)
			}})
		}),
	})
}
