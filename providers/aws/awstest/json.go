package awstest

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// object is a JSON object.
type object map[string]any

// with adds a member that is not empty.
func (o object) with(k, v string) object {
	if v != "" {
		o[k] = v
	}
	return o
}

// pairs returns a map as a list of objects.
func pairs(m map[string]string, key, value string) []object {
	out := []object{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, object{key: k, value: m[k]})
	}
	return out
}

func (s *Server) ecs(r *Request) (any, *problem) {
	if r.max > 100 {
		return nil, invalid("maxResults is %d, at most 100", r.max)
	}
	if r.Operation == "ListClusters" {
		var all []string
		for _, c := range s.inv.Clusters {
			if c.at(r) {
				all = append(all, c.arn("ecs", "cluster/"+c.Name))
			}
		}
		return object{"clusterArns": append([]string{}, page(s, r, all)...)}.with("nextToken", r.next), nil
	}
	if r.Operation == "DescribeTaskDefinition" {
		return s.definition(r)
	}
	for _, c := range s.inv.Clusters {
		name := lastPart(text(r.body["cluster"]))
		if !c.at(r) || c.Name != cmp.Or(name, "default") {
			continue
		}
		switch r.Operation {
		case "ListTasks":
			var all []string
			desired := cmp.Or(text(r.body["desiredStatus"]), "RUNNING")
			for _, t := range c.Tasks {
				if cmp.Or(t.Desired, "RUNNING") == desired {
					all = append(all, c.taskARN(t.ID))
				}
			}
			return object{"taskArns": append([]string{}, page(s, r, all)...)}.with("nextToken", r.next), nil
		case "DescribeTasks":
			return s.tasks(r, &c)
		case "DescribeContainerInstances":
			return hosts(r, &c)
		}
		return nil, unknown(r)
	}
	return nil, &problem{400, "ClusterNotFoundException", "Cluster not found."}
}

func (c *Cluster) taskARN(id string) string { return c.arn("ecs", "task/"+c.Name+"/"+id) }

func (c *Cluster) hostARN(id string) string { return c.arn("ecs", "container-instance/"+c.Name+"/"+id) }

func (s *Server) tasks(r *Request, c *Cluster) (any, *problem) {
	asked := strs(r.body["tasks"])
	if len(asked) == 0 || len(asked) > 100 {
		return nil, invalid("Tasks cannot be empty and must be at most 100")
	}
	described, failures := []object{}, []object{}
	if r.fail != nil && r.fail.Fault == Failures {
		failures = append(failures, object{"arn": c.taskARN("unreadable"), "reason": "ACCESS_DENIED", "detail": "the tags cannot be read"})
	}
	for _, a := range asked {
		i := slices.IndexFunc(c.Tasks, func(t Task) bool { return t.ID == lastPart(a) })
		switch {
		case i < 0 || c.Tasks[i].Gone:
			failures = append(failures, object{"arn": c.taskARN(lastPart(a)), "reason": "MISSING"})
		case c.Tasks[i].Failure != "":
			failures = append(failures, object{"arn": c.taskARN(lastPart(a)), "reason": c.Tasks[i].Failure})
		default:
			described = append(described, c.task(&c.Tasks[i], slices.Contains(strs(r.body["include"]), "TAGS")))
		}
	}
	return object{"tasks": described, "failures": failures}, nil
}

