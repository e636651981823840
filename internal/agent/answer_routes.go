package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// asked is the request that is asked about; nil when there is none. A caller that names no host is taken to call the service by its name.
func asked(r *admin.HTTPRequest, destination federation.ServiceRef) *mesh.Request {
	if r == nil {
		return nil
	}
	in := mesh.Request(*r)
	if in.Host == "" {
		in.Host = destination.Service.Name
	}
	return &in
}

// forecast turns what would become of a request into the API's words.
func forecast(f *mesh.Forecast) *admin.Forecast {
	if f == nil {
		return nil
	}
	out := &admin.Forecast{Request: admin.HTTPRequest(f.Request), Status: f.Status, Location: f.Location, Rule: f.Rule, More: f.More}
	for _, w := range f.Before {
		out.Before = append(out.Before, admin.RuleNotMatched(w))
	}
	if f.Forwarded != nil {
		forwarded := admin.HTTPRequest(*f.Forwarded)
		out.Forwarded = &forwarded
	}
	for _, s := range f.Shares {
		out.Shares = append(out.Shares, admin.Share{Destination: s.Destination.String(), Subset: s.Subset, Prefers: s.Prefers,
			Percent: s.Percent, Verdict: admin.Verdict(s.Verdict), At: s.At, Reason: s.Reason, Region: s.Region})
	}
	return out
}

// onlyCaller is the caller that the upstreams of this region bind to destination, when there is but one.
func (a *Agent) onlyCaller(destination string) (string, error) {
	to, err := federation.ParseServiceRef(destination)
	if err != nil {
		return "", notUnderstood("destination", destination, "write \"checkout\", \"shop/checkout\" or \"checkout@region\"", err)
	}
	var callers []string
	for _, u := range a.plane.View().Upstreams {
		if name := u.Caller.String(); u.Service.Service == to.Service && !slices.Contains(callers, name) {
			callers = append(callers, name)
		}
	}
	if len(callers) == 1 {
		return callers[0], nil
	}
	slices.Sort(callers)
	why := errors.New("no upstream of this region leads to " + to.Service.String())
	if len(callers) > 1 {
		why = fmt.Errorf("the upstreams to %s are those of %s", to.Service, strings.Join(callers, ", "))
	}
	return "", &federation.Diagnostic{Code: "TW-8906", What: "it is not said who calls " + destination, Why: why.Error(),
		Fix: "name the caller: tradewind route test --from CALLER", Err: why}
}
