package gcp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"cloud.google.com/go/compute/metadata"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var instanceForm = regexp.MustCompile(`^[0-9a-f]{1,256}$`)

// Locate asks the metadata server where this process runs. It takes no longer than 2 s. The environment variable GCE_METADATA_HOST
// names another server, as host or host:port.
func Locate(ctx context.Context) (poll.Location, error) {
	ctx, cancel := context.WithTimeout(ctx, poll.LocateWithin)
	defer cancel()
	plain := poll.MetadataClient()
	plain.Transport = flavoured{plain.Transport}
	client := metadata.NewClient(plain)
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
		return poll.Location{}, err
	}
	here := poll.Location{Provider: "gcp", Account: project}
	if here.Zone, err = ask("instance/zone"); err == nil {
		here.Zone = lastPart(here.Zone)
		here.ZoneID, here.Region = here.Zone, regionOf(here.Zone)
	} else if here.Region, err = ask("instance/region"); err == nil { // Cloud Run
		here.Region = lastPart(here.Region)
	} else {
		return poll.Location{}, err
	}
	if here.InstanceID, err = ask("instance/id"); err != nil {
		return poll.Location{}, err
	}
	if !projectForm.MatchString(project) || !regionForm.MatchString(here.Region) || !instanceForm.MatchString(here.InstanceID) {
		return poll.Location{}, fmt.Errorf("ask Google Cloud where this process runs: project %.64q, zone %.64q, region %.64q and instance %.64q are "+
			"not what they should be", project, here.Zone, here.Region, here.InstanceID)
	}
	return here, nil
}

// flavoured takes answers of Google's metadata server only. Other clouds have theirs at the same address.
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
	return resp, nil
}
