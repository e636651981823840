package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// ecsState is where a task stands. The desired status is no state: it says RUNNING while the image is still being pulled. Only when
// it says STOPPED it counts, for then ECS takes the task out although it still runs.
func ecsState(t *types.Task) (state poll.State, exists bool) {
	switch aws.ToString(t.LastStatus) {
	case "PROVISIONING", "PENDING", "ACTIVATING":
		return poll.StatePending, true
	case "RUNNING":
		if aws.ToString(t.DesiredStatus) == "STOPPED" {
			return poll.StateDraining, true
		}
		return poll.StateRunning, true
	case "DEACTIVATING", "STOPPING", "DEPROVISIONING":
		return poll.StateDraining, true
	}
	return poll.StateStopped, false
}

// listClusters returns the names of the ECS clusters.
func listClusters(ctx context.Context, v *visit) (names []string, err error) {
	err = pages(func(token *string) (*string, error) {
		out, err := call(ctx, &v.spend, v.listECSClusters, &ecs.ListClustersInput{NextToken: token, MaxResults: aws.Int32(100)})
		if err != nil {
			return nil, err
		}
		for _, a := range out.ClusterArns {
			names = append(names, lastPart(a))
		}
		return out.NextToken, nil
	})
	return names, err
}

func (v *visit) listECS(ctx context.Context, cluster string) error {
	arns, err := v.taskARNs(ctx, cluster)
	if err != nil {
		return err
	}
	tasks, err := v.tasks(ctx, cluster, arns)
	if err != nil {
		return err
	}
	if err := v.knowDefinitions(ctx, tasks); err != nil {
		return err
	}
	if err := v.knowPlaces(ctx, cluster, tasks); err != nil {
		return err
	}
	alive := map[string]bool{}
	for i := range tasks {
		t := &tasks[i]
		id := aws.ToString(t.TaskArn)
		state, exists := ecsState(t)
		if !exists {
			continue
		}
		alive[id] = true
		f, err := v.ecsRecord(t, state)
		switch {
		case err != nil && state == poll.StateRunning:
			err = v.Spoilt(id, err)
		case err == nil:
			err = v.add(f)
		default:
			err = nil // a task that starts or ends has not all of its parts
		}
		if err != nil {
			return err
		}
	}
	v.place.mu.Lock()
	v.place.tasks[cluster] = alive
	v.place.mu.Unlock()
	return nil
}

// taskARNs returns the tasks that should run, and those known from before that no longer should: ECS lists a task under its desired
// status, so that one that drains is missing from the moment it starts to. Asking for those that should be stopped would bring all
// that have ended within the hour.
func (v *visit) taskARNs(ctx context.Context, cluster string) ([]string, error) {
	listed := map[string]bool{}
	err := pages(func(token *string) (*string, error) {
		out, err := call(ctx, &v.spend, v.listTasks, &ecs.ListTasksInput{Cluster: &cluster, NextToken: token, MaxResults: aws.Int32(100)})
		if err != nil {
			return nil, err
		}
		for _, a := range out.TaskArns {
			listed[a] = true
		}
		if len(listed) > poll.MaxGathered {
			return nil, fmt.Errorf("there are more than %d tasks in cluster %q", poll.MaxGathered, cluster)
		}
		return out.NextToken, nil
	})
	v.place.mu.Lock()
	maps.Copy(listed, v.place.tasks[cluster])
	v.place.mu.Unlock()
	return slices.Sorted(maps.Keys(listed)), err
}

// tasks describes tasks, 100 with each request.
func (v *visit) tasks(ctx context.Context, cluster string, arns []string) ([]types.Task, error) {
	var tasks []types.Task
	for batch := range slices.Chunk(arns, 100) {
		out, err := call(ctx, &v.spend, v.describeTasks,
			&ecs.DescribeTasksInput{Cluster: &cluster, Tasks: batch, Include: []types.TaskField{types.TaskFieldTags}})
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, out.Tasks...)
		v.miss("task", out.Failures)
	}
	return tasks, nil
}

// miss notes failures: ECS answers with status 200 when it could describe a part only. What is gone is no failure.
func (v *visit) miss(what string, failures []types.Failure) {
	for n, f := range failures {
		if reason := aws.ToString(f.Reason); reason != "MISSING" && n < 10 { // ten say it; a hundred fill the log
			v.Missing(fmt.Errorf("describe %s %s: %s %s", what, aws.ToString(f.Arn), reason, aws.ToString(f.Detail)))
		}
	}
}

// definition is what is needed of a task definition.
type definition struct {
	mode   types.NetworkMode
	ports  []mapping
	labels map[string]string
	err    error // it cannot be described any more
}

// mapping is one port of a container.
type mapping struct {
	poll.Port        // Number is the container's port
	container string // its name
	host      uint16 // in mode host and bridge; 0: dynamic
}

