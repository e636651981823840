package awstest

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The answers of the Query APIs of ELBv2, Auto Scaling and STS. Lists are <X><member/></X>.
type (
	describeGroups struct {
		Groups     []group `xml:"DescribeTargetGroupsResult>TargetGroups>member"`
		NextMarker string  `xml:"DescribeTargetGroupsResult>NextMarker,omitempty"`
		RequestID  string  `xml:"ResponseMetadata>RequestId"`
	}
	group struct {
		ARN       string   `xml:"TargetGroupArn"`
		Name      string   `xml:"TargetGroupName"`
		Port      int      `xml:"Port,omitempty"`
		VPC       string   `xml:"VpcId,omitempty"`
		Type      string   `xml:"TargetType"`
		Balancers []string `xml:"LoadBalancerArns>member"`
	}
	describeHealth struct {
		Targets   []described `xml:"DescribeTargetHealthResult>TargetHealthDescriptions>member"`
		RequestID string      `xml:"ResponseMetadata>RequestId"`
	}
	described struct {
		ID    string `xml:"Target>Id"`
		Port  int    `xml:"Target>Port,omitempty"`
		State string `xml:"TargetHealth>State"`
	}
	describeScaling struct {
		Groups    []scaling `xml:"DescribeAutoScalingGroupsResult>AutoScalingGroups>member"`
		NextToken string    `xml:"DescribeAutoScalingGroupsResult>NextToken,omitempty"`
		RequestID string    `xml:"ResponseMetadata>RequestId"`
	}
	scaling struct {
		Name        string   `xml:"AutoScalingGroupName"`
		ARN         string   `xml:"AutoScalingGroupARN"`
		Min         int      `xml:"MinSize"`
		Max         int      `xml:"MaxSize"`
		Desired     int      `xml:"DesiredCapacity"`
		Cooldown    int      `xml:"DefaultCooldown"`
		Zones       []string `xml:"AvailabilityZones>member"`
		HealthCheck string   `xml:"HealthCheckType"`
		Created     string   `xml:"CreatedTime"`
		Instances   []scaled `xml:"Instances>member"`
	}
	scaled struct {
		ID        string `xml:"InstanceId"`
		Zone      string `xml:"AvailabilityZone"`
		Lifecycle string `xml:"LifecycleState"`
		Health    string `xml:"HealthStatus"`
		Protected bool   `xml:"ProtectedFromScaleIn"`
	}
	assumeRole struct {
		Key        string `xml:"AssumeRoleResult>Credentials>AccessKeyId"`
		Secret     string `xml:"AssumeRoleResult>Credentials>SecretAccessKey"`
		Token      string `xml:"AssumeRoleResult>Credentials>SessionToken"`
		Expiration string `xml:"AssumeRoleResult>Credentials>Expiration"`
		RoleID     string `xml:"AssumeRoleResult>AssumedRoleUser>AssumedRoleId"`
		ARN        string `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
		RequestID  string `xml:"ResponseMetadata>RequestId"`
	}
	callerIdentity struct {
		ARN       string `xml:"GetCallerIdentityResult>Arn"`
		UserID    string `xml:"GetCallerIdentityResult>UserId"`
		Account   string `xml:"GetCallerIdentityResult>Account"`
		RequestID string `xml:"ResponseMetadata>RequestId"`
	}
)

func (g *TargetGroup) arn() string {
	return g.Where.arn("elasticloadbalancing", "targetgroup/"+g.Name+"/0123456789abcdef")
}

// members returns NAME.member.N.
func (r *Request) members(name string) (out []string) {
	for n := 1; r.form.Has(fmt.Sprintf("%s.member.%d", name, n)); n++ {
		out = append(out, r.form.Get(fmt.Sprintf("%s.member.%d", name, n)))
	}
	return out
}

func (s *Server) elb(r *Request) (any, *problem) {
	switch r.Operation {
	case "DescribeTargetGroups":
		names := r.members("Names")
		if r.max > 400 || r.max > 0 && names != nil {
			return nil, &problem{400, "ValidationError", "page size is more than 400, or given together with names"}
		}
		var all []group
		for _, g := range s.inv.TargetGroups {
			if !g.at(r) || names != nil && !slices.Contains(names, g.Name) {
				continue
			}
			x := group{ARN: g.arn(), Name: g.Name, Port: g.Port, VPC: g.VPC, Type: cmp.Or(g.Type, "instance")}
			if !g.Unused {
				x.Balancers = []string{g.Where.arn("elasticloadbalancing", "loadbalancer/app/"+g.Name+"/0123456789abcdef")}
			}
			all = append(all, x)
		}
		return describeGroups{Groups: page(s, r, all), NextMarker: r.next, RequestID: requestID}, nil
	case "DescribeTargetHealth":
		out := describeHealth{RequestID: requestID}
		for _, g := range s.inv.TargetGroups {
			if !g.at(r) || g.arn() != r.form.Get("TargetGroupArn") {
				continue
			}
			for _, t := range g.Targets {
				out.Targets = append(out.Targets, described{t.ID, t.Port, cmp.Or(t.State, "healthy")})
			}
			return out, nil
		}
		return nil, &problem{400, "TargetGroupNotFound", "One or more target groups not found"}
	}
	return nil, unknown(r)
}

func (s *Server) autoscaling(r *Request) (any, *problem) {
	if r.Operation != "DescribeAutoScalingGroups" {
		return nil, unknown(r)
	}
	names := r.members("AutoScalingGroupNames")
	var all []scaling
	for i := range s.inv.Instances {
		in := &s.inv.Instances[i]
		if !in.at(r) || in.Group == "" || names != nil && !slices.Contains(names, in.Group) {
			continue
		}
		n := slices.IndexFunc(all, func(g scaling) bool { return g.Name == in.Group })
		if n < 0 {
			n = len(all)
			all = append(all, scaling{Name: in.Group, ARN: in.Where.arn("autoscaling", "autoScalingGroup:1:autoScalingGroupName/"+in.Group),
				Max: 100, Cooldown: 300, Zones: []string{in.Zone}, HealthCheck: "EC2", Created: "2026-01-01T00:00:00Z"})
		}
		health := "Healthy"
		if in.Sick {
			health = "Unhealthy"
		}
		all[n].Desired++
		all[n].Instances = append(all[n].Instances, scaled{in.ID, in.Zone, cmp.Or(in.Lifecycle, "InService"), health, false})
	}
	return describeScaling{Groups: page(s, r, all), NextToken: r.next, RequestID: requestID}, nil
}

func (s *Server) sts(r *Request) (any, *problem) {
	switch r.Operation {
	case "GetCallerIdentity":
		return callerIdentity{"arn:aws:iam::" + r.Account + ":user/tradewind", "AIDATRADEWIND", r.Account, requestID}, nil
	case "AssumeRole":
		for _, role := range s.inv.Roles {
			if role.ARN != r.form.Get("RoleArn") || role.ExternalID != "" && role.ExternalID != r.form.Get("ExternalId") {
				continue
			}
			_, account, _ := strings.Cut(role.ARN, "::")
			account, name, _ := strings.Cut(account, ":role/")
			session := r.form.Get("RoleSessionName")
			return assumeRole{"ASIA" + account, "secret", "token", time.Now().Add(cmp.Or(s.CredentialsLast, time.Hour)).UTC().Format(time.RFC3339),
				"AROATRADEWIND:" + session, "arn:aws:sts::" + account + ":assumed-role/" + name + "/" + session, requestID}, nil
		}
		return nil, &problem{403, "AccessDenied", fmt.Sprintf("User: arn:aws:iam::%s:user/tradewind is not authorized to perform: "+
			"sts:AssumeRole on resource: %s", r.Account, r.form.Get("RoleArn"))}
	}
	return nil, unknown(r)
}

func (s *Server) eks(r *Request) (any, *problem) {
	var names []string
	for _, k := range s.inv.Kubernetes {
		if !k.at(r) {
			continue
		}
		if r.Operation == "DescribeCluster" && k.Name == r.body["name"] {
			c := object{"name": k.Name, "arn": k.Where.arn("eks", "cluster/"+k.Name), "status": cmp.Or(k.Status, "ACTIVE")}
			if k.Endpoint != "" {
				c["endpoint"] = k.Endpoint
				c["certificateAuthority"] = object{"data": base64.StdEncoding.EncodeToString([]byte(k.CA))}
			}
			return object{"cluster": c}, nil
		}
		names = append(names, k.Name)
	}
	if r.Operation == "DescribeCluster" {
		return nil, &problem{404, "ResourceNotFoundException", "No cluster found for name: " + text(r.body["name"])}
	}
	return object{"clusters": page(s, r, names)}.with("nextToken", r.next), nil
}
