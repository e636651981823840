package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// ec2States are the states of instances that are asked for. Stopped and terminated ones are nobody's endpoint.
var ec2States = map[types.InstanceStateName]poll.State{
	types.InstanceStateNamePending:      poll.StatePending,
	types.InstanceStateNameRunning:      poll.StateRunning,
	types.InstanceStateNameStopping:     poll.StateDraining,
	types.InstanceStateNameShuttingDown: poll.StateDraining,
}

func (v *visit) listEC2(ctx context.Context) error {
	filters := []types.Filter{{Name: aws.String("instance-state-name"), Values: []string{"pending", "running", "stopping", "shutting-down"}}}
	for _, k := range slices.Sorted(maps.Keys(v.cfg.Tags)) {
		if value := v.cfg.Tags[k]; value != "" {
			filters = append(filters, types.Filter{Name: aws.String("tag:" + k), Values: []string{value}})
		} else {
			filters = append(filters, types.Filter{Name: aws.String("tag-key"), Values: []string{k}})
		}
	}
	err := v.eachInstance(ctx, filters, func(owner string, i *types.Instance) error {
		id := v.arn("ec2", owner, "instance/"+aws.ToString(i.InstanceId))
		f, err := v.ec2Record(ctx, id, i)
		switch {
		case poll.Halted(err):
			return err
		case err != nil:
			return v.Spoilt(id, err)
		case len(f.Addresses) == 0 && f.State == poll.StateRunning:
			return v.Spoilt(id, errors.New("it runs and has no address"))
		case len(f.Addresses) == 0:
			return nil // not yet, or no longer
		}
		f.Account, f.instance = owner, aws.ToString(i.InstanceId)
		return v.add(f)
	})
	if err != nil {
		return err
	}
	return v.mergeScaling(ctx)
}

// eachInstance calls see for the instances that pass the filters, with the account that owns them.
func (v *visit) eachInstance(ctx context.Context, filters []types.Filter, see func(owner string, i *types.Instance) error) error {
	return pages(func(token *string) (*string, error) {
		// 1000 is the most that one request may ask for, and requests are what AWS counts.
		out, err := call(ctx, &v.spend, v.describeInstances,
			&ec2.DescribeInstancesInput{Filters: filters, NextToken: token, MaxResults: aws.Int32(1000)})
		if err != nil {
			return nil, err
		}
		for _, r := range out.Reservations {
			for n := range r.Instances {
				if err := see(aws.ToString(r.OwnerId), &r.Instances[n]); err != nil {
					return nil, err
				}
			}
		}
		return out.NextToken, nil
	})
}

func (v *visit) ec2Record(ctx context.Context, id string, i *types.Instance) (found, error) {
	if aws.ToString(i.InstanceId) == "" || i.State == nil {
		return found{}, errors.New("it has no ID or no state")
	}
	state, known := ec2States[i.State.Name]
	if !known {
		return found{}, fmt.Errorf("state %q was not asked for", i.State.Name)
	}
	addrs, err := ec2Addresses(i)
	if err != nil {
		return found{}, err
	}
	zone, err := v.zoneOf(ctx, i.Placement)
	if err != nil {
		return found{}, err
	}
	labels := make(map[string]string, len(i.Tags))
	for _, t := range i.Tags {
		labels[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return found{AddressSet: addrs, Record: poll.Record{ID: id, Region: v.place.region, Zone: zone, Network: aws.ToString(i.VpcId),
		Kind: KindEC2, Addresses: addrs.InOrder(v.cfg.AddressType), State: state, Labels: labels}}, nil
}

// ec2Addresses returns all addresses of an instance: the primary one, those of all interfaces, IPv6, public.
func ec2Addresses(i *types.Instance) (poll.AddressSet, error) {
	var a poll.AddressSet
	var errs []error
	add := func(err error) { errs = append(errs, err) }
	add(a.Private.Add(aws.ToString(i.PrivateIpAddress)))
	for _, n := range i.NetworkInterfaces {
		for _, p := range n.PrivateIpAddresses {
			add(a.Private.Add(aws.ToString(p.PrivateIpAddress)))
			if p.Association != nil {
				add(a.Public.Add(aws.ToString(p.Association.PublicIp)))
			}
		}
		for _, six := range n.Ipv6Addresses {
			add(a.V6.Add(aws.ToString(six.Ipv6Address)))
		}
	}
	add(a.V6.Add(aws.ToString(i.Ipv6Address)))
	add(a.Public.Add(aws.ToString(i.PublicIpAddress)))
	return a, errors.Join(errs...)
}

// zoneOf returns the zone's ID. Where the placement has the name only, the account's table of zones is read, once.
func (v *visit) zoneOf(ctx context.Context, p *types.Placement) (string, error) {
	switch {
	case p == nil:
		return "", nil
	case aws.ToString(p.AvailabilityZoneId) != "":
		return *p.AvailabilityZoneId, nil
	}
	return v.zoneID(ctx, aws.ToString(p.AvailabilityZone))
}

// zoneID returns the ID of a zone by its name. A name that the table lacks has no ID: asking again for each would be a request
// for each workload.
func (v *visit) zoneID(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	v.place.mu.Lock()
	zones := v.place.zones
	v.place.mu.Unlock()
	if zones == nil {
		out, err := call(ctx, &v.spend, v.describeZones, &ec2.DescribeAvailabilityZonesInput{})
		if err != nil {
			return "", poll.Halt(err) // every other item would meet it too
		}
		zones = map[string]string{}
		for _, z := range out.AvailabilityZones {
			zones[aws.ToString(z.ZoneName)] = aws.ToString(z.ZoneId)
		}
		v.place.mu.Lock()
		v.place.zones = zones
		v.place.mu.Unlock()
	}
	return zones[name], nil
}

// subnet is where an address of a task is. It never moves.
type subnet struct{ vpc, zone string }

// knowSubnets reads the subnets that are not known yet.
func (v *visit) knowSubnets(ctx context.Context, ids []string) error {
	return v.knowInBatches(ids, func(id string) bool { _, known := v.place.subnets[id]; return known }, func(batch []string) error {
		return pages(func(token *string) (*string, error) {
			// By filter: an ID in SubnetIds that no longer exists would fail the whole request.
			out, err := call(ctx, &v.spend, v.describeSubnets, &ec2.DescribeSubnetsInput{NextToken: token,
				Filters: []types.Filter{{Name: aws.String("subnet-id"), Values: batch}}})
			if err != nil {
				return nil, err
			}
			v.place.mu.Lock()
			defer v.place.mu.Unlock()
			for _, s := range out.Subnets {
				keep(v.place.subnets, aws.ToString(s.SubnetId), subnet{aws.ToString(s.VpcId), aws.ToString(s.AvailabilityZoneId)})
			}
			return out.NextToken, nil
		})
	})
}

// knowInBatches calls read for the IDs that are not known, at most 100 at a time: EC2 takes 200 values in a filter, ECS 100.
func (v *visit) knowInBatches(ids []string, known func(string) bool, read func(batch []string) error) error {
	v.place.mu.Lock()
	missing := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "" || known(id) })
	v.place.mu.Unlock()
	slices.Sort(missing)
	for batch := range slices.Chunk(slices.Compact(missing), 100) {
		if err := read(batch); err != nil {
			return err
		}
	}
	return nil
}
