package gcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// directoryForm is that of names in Service Directory. They are made part of the next request's path.
var directoryForm = regexp.MustCompile(`^projects/[a-z0-9.:-]+/locations/[a-z0-9-]+/namespaces/[a-z0-9-]+(/services/[a-z0-9-]+)?$`)

// endpoint is what is read of an endpoint (https://cloud.google.com/service-directory/docs/reference/rest).
type endpoint struct {
	Name        string // "projects/P/locations/L/namespaces/N/services/S/endpoints/E"
	Address     string
	Port        uint16
	Annotations map[string]string
	Network     string // "projects/NUMBER/locations/global/networks/N"
}

// entry is a service of Service Directory.
type entry struct {
	Name        string
	Annotations map[string]string
}

// listDirectory lists a region: its namespaces, their services, and the endpoints of each. The API has no request for endpoints of
// several services, and knows nothing of health.
func (v *visit) listDirectory(ctx context.Context, region string) error {
	base := fmt.Sprintf("projects/%s/locations/%s/namespaces", v.project, region)
	var namespaces []string
	for _, n := range v.cfg.Namespaces {
		namespaces = append(namespaces, base+"/"+n)
	}
	if len(namespaces) == 0 {
		err := poll.Pages(func(token string) (string, error) {
			var page struct {
				Namespaces    []struct{ Name string }
				NextPageToken string
			}
			err := v.call(ctx, &listNamespaces, "/v1/"+base, asked("pageSize", "1000", token), &page)
			for _, n := range page.Namespaces {
				namespaces = append(namespaces, n.Name)
			}
			return page.NextPageToken, err
		})
		if err != nil {
			return err
		}
	}
	for _, n := range namespaces {
		services, err := v.directoryServices(ctx, n)
		if err != nil {
			return err
		}
		for i := range services {
			if err := v.directoryEndpoints(ctx, region, &services[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// directoryServices returns the services of a namespace.
func (v *visit) directoryServices(ctx context.Context, namespace string) (all []entry, err error) {
	if !directoryForm.MatchString(namespace) {
		return nil, fmt.Errorf("namespace %.256q has no proper name", namespace)
	}
	err = poll.Pages(func(token string) (string, error) {
		var page struct {
			Services      []entry
			NextPageToken string
		}
		err := v.call(ctx, &listEntries, "/v1/"+namespace+"/services", asked("pageSize", "1000", token), &page)
		if gone(err) {
			return "", nil
		}
		if len(all)+len(page.Services) > poll.MaxGathered {
			return "", fmt.Errorf("there are more than %d services in namespace %q", poll.MaxGathered, namespace)
		}
		all = append(all, page.Services...)
		return page.NextPageToken, err
	})
	// One that moved to another page during the listing is there twice.
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b entry) bool { return a.Name == b.Name }), err
}

func (v *visit) directoryEndpoints(ctx context.Context, region string, s *entry) error {
	if !directoryForm.MatchString(s.Name) {
		return v.Spoilt("//servicedirectory.googleapis.com/"+s.Name, errors.New("the service has no proper name"))
	}
	return poll.Pages(func(token string) (string, error) {
		var page struct {
			Endpoints     []json.RawMessage
			NextPageToken string
		}
		if err := v.call(ctx, &listEndpoints, "/v1/"+s.Name+"/endpoints", asked("pageSize", "1000", token), &page); gone(err) {
			return "", nil
		} else if err != nil {
			return "", err
		}
		for _, raw := range page.Endpoints {
			if err := v.addEndpoint(region, s, raw); err != nil {
				return "", err
			}
		}
		return page.NextPageToken, nil
	})
}

func (v *visit) addEndpoint(region string, s *entry, raw []byte) error {
	var e endpoint
	err := json.Unmarshal(raw, &e)
	id := "//servicedirectory.googleapis.com/" + e.Name
	if err != nil {
		return v.Spoilt(id, err)
	}
	r, err := e.record(s, v.cfg.AddressType)
	if err != nil {
		return v.Spoilt(id, err)
	}
	r.ID, r.Account, r.Region = id, v.project, region
	return v.add(r)
}

func (e *endpoint) record(s *entry, addressType string) (poll.Record, error) {
	var all poll.AddressSet
	if err := all.Private.Add(e.Address); err != nil {
		return poll.Record{}, err
	}
	switch {
	case e.Name == "":
		return poll.Record{}, errors.New("it has no name")
	case len(all.Private) == 0:
		return poll.Record{}, errors.New("it has no address")
	}
	labels := maps.Clone(s.Annotations) // what the endpoint says comes before what is said of all of the service
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, e.Annotations)
	r := poll.Record{Network: strings.Replace(e.Network, "/locations/global/", "/global/", 1), Kind: KindDirectory,
		Addresses: all.InOrder(addressType), State: poll.StateRunning, Service: lastPart(s.Name), Labels: labels}
	if e.Port != 0 {
		r.Ports = []poll.Port{{Number: e.Port}}
	}
	return r, nil
}
