package aws

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Locate asks the metadata services where this process runs: that of ECS where there is one, and that of EC2, in version 2 only.
// It takes no longer than 2 s. The SDK's environment variables name other endpoints: AWS_EC2_METADATA_SERVICE_ENDPOINT,
// ECS_CONTAINER_METADATA_URI_V4.
func Locate(ctx context.Context) (poll.Location, error) {
	ctx, cancel := context.WithTimeout(ctx, poll.LocateWithin)
	defer cancel()
	task, launch, err := locateTask(ctx)
	if err != nil {
		return poll.Location{}, err
	}
	if launch == "FARGATE" {
		return task, nil // there is no other metadata service
	}
	here, err := locateInstance(ctx)
	switch {
	case err != nil && task.Region != "":
		return task, nil // tasks may be kept from asking; what ECS says will do
	case err != nil:
		return poll.Location{}, err
	}
	here.Zone = cmp.Or(here.Zone, task.Zone)
	return here, nil
}

func locateInstance(ctx context.Context) (poll.Location, error) {
	client := metadataClient("")
	doc, err := client.GetInstanceIdentityDocument(ctx, nil)
	if err != nil {
		return poll.Location{}, hint(ctx, err)
	}
	here := poll.Location{Provider: "aws", Region: doc.Region, Zone: doc.AvailabilityZone, InstanceID: doc.InstanceID, Account: doc.AccountID}
	// The document lacks the zone's ID.
	if out, err := client.GetMetadata(ctx, &imds.GetMetadataInput{Path: "placement/availability-zone-id"}); err == nil {
		defer out.Content.Close()
		if text, err := io.ReadAll(io.LimitReader(out.Content, 64)); err == nil {
			here.ZoneID = string(text)
		}
	}
	return here, nil
}

// hint says what usually is the matter. The answer to the token request may make a set number of hops, one by default: it reaches
// the instance and no container on it, which then waits in vain.
func hint(ctx context.Context, err error) error {
	switch {
	case strings.Contains(err.Error(), "StatusCode: 403"): // in the text only: the SDK hides the error of its token request
		return fmt.Errorf("ask EC2 where this process runs: the metadata service is switched off for this instance: %w", err)
	case ctx.Err() != nil:
		return fmt.Errorf("ask EC2 where this process runs: no token from the metadata service; in a container the instance needs a hop "+
			"limit of 2 (aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2), and outside EC2 there is none: %w", err)
	}
	return fmt.Errorf("ask EC2 where this process runs: %w", err)
}

// locateTask asks the metadata service of ECS. Without one it returns nothing.
func locateTask(ctx context.Context) (here poll.Location, launch string, err error) {
	uri := os.Getenv("ECS_CONTAINER_METADATA_URI_V4")
	if uri == "" {
		return poll.Location{}, "", nil
	}
	fail := func(err error) (poll.Location, string, error) {
		return poll.Location{}, "", fmt.Errorf("ask ECS where this task runs: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri+"/task", nil)
	if err != nil {
		return fail(err)
	}
	resp, err := poll.MetadataClient().Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("it answers %s", resp.Status))
	}
	here, launch, err = readTask(resp.Body)
	if err != nil {
		return fail(err)
	}
	return here, launch, nil
}

// readTask reads what the metadata service of ECS says of a task.
func readTask(body io.Reader) (here poll.Location, launch string, err error) {
	var task struct {
		TaskARN          string
		AvailabilityZone string
		LaunchType       string
	}
	if err := json.NewDecoder(io.LimitReader(body, poll.MaxMetadata)).Decode(&task); err != nil {
		return poll.Location{}, "", fmt.Errorf("read the answer: %w", err)
	}
	id, err := arn.Parse(task.TaskARN)
	if err != nil || !regionForm.MatchString(id.Region) || !accountForm.MatchString(id.AccountID) || len(task.AvailabilityZone) > 64 {
		return poll.Location{}, "", fmt.Errorf("the task's ARN %.256q or zone %.64q is none", task.TaskARN, task.AvailabilityZone)
	}
	return poll.Location{Provider: "aws", Region: id.Region, Zone: task.AvailabilityZone, Account: id.AccountID}, task.LaunchType, nil
}
