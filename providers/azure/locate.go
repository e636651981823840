package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// Location is where this process runs.
type Location struct {
	Provider   string // "azure"
	Region     string // "westeurope"
	ZoneID     string // "westeurope-az2", the same place for every subscription; empty where Azure does not say it
	Zone       string // "westeurope-1", this subscription's number of the zone; empty: none
	InstanceID string // the machine's resource ID, in lower case as in records
	Account    string // the subscription's ID
}

// locateWithin bounds Locate: a process that is not on Azure must not start late.
const locateWithin = 2 * time.Second

// Locate asks the instance metadata service where this process runs. It takes no longer than 2 s. The environment variable
// AZURE_POD_IDENTITY_AUTHORITY_HOST, which Azure's SDKs read too, names another endpoint than http://169.254.169.254.
func Locate(ctx context.Context) (Location, error) {
	ctx, cancel := context.WithTimeout(ctx, locateWithin)
	defer cancel()
	fail := func(err error) (Location, error) {
		return Location{}, fmt.Errorf("ask Azure where this process runs: %w", err)
	}
	base := strings.TrimSuffix(os.Getenv("AZURE_POD_IDENTITY_AUTHORITY_HOST"), "/")
	if base == "" {
		base = "http://169.254.169.254"
	}
	// The first version with physicalZone. The service answers it everywhere since 2024.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metadata/instance/compute?api-version=2023-11-15&format=json", nil)
	if err != nil {
		return fail(err)
	}
	req.Header.Set("Metadata", "true") // without it the service refuses: nobody can be made to ask by a URL alone
	client := http.Client{
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true}, // link-local: a proxy would ask its own
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return fail(fmt.Errorf("no answer from the metadata service; outside Azure's machines, as in Container Apps, there is none: %w", err))
		}
		return fail(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("the metadata service answers %s", resp.Status))
	}
	here, err := readCompute(resp.Body)
	if err != nil {
		return fail(err)
	}
	return here, nil
}

// maxMetadata is the most that is read of the answer, which is a few kilobytes, custom data left out.
const maxMetadata = 64 << 10

// readCompute reads what the metadata service says of a machine.
func readCompute(body io.Reader) (Location, error) {
	var c struct {
		Location, Zone, PhysicalZone, ResourceID, SubscriptionID string
	}
	if err := json.NewDecoder(io.LimitReader(body, maxMetadata)).Decode(&c); err != nil {
		return Location{}, fmt.Errorf("read the answer: %w", err)
	}
	if c.Location == "" || len(c.Location) > 64 || !subscriptionForm.MatchString(c.SubscriptionID) ||
		len(c.Zone) > 16 || len(c.PhysicalZone) > 64 || len(c.ResourceID) > 1024 {
		return Location{}, errors.New("read the answer: its location, zone, subscription or resource ID is none")
	}
	here := Location{Provider: "azure", Region: c.Location, ZoneID: c.PhysicalZone, InstanceID: strings.ToLower(c.ResourceID),
		Account: strings.ToLower(c.SubscriptionID)}
	if c.Zone != "" {
		here.Zone = c.Location + "-" + c.Zone
	}
	return here, nil
}
