package aws

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// target is what a load balancer sends to. The network is part of it because private addresses overlap between networks; an
// instance's ID needs none.
type target struct {
	network, host string // host: address or instance ID
	port          uint16 // 0: all ports together
}

// targets is what the load balancers of a place say: the worst of all target groups.
type targets map[target]federation.Health

func (s targets) add(t target, h federation.Health) {
	for _, at := range []target{t, {t.network, t.host, 0}} {
		if before, has := s[at]; has {
			s[at] = poll.Worse(before, h)
		} else {
			s[at] = h
		}
	}
}

// balanced is the last answer of the load balancers of a place.
type balanced struct {
	turn    chan struct{} // holds a token while they are asked: who comes second waits, and uses the answer
	at      time.Time
	asked   map[string]bool // the networks that were asked about, for all kinds and clusters
	targets targets
}

// mergeTargets makes the health of what was found the worst of its own and the load balancers'. When these cannot be asked the
// listing is partial, what they said last counts, and the operator is told.
func (v *visit) mergeTargets(ctx context.Context) error {
	b := &v.place.balanced
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return poll.Halt(fmt.Errorf("wait for the health of load balancers' targets: %w", ctx.Err()))
	}
	vpcs, news := maps.Clone(b.asked), false
	for _, f := range v.Found {
		news = news || !vpcs[f.Network]
		vpcs[f.Network] = true
	}
	if news || time.Since(b.at) >= v.fresh {
		answer, err := v.askBalancers(ctx, vpcs)
		switch {
		case poll.Halted(err):
			return err
		case err != nil:
			v.Missing(fmt.Errorf("read the health of load balancers' targets: %w", err))
		default:
			b.at, b.asked, b.targets = time.Now(), vpcs, answer
		}
	}
	for i := range v.Found {
		b.targets.merge(&v.Found[i])
	}
	return nil
}

func (v *visit) askBalancers(ctx context.Context, vpcs map[string]bool) (targets, error) {
	answer := targets{}
	err := pages(func(token *string) (*string, error) {
		in := &elb.DescribeTargetGroupsInput{Marker: token}
		if len(v.cfg.TargetGroups) > 0 {
			in.Names = v.cfg.TargetGroups // with names the API takes no page size
		} else {
			in.PageSize = aws.Int32(400)
		}
		out, err := call(ctx, &v.spend, v.describeGroups, in)
		if err != nil {
			return nil, err
		}
		for i := range out.TargetGroups {
			// The API describes one group at a time: a request is spent only where it can say something.
			if g := &out.TargetGroups[i]; len(g.LoadBalancerArns) > 0 && vpcs[aws.ToString(g.VpcId)] &&
				(g.TargetType == types.TargetTypeEnumInstance || g.TargetType == types.TargetTypeEnumIp) {
				if err := v.askGroup(ctx, g, answer); err != nil {
					return nil, err
				}
			}
		}
		return out.NextMarker, nil
	})
	return answer, err
}

func (v *visit) askGroup(ctx context.Context, g *types.TargetGroup, answer targets) error {
	out, err := call(ctx, &v.spend, v.describeHealth, &elb.DescribeTargetHealthInput{TargetGroupArn: g.TargetGroupArn})
	if code(err) == "TargetGroupNotFound" || code(err) == "TargetGroupNotFoundException" {
		return nil // it went away a moment ago
	}
	if err != nil {
		return err
	}
	for _, d := range out.TargetHealthDescriptions {
		if d.Target == nil || d.TargetHealth == nil {
			continue
		}
		h, says := balancerHealth[d.TargetHealth.State]
		if !says {
			continue
		}
		t := target{host: aws.ToString(d.Target.Id), port: port(d.Target.Port)}
		if g.TargetType == types.TargetTypeEnumIp {
			var a poll.AddressSet
			if a.Private.Add(t.host) != nil || len(a.Private) == 0 {
				continue
			}
			t.network, t.host = aws.ToString(g.VpcId), a.Private[0].String()
		}
		answer.add(t, h)
	}
	return nil
}

// balancerHealth are the states that say something. "unused" does not: the group has no listener, or the zone is off.
var balancerHealth = map[types.TargetHealthStateEnum]federation.Health{
	types.TargetHealthStateEnumHealthy:           federation.HealthPassing,
	types.TargetHealthStateEnumInitial:           federation.HealthUnknown,
	types.TargetHealthStateEnumUnavailable:       federation.HealthUnknown, // its checks are switched off
	types.TargetHealthStateEnumDraining:          federation.HealthDraining,
	types.TargetHealthStateEnumUnhealthyDraining: federation.HealthDraining,
	types.TargetHealthStateEnumUnhealthy:         federation.HealthFailing,
}

// merge makes the health of f the worst of its own and what is said of it.
func (s targets) merge(f *found) {
	hosts := []target{}
	if f.instance != "" {
		hosts = append(hosts, target{host: f.instance})
	}
	for _, a := range f.Record.Addresses {
		hosts = append(hosts, target{network: f.Network, host: a.String()})
	}
	said, worst := false, federation.HealthPassing
	for _, host := range hosts {
		for _, p := range portsOf(f) {
			host.port = p
			if h, has := s[host]; has {
				said, worst = true, poll.Worse(worst, h)
			}
		}
	}
	switch {
	case !said:
	case f.Health == federation.HealthUnknown: // no check of its own
		f.Health = worst
	default:
		f.Health = poll.Worse(f.Health, worst)
	}
}

// portTag are the tags that name a port, in the spellings that providers/poll reads.
var portTag = regexp.MustCompile(`^mesh[/-]port($|[.-])`)

// portsOf returns the ports whose health is the workload's: its own, else those that its tags name, else all together (0).
func portsOf(f *found) []uint16 {
	var ports []uint16
	for _, p := range f.Ports {
		ports = append(ports, p.Number)
	}
	for k, value := range f.Labels {
		if n, err := strconv.ParseUint(value, 10, 16); err == nil && n > 0 && portTag.MatchString(k) {
			ports = append(ports, uint16(n))
		}
	}
	if len(ports) == 0 {
		return []uint16{0}
	}
	return ports
}
