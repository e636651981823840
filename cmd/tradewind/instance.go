package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
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
nobody sends a heartbeat. Who registers with an owner token must show it to change the registration later.`,
		c.instanceRegisterCommand(), c.instanceDeregisterCommand(), c.instanceHeartbeatCommand(),
		&cobra.Command{
			Use: "list [SERVICE]", Aliases: []string{"ls"}, Short: "List local instances with their health", Args: takes(0, 1),
			ValidArgsFunction: c.completeServices,
			RunE:              c.withGateway(usualTimeout, c.listInstances),
		})
}

// claim is the flags that show the right to change a registration.
type claim struct {
	tokenFile string
	force     bool
}

func (o *claim) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.tokenFile, "owner-token-file", "", "file with the owner token that the instance is registered with")
	cmd.Flags().BoolVar(&o.force, "force", false, "do it without the owner token")
}

// request names the instance that args name, with the right to change it.
func (o claim) request(args []string) (*admin.InstanceRequest, error) {
	name, err := parseService(args[0])
	if err != nil {
		return nil, err
	}
	token, err := ownerToken(o.tokenFile)
	return &admin.InstanceRequest{Service: name, ID: federation.InstanceID(args[1]), Token: token, Force: o.force}, err
}

// ownerToken reads a token that does not belong on a command line, where every user of the host sees it.
func ownerToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	content, err := os.ReadFile(file)
	token := strings.TrimSpace(string(content))
	if err == nil && token == "" {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return "", usage(fmt.Sprintf("the owner token cannot be read: %v", err), "write it into the file that --owner-token-file names")
	}
	return token, nil
}

func (c *cli) instanceDeregisterCommand() *cobra.Command {
	var own claim
	cmd := &cobra.Command{
		Use: "deregister SERVICE ID", Short: "Remove a registered instance", Args: takes(2, 2), ValidArgsFunction: c.completeServices,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			request, err := own.request(args)
			if err != nil {
				return err
			}
			if _, err := gw.DeregisterInstance(ctx, request); err != nil {
				return err
			}
			c.say("deregistered %s of %v", request.ID, request.Service)
			c.next("tradewind instance list %v", request.Service)
			return nil
		}),
	}
	own.flags(cmd)
	return cmd
}

func (c *cli) instanceHeartbeatCommand() *cobra.Command {
	var own claim
	var health, note string
	cmd := &cobra.Command{
		Use: "heartbeat SERVICE ID", Short: "Say how an instance is, and that one with a ttl check is alive", Args: takes(2, 2),
		ValidArgsFunction: c.completeServices,
		Example: `  tradewind instance heartbeat batch 192.0.2.11:9000
  tradewind instance heartbeat batch 192.0.2.11:9000 --health failing --note "queue is full"`,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			request, err := own.request(args)
			if err != nil {
				return err
			}
			if err := request.Health.UnmarshalText([]byte(health)); err != nil || request.Health == federation.HealthUnknown {
				return usage(fmt.Sprintf("--health %s is not what a heartbeat can say", health), "write passing, failing or draining")
			}
			request.Output = note
			res, err := gw.HeartbeatInstance(ctx, request)
			if err != nil {
				return err
			}
			due := "it has no ttl check, so none is due"
			if !res.Expires.IsZero() {
				due = "the next is due within " + c.until(res.Expires)
			}
			c.say("heartbeat of %s noted; %s", request.ID, due)
			return nil
		}),
	}
	own.flags(cmd)
	cmd.Flags().StringVar(&health, "health", "passing", "passing, failing, or draining: existing connections go on, new ones go elsewhere")
	cmd.Flags().StringVar(&note, "note", "", "what services show tells beside it")
	return cmd
}

// registration is the flags of instance register.
type registration struct {
	id, address, zone, protocol string
	weight                      uint16
	labels                      map[string]string
	checks                      []string
	ttl, deregisterAfter        time.Duration
	tokenFile                   string
}

func (c *cli) instanceRegisterCommand() *cobra.Command {
	var r registration
	cmd := &cobra.Command{
		Use: "register SERVICE --address IP:PORT", Short: "Add an instance, or replace the one with its ID", Args: takes(1, 1),
		ValidArgsFunction: c.completeServices,
		Example: `  tradewind instance register checkout --address 192.0.2.10:8080
  tradewind instance register checkout --address 192.0.2.10:8080 --check http:/healthz
  tradewind instance register batch --address 192.0.2.11:9000 --check ttl --ttl 30s`,
		Long: `Add an instance, or replace the one with its ID. Checks that need more than a path are declared in the service