// knowDefinitions reads the task definitions that are not known yet. By ARN, which names a revision: that never changes, so that a
// redeployment costs one request, not one for each task.
func (v *visit) knowDefinitions(ctx context.Context, tasks []types.Task) error {
	need := map[string]bool{}
	v.place.mu.Lock()
	for i := range tasks {
		a := aws.ToString(tasks[i].TaskDefinitionArn)
		if _, exists := ecsState(&tasks[i]); exists && v.place.defs[a] == nil {
			need[a] = true
		}
	}
	v.place.mu.Unlock()
	for _, a := range slices.Sorted(maps.Keys(need)) {
		out, err := call(ctx, &v.spend, v.describeDefinition,
			&ecs.DescribeTaskDefinitionInput{TaskDefinition: &a, Include: []types.TaskDefinitionField{types.TaskDefinitionFieldTags}})
		var d *definition
		switch {
		case err == nil && out.TaskDefinition != nil:
			d = readDefinition(out)
		case err == nil:
			d = &definition{err: errors.New("its task definition is empty")}
		case code(err) == "ClientException": // the API's word for one that was deleted; its tasks may run on
			d = &definition{err: err}
		default:
			return err
		}
		v.place.mu.Lock()
		keep(v.place.defs, a, d)
		v.place.mu.Unlock()
	}
	return nil
}