func (c *Cluster) task(t *Task, tags bool) object {
	o := object{"taskArn": c.taskARN(t.ID), "clusterArn": c.arn("ecs", "cluster/"+c.Name), "lastStatus": cmp.Or(t.Last, "RUNNING"),
		"desiredStatus": cmp.Or(t.Desired, "RUNNING"), "healthStatus": cmp.Or(t.Health, "UNKNOWN"), "group": "family:" + t.ID,
		"taskDefinitionArn": c.arn("ecs", "task-definition/"+t.Definition), "launchType": cmp.Or(t.LaunchType, "EC2")}
	if t.Service != "" {
		o["group"] = "service:" + t.Service
	}
	if t.Host != "" {
		o["containerInstanceArn"] = c.hostARN(t.Host)
	}
	containers := map[string]object{}
	container := func(name string) object {
		if containers[name] == nil {
			containers[name] = object{"name": name, "containerArn": c.arn("ecs", "container/"+c.Name+"/"+t.ID+"/"+name),
				"taskArn": c.taskARN(t.ID), "lastStatus": cmp.Or(t.Last, "RUNNING"), "healthStatus": cmp.Or(t.Health, "UNKNOWN"),
				"networkInterfaces": []object{}, "networkBindings": []object{}}
		}
		return containers[name]
	}
	// A volume and Service Connect are attachments too, and no interface.
	attachments := []object{{"id": "volume", "type": "AmazonElasticBlockStorage", "status": "ATTACHED", "details": []object{}}}
	if t.IP != "" || t.IPv6 != "" {
		o["launchType"] = cmp.Or(t.LaunchType, "FARGATE")
		attachments = append(attachments, object{"id": "eni", "type": "ElasticNetworkInterface", "status": "ATTACHED", "details": pairs(
			map[string]string{"privateIPv4Address": t.IP, "subnetId": t.Subnet, "networkInterfaceId": "eni-" + t.ID}, "name", "value")})
		container("main")["networkInterfaces"] = []object{object{"attachmentId": "eni"}.with("privateIpv4Address", t.IP).
			with("ipv6Address", t.IPv6)}
	}
	for _, b := range t.Bindings {
		on := container(b.Container)
		on["networkBindings"] = append(on["networkBindings"].([]object), object{"bindIP": "0.0.0.0", "containerPort": b.ContainerPort,
			"hostPort": b.HostPort, "protocol": cmp.Or(b.Protocol, "tcp")})
	}
	list := []object{}
	for _, name := range slices.Sorted(maps.Keys(containers)) {
		list = append(list, containers[name])
	}
	o["attachments"], o["containers"] = attachments, list
	if tags {
		o["tags"] = pairs(t.Tags, "key", "value")
	}
	return o
}

func hosts(r *Request, c *Cluster) (any, *problem) {
	asked := strs(r.body["containerInstances"])
	if len(asked) == 0 || len(asked) > 100 {
		return nil, invalid("Container Instances cannot be empty and must be at most 100")
	}
	described, failures := []object{}, []object{}
	for _, a := range asked {
		if id, has := c.Hosts[lastPart(a)]; has {
			described = append(described, object{"containerInstanceArn": c.hostARN(lastPart(a)), "ec2InstanceId": id, "status": "ACTIVE",
				"agentConnected": true})
		} else {
			failures = append(failures, object{"arn": c.hostARN(lastPart(a)), "reason": "MISSING"})
		}
	}
	return object{"containerInstances": described, "failures": failures}, nil
}

func (s *Server) definition(r *Request) (any, *problem) {
	for _, d := range s.inv.Definitions {
		if !d.at(r) || d.Name != lastPart(text(r.body["taskDefinition"])) {
			continue
		}
		family, revision, _ := strings.Cut(d.Name, ":")
		n, _ := strconv.Atoi(revision)
		containers := []object{}
		for _, c := range d.Containers {
			ports := []object{}
			for _, p := range c.Ports {
				m := object{"containerPort": p.Container, "protocol": cmp.Or(p.Protocol, "tcp")}.with("name", p.Name).with("appProtocol", p.App)
				if p.Host != 0 {
					m["hostPort"] = p.Host
				}
				ports = append(ports, m)
			}
			containers = append(containers, object{"name": c.Name, "portMappings": ports, "dockerLabels": c.Labels, "essential": true})
		}
		return object{"taskDefinition": object{"taskDefinitionArn": d.arn("ecs", "task-definition/"+d.Name), "family": family, "revision": n,
			"networkMode": cmp.Or(d.Mode, "awsvpc"), "containerDefinitions": containers, "status": "ACTIVE"},
			"tags": pairs(d.Tags, "key", "value")}, nil
	}
	return nil, &problem{400, "ClientException", "Unable to describe task definition."}
}

