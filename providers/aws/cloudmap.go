package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	cloudmap "github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// domain is a Cloud Map namespace. httpName is what instances are discovered by: it is not always the name.
type domain struct{ id, httpName string }

// discoverMost is the most that DiscoverInstances returns, in random order and without pages. What it says when it is not told a
// number is 100.
const discoverMost = 1000

// listDomains returns the names of the Cloud Map namespaces, and remembers their IDs.
func listDomains(ctx context.Context, v *visit) (names []string, err error) {
	err = pages(func(token *string) (*string, error) {
		out, err := call(ctx, &v.spend, v.listNamespaces, &cloudmap.ListNamespacesInput{NextToken: token, MaxResults: aws.Int32(100)})
		if err != nil {
			return nil, err
		}
		v.place.mu.Lock()
		defer v.place.mu.Unlock()
		for _, n := range out.Namespaces {
			d := domain{aws.ToString(n.Id), aws.ToString(n.Name)}
			if n.Properties != nil && n.Properties.HttpProperties != nil && aws.ToString(n.Properties.HttpProperties.HttpName) != "" {
				d.httpName = *n.Properties.HttpProperties.HttpName
			}
			v.place.domains[aws.ToString(n.Name)] = d
			names = append(names, aws.ToString(n.Name))
		}
		return out.NextToken, nil
	})
	return names, err
}

func (v *visit) domain(name string) (domain, bool) {
	v.place.mu.Lock()
	defer v.place.mu.Unlock()
	d, known := v.place.domains[name]
	return d, known
}

func (v *visit) listCloudMap(ctx context.Context, namespace string) error {
	d, known := v.domain(namespace)
	if !known {
		if _, err := listDomains(ctx, v); err != nil {
			return err
		}
		if d, known = v.domain(namespace); !known {
			return fmt.Errorf("there is no Cloud Map namespace %q", namespace)
		}
	}
	byCluster := map[string][]string{} // tasks of ECS by cluster
	err := pages(func(token *string) (*string, error) {
		out, err := call(ctx, &v.spend, v.listServices, &cloudmap.ListServicesInput{NextToken: token, MaxResults: aws.Int32(100),
			Filters: []types.ServiceFilter{{Name: types.ServiceFilterNameNamespaceId, Values: []string{d.id}, Condition: types.FilterConditionEq}}})
		if code(err) == "NamespaceNotFound" { // it was made anew under its name, perhaps
			v.place.mu.Lock()
			delete(v.place.domains, namespace)
			v.place.mu.Unlock()
		}
		if err != nil {
			return nil, err
		}
		for i := range out.Services {
			if err := v.listService(ctx, d, &out.Services[i], byCluster); err != nil {
				return nil, err
			}
		}
		return out.NextToken, nil
	})
	if err != nil {
		return err
	}
	return v.mergeTasks(ctx, byCluster)
}

func (v *visit) listService(ctx context.Context, d domain, s *types.ServiceSummary, byCluster map[string][]string) error {
	instances, err := v.instancesOf(ctx, d, s)
	if code(err) == "ServiceNotFound" {
		return nil // it went away a moment ago
	}
	if err != nil {
		return err
	}
	for i := range instances {
		in := &instances[i]
		id := aws.ToString(s.Arn) + "/" + aws.ToString(in.InstanceId)
		record, err := v.cloudMapRecord(ctx, s, in)
		switch {
		case poll.Halted(err):
			return err
		case err != nil:
			if err := v.Spoilt(id, err); err != nil {
				return err
			}
			continue
		case len(record.Addresses) == 0 && record.Host == "":
			continue // a namespace for the API only may hold queues, functions, anything
		}
		record.ID = id
		if err := v.add(found{Record: record}); err != nil {
			return err
		}
		if cluster := in.Attributes["ECS_CLUSTER_NAME"]; cluster != "" { // ECS registered it: the instance's ID is the task's
			byCluster[cluster] = append(byCluster[cluster], id)
		}
	}
	return nil
}

// revision is the last list of a service's instances. Health is no part of it: a change of health does not make a new one.
type revision struct {
	number    int64
	instances []types.HttpInstanceSummary
}

// instancesOf returns the instances of a service with their health, in one request where there are fewer than discoverMost.
func (v *visit) instancesOf(ctx context.Context, d domain, s *types.ServiceSummary) ([]types.HttpInstanceSummary, error) {
	checked := s.HealthCheckConfig != nil || s.HealthCheckCustomConfig != nil
	v.place.mu.Lock()
	known, has := v.place.revised[aws.ToString(s.Id)]
	v.place.mu.Unlock()
	if has && !checked {
		out, err := call(ctx, &v.spend, v.discoverRevision,
			&cloudmap.DiscoverInstancesRevisionInput{NamespaceName: &d.httpName, ServiceName: s.Name})
		if err != nil {
			return nil, err
		}
		if aws.ToInt64(out.InstancesRevision) == known.number {
			return known.instances, nil
		}
	}
	// ALL, because the default hides the unhealthy ones while there are healthy ones, and shows them when there are none.
	out, err := call(ctx, &v.spend, v.discover, &cloudmap.DiscoverInstancesInput{NamespaceName: &d.httpName, ServiceName: s.Name,
		HealthStatus: types.HealthStatusFilterAll, MaxResults: aws.Int32(discoverMost)})
	if err != nil {
		return nil, err
	}
	instances := out.Instances
	if len(instances) >= discoverMost {
		if instances, err = v.allInstancesOf(ctx, s, checked); err != nil {
			return nil, err
		}
	}
	if !checked && out.InstancesRevision != nil {
		v.place.mu.Lock()
		keep(v.place.revised, aws.ToString(s.Id), revision{*out.InstancesRevision, instances})
		v.place.mu.Unlock()
	}
	return instances, nil
}

