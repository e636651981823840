package awstest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The answers of EC2's Query API. Lists are <xSet><item/></xSet>.
type (
	describeInstances struct {
		RequestID    string        `xml:"requestId"`
		Reservations []reservation `xml:"reservationSet>item"`
		NextToken    string        `xml:"nextToken,omitempty"`
	}
	reservation struct {
		ID        string     `xml:"reservationId"`
		Owner     string     `xml:"ownerId"`
		Instances []instance `xml:"instancesSet>item"`
	}
	instance struct {
		ID         string  `xml:"instanceId"`
		StateCode  int     `xml:"instanceState>code"`
		State      string  `xml:"instanceState>name"`
		IP         string  `xml:"privateIpAddress,omitempty"`
		Public     string  `xml:"ipAddress,omitempty"`
		IPv6       string  `xml:"ipv6Address,omitempty"`
		VPC        string  `xml:"vpcId,omitempty"`
		Subnet     string  `xml:"subnetId,omitempty"`
		Zone       string  `xml:"placement>availabilityZone,omitempty"`
		ZoneID     string  `xml:"placement>availabilityZoneId,omitempty"`
		Interfaces []iface `xml:"networkInterfaceSet>item"`
		Tags       []tag   `xml:"tagSet>item"`
	}
	iface struct {
		ID        string    `xml:"networkInterfaceId"`
		VPC       string    `xml:"vpcId,omitempty"`
		Subnet    string    `xml:"subnetId,omitempty"`
		IP        string    `xml:"privateIpAddress,omitempty"`
		Addresses []private `xml:"privateIpAddressesSet>item"`
		IPv6      []six     `xml:"ipv6AddressesSet>item"`
	}
	private struct {
		IP          string       `xml:"privateIpAddress"`
		Primary     bool         `xml:"primary"`
		Association *association `xml:"association,omitempty"`
	}
	association struct {
		Public string `xml:"publicIp"`
	}
	six struct {
		IP string `xml:"ipv6Address"`
	}
	tag struct {
		Key   string `xml:"key"`
		Value string `xml:"value"`
	}
	describeZones struct {
		RequestID string `xml:"requestId"`
		Zones     []zone `xml:"availabilityZoneInfo>item"`
	}
	zone struct {
		Name   string `xml:"zoneName"`
		ID     string `xml:"zoneId"`
		Region string `xml:"regionName"`
		State  string `xml:"zoneState"`
	}
	describeSubnets struct {
		RequestID string   `xml:"requestId"`
		Subnets   []subnet `xml:"subnetSet>item"`
		NextToken string   `xml:"nextToken,omitempty"`
	}
	subnet struct {
		ID     string `xml:"subnetId"`
		VPC    string `xml:"vpcId"`
		Zone   string `xml:"availabilityZone"`
		ZoneID string `xml:"availabilityZoneId"`
	}
)

// stateCodes are the instance states and their numbers.
var stateCodes = map[string]int{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

func (s *Server) ec2(r *Request) (any, *problem) {
	if r.max != 0 && (r.max < 5 || r.max > 1000) {
		return nil, &problem{400, "InvalidParameterValue", fmt.Sprintf("Value ( %d ) for parameter maxResults is invalid.", r.max)}
	}
	filters := r.filters()
	switch r.Operation {
	case "DescribeInstances":
		var all []Instance
		for _, i := range s.inv.Instances {
			matches, bad := i.matches(filters)
			if bad != nil {
				return nil, bad
			}
			if i.at(r) && matches {
				all = append(all, i)
			}
		}
		out := describeInstances{RequestID: requestID}
		for _, i := range page(s, r, all) {
			out.Reservations = append(out.Reservations, reservation{"r-" + i.ID, i.account(), []instance{i.xml()}})
		}
		out.NextToken = r.next
		return out, nil
	case "DescribeAvailabilityZones":
		out := describeZones{RequestID: requestID}
		for _, z := range s.inv.Zones {
			if z.at(r) {
				out.Zones = append(out.Zones, zone{z.Name, z.ID, z.region(), "available"})
			}
		}
		return out, nil
	case "DescribeSubnets":
		var all []subnet
		for _, n := range s.inv.Subnets {
			if n.at(r) && (filters["subnet-id"] == nil || slices.Contains(filters["subnet-id"], n.ID)) {
				all = append(all, subnet{n.ID, n.VPC, n.Zone, n.ZoneID})
			}
		}
		return describeSubnets{RequestID: requestID, Subnets: page(s, r, all), NextToken: r.next}, nil
	}
	return nil, unknown(r)
}

// filters returns Filter.N.Name and Filter.N.Value.M.
func (r *Request) filters() map[string][]string {
	filters := map[string][]string{}
	for n := 1; r.form.Has(fmt.Sprintf("Filter.%d.Name", n)); n++ {
		name := r.form.Get(fmt.Sprintf("Filter.%d.Name", n))
		for m := 1; r.form.Has(fmt.Sprintf("Filter.%d.Value.%d", n, m)); m++ {
			filters[name] = append(filters[name], r.form.Get(fmt.Sprintf("Filter.%d.Value.%d", n, m)))
		}
	}
	return filters
}

func (i *Instance) matches(filters map[string][]string) (bool, *problem) {
	for name, values := range filters {
		if len(values) > 200 {
			return false, &problem{400, "FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200."}
		}
		var got string
		switch key, isTag := strings.CutPrefix(name, "tag:"); {
		case isTag:
			got = i.Tags[key]
		case name == "tag-key":
			if !slices.ContainsFunc(values, func(k string) bool { _, has := i.Tags[k]; return has }) {
				return false, nil
			}
			continue
		case name == "instance-state-name":
			got = cmp.Or(i.State, "running")
		case name == "instance-id":
			got = i.ID
		case name == "vpc-id":
			got = i.VPC
		default:
			return false, &problem{400, "InvalidParameterValue", fmt.Sprintf("The filter '%s' is invalid", name)}
		}
		if !slices.Contains(values, got) {
			return false, nil
		}
	}
	return true, nil
}

func (i *Instance) xml() instance {
	state := cmp.Or(i.State, "running")
	x := instance{ID: i.ID, StateCode: stateCodes[state], State: state, IP: i.IP, Public: i.Public, VPC: i.VPC, Subnet: i.Subnet,
		Zone: i.Zone, ZoneID: i.ZoneID}
	if i.IP != "" || len(i.IPv6) > 0 {
		n := iface{ID: "eni-" + i.ID, VPC: i.VPC, Subnet: i.Subnet, IP: i.IP}
		if i.IP != "" {
			n.Addresses = append(n.Addresses, private{IP: i.IP, Primary: true})
			if i.Public != "" {
				n.Addresses[0].Association = &association{i.Public}
			}
		}
		for _, a := range i.Secondary {
			n.Addresses = append(n.Addresses, private{IP: a})
		}
		for _, a := range i.IPv6 {
			n.IPv6 = append(n.IPv6, six{a})
			x.IPv6 = cmp.Or(x.IPv6, a)
		}
		x.Interfaces = []iface{n}
	}
	if i.Group != "" {
		x.Tags = append(x.Tags, tag{"aws:autoscaling:groupName", i.Group})
	}
	for _, k := range slices.Sorted(maps.Keys(i.Tags)) {
		x.Tags = append(x.Tags, tag{k, i.Tags[k]})
	}
	return x
}
