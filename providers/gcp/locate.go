package gcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"

	"cloud.google.com/go/compute/metadata"
)

// Location is where this process runs.
type Location struct {
	Provider   string // "gcp"
	Region     string // "europe-west1"
	ZoneID     string // "europe-west1-b", the same in every project; empty where only the region is known
	Zone       string // the same
	InstanceID string // of the Compute Engine instance, or of the container instance of Cloud Run
	Account    string // the project's ID
}

// locateWithin bounds Locate: a process that is not on Google Cloud must not start late.
const locateWithin = 2 * time.Second

var instanceForm = regexp.MustCompile(`^[0-9a-f]{1,256}$`)

// Locate asks the metadata server where this process runs. It takes no longer than 2 s. The environment variable GCE_METADATA_HOST
// names another server, as host or host:port.
func Locate(ctx context.Context) (Location, error) {
	ctx, cancel := context.WithTimeout(ctx, locateWithin)
	defer cancel()
	// Link-local: a proxy would ask its own.
	transport := &http.Transport{Proxy: nil, DisableKeepAlives: true}
	client := metadata.NewClient(&http.Client{Transport: flavoured{transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
	ask := func(path string) (string, error) {
		text, err := client.GetWithContext(ctx, path)
		if ctx.Err() != nil {
			return "", fmt.Errorf("ask Google Cloud where this process runs: no answer from the metadata server: %w", ctx.Err())
		}
		if err != nil {
			return "", fmt.Errorf("ask Google Cloud where this process runs: %w", err)
		}
		return text, nil
	}
	project, err := ask("project/project-id")
	if err != nil {
		return Location{}, err
	}
	here := Location{Provider: "gcp", Account: project}
	if here.Zone, err = ask("instance/zone"); err == nil {
		here.Zone = lastPart(here.Zone)
		here.ZoneID, here.Region = here.Zone, regionOf(here.Zone)
	} else if here.Region, err = ask("instance/region"); err == nil { // Cloud Run
		here.Region = lastPart(here.Region)
	} else {
		return Location{}, err
	}
	if here.InstanceID, err = ask("instance/id"); err != nil {
		return Location{}, err
	}
	if !projectForm.MatchString(project) || !regionForm.MatchString(here.Region) || !instanceForm.MatchString(here.InstanceID) {
		return Location{}, fmt.Errorf("ask Google Cloud where this process runs: project %.64q, zone %.64q, region %.64q and instance %.64q are "+
			"not what they should be", project, here.Zone, here.Region, here.InstanceID)
	}
	return here, nil
}

// flavoured takes answers of Google's metadata server only, and a bounded part of them. Other clouds have theirs at the same address.
type flavoured struct{ http.RoundTripper }

func (f flavoured) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.Header.Get("Metadata-Flavor") != "Google" {
		resp.Body.Close()
		return nil, errors.New("who answers is not Google's metadata server")
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, 4096), resp.Body}
	return resp, nil
}