// allInstancesOf reads the instances page by page, and their health beside, which that list lacks.
func (v *visit) allInstancesOf(ctx context.Context, s *types.ServiceSummary, checked bool) (all []types.HttpInstanceSummary, err error) {
	err = pages(func(token *string) (*string, error) {
		out, err := call(ctx, &v.spend, v.listInstances,
			&cloudmap.ListInstancesInput{ServiceId: s.Id, NextToken: token, MaxResults: aws.Int32(100)})
		if err != nil {
			return nil, err
		}
		for _, i := range out.Instances {
			all = append(all, types.HttpInstanceSummary{InstanceId: i.Id, ServiceName: s.Name, Attributes: i.Attributes})
		}
		return out.NextToken, nil
	})
	if err != nil || !checked {
		return all, err
	}
	health := map[string]types.HealthStatus{}
	err = pages(func(token *string) (*string, error) {
		out, err := call(ctx, &v.spend, v.instancesHealth,
			&cloudmap.GetInstancesHealthStatusInput{ServiceId: s.Id, NextToken: token, MaxResults: aws.Int32(100)})
		if err != nil {
			return nil, err
		}
		maps.Copy(health, out.Status)
		return out.NextToken, nil
	})
	for i := range all {
		all[i].HealthStatus = health[aws.ToString(all[i].InstanceId)]
	}
	return all, err
}

func (v *visit) cloudMapRecord(ctx context.Context, s *types.ServiceSummary, i *types.HttpInstanceSummary) (poll.Record, error) {
	service, err := arn.Parse(aws.ToString(s.Arn))
	if err != nil {
		return poll.Record{}, fmt.Errorf("read ARN: %w", err)
	}
	zone, err := v.zoneID(ctx, i.Attributes["AVAILABILITY_ZONE"])
	if err != nil {
		return poll.Record{}, err
	}
	var a poll.AddressSet
	if err := errors.Join(a.Private.Add(i.Attributes["AWS_INSTANCE_IPV4"]), a.V6.Add(i.Attributes["AWS_INSTANCE_IPV6"])); err != nil {
		return poll.Record{}, err
	}
	r := poll.Record{Account: service.AccountID, Region: v.place.region, Zone: zone, Kind: KindCloudMap,
		Addresses: a.InOrder(v.cfg.AddressType), Host: i.Attributes["AWS_INSTANCE_CNAME"],
		State: poll.StateRunning, Service: aws.ToString(s.Name), Labels: i.Attributes}
	if text := i.Attributes["AWS_INSTANCE_PORT"]; text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return poll.Record{}, fmt.Errorf("port %q is not a number from 1 to 65535", text)
		}
		r.Ports = []poll.Port{{Number: uint16(n)}}
	}
	switch i.HealthStatus {
	case types.HealthStatusHealthy:
		r.Health = federation.HealthPassing
	case types.HealthStatusUnhealthy:
		r.Health = federation.HealthFailing
	}
	return r, nil
}

// mergeTasks takes the state of instances that are tasks from ECS: Cloud Map keeps a task while it drains. When ECS cannot be asked
// the listing is partial.
func (v *visit) mergeTasks(ctx context.Context, byCluster map[string][]string) error {
	for _, cluster := range slices.Sorted(maps.Keys(byCluster)) {
		byTask := map[string]string{}
		for _, id := range byCluster[cluster] {
			byTask[lastPart(id)] = id
		}
		for batch := range slices.Chunk(slices.Sorted(maps.Keys(byTask)), 100) {
			out, err := call(ctx, &v.spend, v.describeTasks, &ecs.DescribeTasksInput{Cluster: &cluster, Tasks: batch})
			if poll.Halted(err) {
				return err
			}
			if err != nil {
				v.Missing(fmt.Errorf("read the state of the tasks in cluster %q: %w", cluster, err))
				break
			}
			v.setStates(out, byTask)
		}
	}
	return nil
}

func (v *visit) setStates(out *ecs.DescribeTasksOutput, byTask map[string]string) {
	set := func(task *string, state poll.State, health federation.Health) {
		f := v.Get(byTask[lastPart(aws.ToString(task))])
		if f == nil {
			return
		}
		f.State = state
		switch {
		case f.Health == federation.HealthUnknown: // of the two sides, the one that has a check counts
			f.Health = health
		case health != federation.HealthUnknown:
			f.Health = poll.Worse(f.Health, health)
		}
	}
	for i := range out.Tasks {
		state, _ := ecsState(&out.Tasks[i])
		set(out.Tasks[i].TaskArn, state, ecsHealth(&out.Tasks[i]))
	}
	var failed []ecstypes.Failure
	for _, f := range out.Failures {
		if aws.ToString(f.Reason) == "MISSING" {
			set(f.Arn, poll.StateStopped, federation.HealthUnknown)
		} else {
			failed = append(failed, f)
		}
	}
	v.miss("task", failed)
}