resource; they are made of every instance that brings none of its own. Here --address is the instance's: a gateway on another address
than its socket is named by TRADEWIND_ADDRESS.`,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			instance, err := r.instance(args[0])
			if err != nil {
				return err
			}
			token, err := ownerToken(r.tokenFile)
			if err != nil {
				return err
			}
			res, err := gw.RegisterInstance(ctx, &admin.RegisterInstanceRequest{Instance: instance, Token: token,
				DeregisterAfter: federation.Duration(r.deregisterAfter)})
			if err != nil {
				return err
			}
			word := "registered"
			if res.Replaced {
				word = "replaced"
			}
			c.say("%s %s of %v at %v", word, res.Instance.ID, res.Instance.Service, res.Instance.Address)
			if len(res.Also) > 0 {
				c.say("an instance of this ID is also reported by %s; tradewind check tells if they contradict each other", joined(res.Also))
			}
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
	f.StringArrayVar(&r.checks, "check", nil, "tcp, http:/path, https:/path, grpc or ttl; may be repeated")
	f.DurationVar(&r.ttl, "ttl", 0, "with --check ttl: how long one heartbeat lasts (default 15s)")
	f.DurationVar(&r.deregisterAfter, "deregister-after", 0, "with --check ttl: how long after it failed the registration is removed (default never)")
	f.StringVar(&r.tokenFile, "owner-token-file", "", "file with a token, which changes of the registration must then show")
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
		if kind == "https" {
			check.Kind, check.TLS = federation.CheckHTTP, true
		}
		if check.Kind == federation.CheckTTL {
			check.TTL, hasTTL = federation.Duration(r.ttl), true
		}
		if err := check.Validate(); err != nil {
			return i, usage(err.Error(), "write --check tcp, --check http:/healthz, --check https:/healthz, --check grpc or --check ttl")
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
			{text: i.Health.String(), style: health}, {text: c.ago(i.Since)}, {text: joined(append([]federation.SourceName{i.Source}, i.Also...))}}
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

// checkTable shows where the checks of the instances stand, if they have any.
func (c *cli) checkTable(s *screen, list []admin.InstanceStatus) {
	var rows [][]cell
	for _, i := range list {
		for _, k := range i.CheckStatus {
			health := map[federation.Health]style{federation.HealthPassing: good, federation.HealthFailing: bad}[k.Health]
			rows = append(rows, []cell{{text: string(i.ID)}, {text: string(k.Kind) + " " + k.Target}, {text: k.Health.String(), style: health},
				{text: c.ago(admin.At(k.Since))}, {text: c.ago(admin.At(k.Last))}, {text: strings.Trim(k.Reason+": "+k.Output, ": ")}})
		}
	}
	if len(rows) > 0 {
		s.line("")
		s.table([]string{"INSTANCE", "CHECK", "HEALTH", "SINCE", "LAST ANSWER", "SAID"}, rows)
	}
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
				switch {
				case src.Error != "":
					state = cell{text: "failing: " + src.Error, style: bad}
				case src.Skipped+src.Conflicts > 0:
					state = cell{text: fmt.Sprintf("%d not valid, %d contradicted: tradewind check", src.Skipped, src.Conflicts), style: warn}
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