func (s *Server) cloudMap(r *Request) (any, *problem) {
	if most := map[string]int{"DiscoverInstances": 1000}[r.Operation]; r.max > cmp.Or(most, 100) {
		return nil, &problem{400, "InvalidInput", "MaxResults is too large"}
	}
	if r.Operation == "ListNamespaces" {
		all := []object{}
		for _, n := range s.inv.Namespaces {
			if n.at(r) {
				all = append(all, object{"Id": "ns-" + n.Name, "Name": n.Name, "Arn": n.arn("servicediscovery", "namespace/ns-"+n.Name),
					"Type": "DNS_PRIVATE", "Properties": object{"HttpProperties": object{"HttpName": cmp.Or(n.HTTPName, n.Name)}}})
			}
		}
		return object{"Namespaces": append([]object{}, page(s, r, all)...)}.with("NextToken", r.next), nil
	}
	for _, n := range s.inv.Namespaces {
		if !n.at(r) {
			continue
		}
		if r.Operation == "ListServices" && strings.Contains(n.filterValue(r), "ns-"+n.Name) {
			all := []object{}
			for _, v := range n.Services {
				o := object{"Id": n.serviceID(&v), "Name": v.Name, "Arn": n.arn("servicediscovery", "service/"+n.serviceID(&v)),
					"InstanceCount": len(v.Instances), "Type": "DNS_HTTP"}
				if v.Checked {
					o["HealthCheckCustomConfig"] = object{"FailureThreshold": 1}
				}
				all = append(all, o)
			}
			return object{"Services": append([]object{}, page(s, r, all)...)}.with("NextToken", r.next), nil
		}
		for i := range n.Services {
			v := &n.Services[i]
			if n.serviceID(v) == text(r.body["ServiceId"]) ||
				v.Name == text(r.body["ServiceName"]) && cmp.Or(n.HTTPName, n.Name) == text(r.body["NamespaceName"]) {
				return s.registered(r, &n, v)
			}
		}
	}
	if r.Operation == "ListServices" {
		return nil, &problem{400, "NamespaceNotFound", "namespace not found"}
	}
	return nil, &problem{400, "ServiceNotFound", "service not found"}
}

func (n *Namespace) serviceID(v *Service) string { return "srv-" + n.Name + "-" + v.Name }

// filterValue returns the values of the request's filters, joined.
func (n *Namespace) filterValue(r *Request) string {
	var all []string
	filters, _ := r.body["Filters"].([]any)
	for _, f := range filters {
		if f, ok := f.(map[string]any); ok && f["Name"] == "NAMESPACE_ID" {
			all = append(all, strs(f["Values"])...)
		}
	}
	return strings.Join(all, " ")
}

// registered answers what is asked about the instances of one service.
func (s *Server) registered(r *Request, n *Namespace, v *Service) (any, *problem) {
	health := func(i *Registered) string {
		if !v.Checked {
			return "UNKNOWN"
		}
		return cmp.Or(i.Health, "HEALTHY")
	}
	switch r.Operation {
	case "DiscoverInstancesRevision":
		return object{"InstancesRevision": v.Revision}, nil
	case "DiscoverInstances": // no pages: what is beyond the limit is not to be had
		out := []object{}
		wanted := cmp.Or(text(r.body["HealthStatus"]), "HEALTHY_OR_ELSE_ALL")
		healthy := slices.ContainsFunc(v.Instances, func(i Registered) bool { return health(&i) == "HEALTHY" })
		for i := range v.Instances {
			in := &v.Instances[i]
			hides := wanted == "HEALTHY" || wanted == "HEALTHY_OR_ELSE_ALL" && healthy
			if len(out) == cmp.Or(r.max, 100) || v.Checked && hides && health(in) != "HEALTHY" {
				continue
			}
			out = append(out, object{"InstanceId": in.ID, "NamespaceName": cmp.Or(n.HTTPName, n.Name), "ServiceName": v.Name,
				"HealthStatus": health(in), "Attributes": in.Attributes})
		}
		return object{"Instances": out, "InstancesRevision": v.Revision}, nil
	case "ListInstances":
		out := []object{}
		for _, in := range page(s, r, v.Instances) {
			out = append(out, object{"Id": in.ID, "Attributes": in.Attributes})
		}
		return object{"Instances": out}.with("NextToken", r.next), nil
	case "GetInstancesHealthStatus":
		status := object{}
		for _, in := range page(s, r, v.Instances) {
			status[in.ID] = health(&in)
		}
		return object{"Status": status}.with("NextToken", r.next), nil
	}
	return nil, unknown(r)
}

func lastPart(a string) string { return a[strings.LastIndexByte(a, '/')+1:] }
