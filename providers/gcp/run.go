package gcp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// condition is a state that a Cloud Run service is in or not.
type condition struct{ Type, State string }

// runService is what is read of a Cloud Run service (https://cloud.google.com/run/docs/reference/rest/v2/projects.locations.services).
type runService struct {
	Name              string // "projects/P/locations/L/services/S"
	URI               string
	Labels            map[string]string
	TerminalCondition condition // "Ready"
	Conditions        []condition
	DeleteTime        string
}

// listRun lists the services of a region, or of all of them at once.
func (v *visit) listRun(ctx context.Context, region string) error {
	path := fmt.Sprintf("/v2/projects/%s/locations/%s/services", v.project, cmp.Or(region, "-"))
	return poll.Pages(func(token string) (string, error) {
		var page struct {
			Services      []json.RawMessage
			NextPageToken string
			Unreachable   []string
		}
		if err := v.call(ctx, &listServices, path, asked("pageSize", "1000", token), &page); err != nil {
			return "", err
		}
		v.miss("Cloud Run services", page.Unreachable)
		for _, raw := range page.Services {
			if err := v.addService(raw); err != nil {
				return "", err
			}
		}
		return page.NextPageToken, nil
	})
}

func (v *visit) addService(raw []byte) error {
	var s runService
	err := json.Unmarshal(raw, &s)
	id := "//run.googleapis.com/" + s.Name
	if err != nil {
		return v.Spoilt(id, err)
	}
	if s.URI == "" && s.health() != federation.HealthPassing {
		return nil // it has never been ready
	}
	r, err := s.record()
	if err != nil {
		return v.Spoilt(id, err)
	}
	r.ID, r.Account = id, v.project
	return v.add(r)
}

// health is that of the service's readiness. When the newest deployment has failed the service is not ready, but the revision before
// goes on to serve, and the routes are ready.
func (s *runService) health() federation.Health {
	routes := slices.Contains(s.Conditions, condition{"RoutesReady", "CONDITION_SUCCEEDED"})
	switch {
	case s.TerminalCondition.State == "CONDITION_SUCCEEDED" || routes:
		return federation.HealthPassing
	case s.TerminalCondition.State == "CONDITION_FAILED":
		return federation.HealthFailing
	}
	return federation.HealthUnknown
}

// record returns the service as one workload that has a name. What is found there is TLS, whatever the container speaks, and the name
// in it chooses the service: the mesh carries the caller's own TLS, as tcp.
func (s *runService) record() (poll.Record, error) {
	name := strings.Split(s.Name, "/")
	if len(name) != 6 || name[0] != "projects" || name[2] != "locations" || name[4] != "services" || name[5] == "" {
		return poll.Record{}, fmt.Errorf("its name %.256q is not that of a service", s.Name)
	}
	u, err := url.Parse(s.URI)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return poll.Record{}, fmt.Errorf("its URL %.256q is none", s.URI)
	}
	port := uint64(443)
	if text := u.Port(); text != "" {
		if port, err = strconv.ParseUint(text, 10, 16); err != nil || port == 0 {
			return poll.Record{}, errors.New("the port of its URL is none")
		}
	}
	r := poll.Record{Region: name[3], Kind: KindRun, Host: u.Hostname(), State: poll.StateRunning, Health: s.health(), Service: name[5],
		Labels: s.Labels, Ports: []poll.Port{{Number: uint16(port), Protocol: string(federation.ProtocolTCP)}}}
	if s.DeleteTime != "" {
		r.State = poll.StateDraining
	}
	return r, nil
}