func readDefinition(out *ecs.DescribeTaskDefinitionOutput) *definition {
	d := &definition{mode: out.TaskDefinition.NetworkMode, labels: map[string]string{}}
	for _, c := range out.TaskDefinition.ContainerDefinitions {
		for k, value := range c.DockerLabels {
			if _, has := d.labels[k]; !has { // the first container is the main one
				d.labels[k] = value
			}
		}
		for _, p := range c.PortMappings {
			if p.Protocol == types.TransportProtocolUdp || p.ContainerPort == nil { // a range has no single port
				continue
			}
			number, host := port(p.ContainerPort), port(p.HostPort)
			if number == 0 {
				continue
			}
			d.ports = append(d.ports, mapping{poll.Port{Name: aws.ToString(p.Name), Number: number, Protocol: string(p.AppProtocol)},
				aws.ToString(c.Name), host})
		}
	}
	for i := range d.ports {
		if len(d.ports) > 1 && d.ports[i].Name == "" { // by the port that the image is known for: the host's may be dynamic
			d.ports[i].Name = fmt.Sprint(d.ports[i].Number)
		}
	}
	for _, t := range out.Tags {
		d.labels[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return d
}

func port(p *int32) uint16 {
	if n := aws.ToInt32(p); n > 0 && n < 65536 {
		return uint16(n)
	}
	return 0
}

// host is the EC2 instance that tasks share addresses with.
type host struct {
	instance, vpc, zone string
	addresses           poll.AddressSet
}

// knowPlaces reads the subnets of the tasks with an interface of their own, and the hosts of the others.
func (v *visit) knowPlaces(ctx context.Context, cluster string, tasks []types.Task) error {
	var subnets, hosts []string
	for i := range tasks {
		if _, exists := ecsState(&tasks[i]); !exists {
			continue
		}
		if eni := interfaceOf(&tasks[i]); eni != nil {
			subnets = append(subnets, eni["subnetId"])
		} else {
			hosts = append(hosts, aws.ToString(tasks[i].ContainerInstanceArn))
		}
	}
	if err := v.knowSubnets(ctx, subnets); err != nil {
		return err
	}
	return v.knowInBatches(hosts, func(a string) bool { _, known := v.place.hosts[a]; return known }, func(batch []string) error {
		return v.readHosts(ctx, cluster, batch)
	})
}

// readHosts reads at most 100 container instances and the EC2 instances that they are.
func (v *visit) readHosts(ctx context.Context, cluster string, arns []string) error {
	out, err := call(ctx, &v.spend, v.describeHosts, &ecs.DescribeContainerInstancesInput{Cluster: &cluster, ContainerInstances: arns})
	if err != nil {
		return err
	}
	v.miss("container instance", out.Failures)
	byInstance := map[string][]string{}
	for _, c := range out.ContainerInstances {
		if id := aws.ToString(c.Ec2InstanceId); strings.HasPrefix(id, "i-") { // "mi-" is a machine outside AWS, whose address nobody knows
			byInstance[id] = append(byInstance[id], aws.ToString(c.ContainerInstanceArn))
		}
	}
	if len(byInstance) == 0 {
		return nil
	}
	// By filter: an ID in InstanceIds that no longer exists would fail the whole request.
	filter := ec2types.Filter{Name: aws.String("instance-id"), Values: slices.Sorted(maps.Keys(byInstance))}
	return v.eachInstance(ctx, []ec2types.Filter{filter}, func(_ string, i *ec2types.Instance) error {
		addrs, err := ec2Addresses(i)
		if err != nil || len(addrs.InOrder("")) == 0 {
			return nil // its tasks will say that they have no address
		}
		zone, err := v.zoneOf(ctx, i.Placement)
		if err != nil {
			return err
		}
		v.place.mu.Lock()
		defer v.place.mu.Unlock()
		for _, a := range byInstance[aws.ToString(i.InstanceId)] {
			keep(v.place.hosts, a, host{aws.ToString(i.InstanceId), aws.ToString(i.VpcId), zone, addrs})
		}
		return nil
	})
}

// interfaceOf returns what is known of the task's network interface, nil when it has none. Other attachments, such as volumes and
// Service Connect, are no interfaces.
func interfaceOf(t *types.Task) map[string]string {
	for _, a := range t.Attachments {
		if aws.ToString(a.Type) != "ElasticNetworkInterface" {
			continue
		}
		details := map[string]string{}
		for _, d := range a.Details {
			details[aws.ToString(d.Name)] = aws.ToString(d.Value)
		}
		return details
	}
	return nil
}

func (v *visit) ecsRecord(t *types.Task, state poll.State) (found, error) {
	task, err := arn.Parse(aws.ToString(t.TaskArn))
	if err != nil {
		return found{}, fmt.Errorf("read ARN: %w", err)
	}
	v.place.mu.Lock()
	d, h := v.place.defs[aws.ToString(t.TaskDefinitionArn)], v.place.hosts[aws.ToString(t.ContainerInstanceArn)]
	v.place.mu.Unlock()
	if d == nil || d.err != nil {
		return found{}, fmt.Errorf("its task definition %s cannot be read", aws.ToString(t.TaskDefinitionArn))
	}
	f := found{Record: poll.Record{ID: aws.ToString(t.TaskArn), Account: task.AccountID, Region: v.place.region, Kind: KindECS,
		State: state, Health: ecsHealth(t), Labels: maps.Clone(d.labels)}}
	f.Service, _ = strings.CutPrefix(aws.ToString(t.Group), "service:")
	if f.Service == aws.ToString(t.Group) {
		f.Service = "" // a task that no service runs
	}
	for _, tag := range t.Tags {
		f.Labels[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	addrs := h.addresses
	if eni := interfaceOf(t); eni != nil { // decides, and not the launch type: tasks on EC2 may have interfaces too
		v.place.mu.Lock()
		net := v.place.subnets[eni["subnetId"]]
		v.place.mu.Unlock()
		f.Network, f.Zone = net.vpc, net.zone
		if addrs, err = taskAddresses(t, eni); err != nil {
			return found{}, err
		}
		for _, m := range d.ports {
			f.Ports = append(f.Ports, m.Port)
		}
	} else {
		f.Network, f.Zone, f.instance = h.vpc, h.zone, h.instance
		f.Ports = hostPorts(t, d)
	}
	if f.Addresses = addrs.InOrder(v.cfg.AddressType); len(f.Addresses) == 0 {
		return found{}, errors.New("it runs and has no address")
	}
	return f, nil
}

func taskAddresses(t *types.Task, eni map[string]string) (a poll.AddressSet, err error) {
	errs := []error{a.Private.Add(eni["privateIPv4Address"])}
	for _, c := range t.Containers {
		for _, n := range c.NetworkInterfaces {
			errs = append(errs, a.Private.Add(aws.ToString(n.PrivateIpv4Address)), a.V6.Add(aws.ToString(n.Ipv6Address)))
		}
	}
	return a, errors.Join(errs...)
}

// hostPorts returns the task's ports on its host: in mode bridge as Docker bound them, in mode host those of the definition. Mode
// host without a mapping leaves the port to a tag.
func hostPorts(t *types.Task, d *definition) []poll.Port {
	var ports []poll.Port
	for _, m := range d.ports {
		p := m.Port
		if d.mode == types.NetworkModeHost {
			if m.host != 0 {
				p.Number = m.host
			}
		} else if p.Number = bound(t, m); p.Number == 0 {
			continue // not bound yet
		}
		ports = append(ports, p)
	}
	return ports
}

// bound returns the port of the host that leads to a port of a container, 0 if none does.
func bound(t *types.Task, m mapping) uint16 {
	for _, c := range t.Containers {
		if aws.ToString(c.Name) != m.container {
			continue
		}
		for _, b := range c.NetworkBindings {
			if port(b.ContainerPort) == m.Number && b.Protocol != types.TransportProtocolUdp {
				return port(b.HostPort)
			}
		}
	}
	return 0
}

// ecsHealth is the task's own: the worst of its essential containers'. UNKNOWN is what ECS says when no check is defined.
func ecsHealth(t *types.Task) federation.Health {
	switch t.HealthStatus {
	case types.HealthStatusHealthy:
		return federation.HealthPassing
	case types.HealthStatusUnhealthy:
		return federation.HealthFailing
	}
	return federation.HealthUnknown
}

// lastPart returns what follows the last slash of an ARN.
func lastPart(a string) string { return a[strings.LastIndexByte(a, '/')+1:] }
