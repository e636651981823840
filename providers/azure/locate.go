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

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Locate asks the instance metadata service where this process runs. It takes no longer than 2 s. The environment variable
// AZURE_POD_IDENTITY_AUTHORITY_HOST, which Azure's SDKs read too, names another endpoint than http://169.254.169.254.
func Locate(ctx context.Context) (poll.Location, error) {
	ctx, cancel := context.WithTimeout(ctx, poll.LocateWithin)
	defer cancel()
	fail := func(err error) (poll.Location, error) {
		return poll.Location{}, fmt.Errorf("ask Azure where this process runs: %w", err)
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
	resp, err := poll.MetadataClient().Do(req)
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

// readCompute reads what the metadata service says of a machine.
func readCompute(body io.Reader) (poll.Location, error) {
	var c struct {
		Location, Zone, PhysicalZone, ResourceID, SubscriptionID string
	}
	if err := json.NewDecoder(io.LimitReader(body, poll.MaxMetadata)).Decode(&c); err != nil {
		return poll.Location{}, fmt.Errorf("read the answer: %w", err)
	}
	if c.Location == "" || len(c.Location) > 64 || !subscriptionForm.MatchString(c.SubscriptionID) ||
		len(c.Zone) > 16 || len(c.PhysicalZone) > 64 || len(c.ResourceID) > 1024 {
		return poll.Location{}, errors.New("read the answer: its location, zone, subscription or resource ID is none")
	}
	here := poll.Location{Provider: "azure", Region: c.Location, ZoneID: c.PhysicalZone, InstanceID: strings.ToLower(c.ResourceID),
		Account: strings.ToLower(c.SubscriptionID)}
	if c.Zone != "" {
		here.Zone = c.Location + "-" + c.Zone
	}
	return here, nil
}
