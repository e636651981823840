package aws

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling/types"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// groupTag is the tag by which EC2 says that an instance belongs to an Auto Scaling group. Nobody else can set it.
const groupTag = "aws:autoscaling:groupName"

// mergeScaling takes from the Auto Scaling groups which instances are being taken out, or are not in yet: EC2 shows them as running
// while the group waits for its lifecycle hooks. When the groups cannot be asked the listing is partial.
func (v *visit) mergeScaling(ctx context.Context) error {
	groups := map[string]bool{}
	for _, f := range v.Found {
		if g := f.Labels[groupTag]; g != "" {
			groups[g] = true
		}
	}
	byInstance := map[string]types.Instance{}
	for batch := range slices.Chunk(slices.Sorted(maps.Keys(groups)), 100) { // the most on a page
		err := pages(func(token *string) (*string, error) {
			out, err := call(ctx, &v.spend, v.describeScaling, &autoscaling.DescribeAutoScalingGroupsInput{
				AutoScalingGroupNames: batch, NextToken: token, MaxRecords: aws.Int32(100)})
			if err != nil {
				return nil, err
			}
			for _, g := range out.AutoScalingGroups {
				for _, i := range g.Instances {
					byInstance[aws.ToString(i.InstanceId)] = i
				}
			}
			return out.NextToken, nil
		})
		if poll.Halted(err) {
			return err
		}
		if err != nil {
			v.Missing(fmt.Errorf("read the Auto Scaling groups: %w", err))
			break
		}
	}
	for n := range v.Found {
		f := &v.Found[n]
		i, known := byInstance[f.instance]
		if !known || f.State != poll.StateRunning {
			continue
		}
		switch i.LifecycleState {
		case types.LifecycleStatePending, types.LifecycleStatePendingWait, types.LifecycleStatePendingProceed:
			f.State = poll.StatePending
		case types.LifecycleStateTerminating, types.LifecycleStateTerminatingWait, types.LifecycleStateTerminatingProceed,
			types.LifecycleStateEnteringStandby, types.LifecycleStateStandby:
			f.State = poll.StateDraining
		}
		if aws.ToString(i.HealthStatus) == "Unhealthy" { // the group is about to replace it; "Healthy" is what it says without a check
			f.Health = federation.HealthFailing
		}
	}
	return nil
}
