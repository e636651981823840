package aws

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/autoscaling"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	cloudmap "github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// operation is one method of a client of the SDK: I and O are its input and output, P the client's options.
type operation[I, O, P any] func(ctx context.Context, in *I, options ...func(*P)) (*O, error)

// clients are the operations in use, of one account and region. The clients themselves are not kept: see the package comment.
type clients struct {
	credentials aws.CredentialsProvider // shared by the account's regions

	describeInstances operation[ec2.DescribeInstancesInput, ec2.DescribeInstancesOutput, ec2.Options]
	describeZones     operation[ec2.DescribeAvailabilityZonesInput, ec2.DescribeAvailabilityZonesOutput, ec2.Options]
	describeSubnets   operation[ec2.DescribeSubnetsInput, ec2.DescribeSubnetsOutput, ec2.Options]

	describeScaling operation[autoscaling.DescribeAutoScalingGroupsInput, autoscaling.DescribeAutoScalingGroupsOutput, autoscaling.Options]

	listECSClusters    operation[ecs.ListClustersInput, ecs.ListClustersOutput, ecs.Options]
	listTasks          operation[ecs.ListTasksInput, ecs.ListTasksOutput, ecs.Options]
	describeTasks      operation[ecs.DescribeTasksInput, ecs.DescribeTasksOutput, ecs.Options]
	describeDefinition operation[ecs.DescribeTaskDefinitionInput, ecs.DescribeTaskDefinitionOutput, ecs.Options]
	describeHosts      operation[ecs.DescribeContainerInstancesInput, ecs.DescribeContainerInstancesOutput, ecs.Options]

	listNamespaces   operation[cloudmap.ListNamespacesInput, cloudmap.ListNamespacesOutput, cloudmap.Options]
	listServices     operation[cloudmap.ListServicesInput, cloudmap.ListServicesOutput, cloudmap.Options]
	discover         operation[cloudmap.DiscoverInstancesInput, cloudmap.DiscoverInstancesOutput, cloudmap.Options]
	discoverRevision operation[cloudmap.DiscoverInstancesRevisionInput, cloudmap.DiscoverInstancesRevisionOutput, cloudmap.Options]
	listInstances    operation[cloudmap.ListInstancesInput, cloudmap.ListInstancesOutput, cloudmap.Options]
	instancesHealth  operation[cloudmap.GetInstancesHealthStatusInput, cloudmap.GetInstancesHealthStatusOutput, cloudmap.Options]

	describeGroups operation[elb.DescribeTargetGroupsInput, elb.DescribeTargetGroupsOutput, elb.Options]
	describeHealth operation[elb.DescribeTargetHealthInput, elb.DescribeTargetHealthOutput, elb.Options]

	config aws.Config // for what few need
}

func newClients(cfg aws.Config) *clients {
	c := &clients{credentials: cfg.Credentials, config: cfg}
	vm := ec2.NewFromConfig(cfg)
	c.describeInstances, c.describeZones, c.describeSubnets = vm.DescribeInstances, vm.DescribeAvailabilityZones, vm.DescribeSubnets
	scaling := autoscaling.NewFromConfig(cfg)
	c.describeScaling = scaling.DescribeAutoScalingGroups
	tasks := ecs.NewFromConfig(cfg)
	c.listECSClusters, c.listTasks, c.describeTasks = tasks.ListClusters, tasks.ListTasks, tasks.DescribeTasks
	c.describeDefinition, c.describeHosts = tasks.DescribeTaskDefinition, tasks.DescribeContainerInstances
	names := cloudmap.NewFromConfig(cfg)
	c.listNamespaces, c.listServices, c.listInstances = names.ListNamespaces, names.ListServices, names.ListInstances
	c.discover, c.discoverRevision = names.DiscoverInstances, names.DiscoverInstancesRevision
	c.instancesHealth = names.GetInstancesHealthStatus
	balancers := elb.NewFromConfig(cfg)
	c.describeGroups, c.describeHealth = balancers.DescribeTargetGroups, balancers.DescribeTargetHealth
	return c
}

// load reads the process's own configuration of the SDK: environment, files, and what they point to. It makes no request.
func (l *Lister) load(ctx context.Context) (aws.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(l.cfg.Regions[0]),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }), // the framework waits for budget before each request, and backs off
		// A client of the SDK's own kind, because AWS_CA_BUNDLE can be added to no other.
		config.WithHTTPClient(awshttp.NewBuildableClient()),
		config.WithEC2RoleCredentialOptions(func(o *ec2rolecreds.Options) { o.Client = metadataClient("") }))
	if err != nil {
		return aws.Config{}, fmt.Errorf("load the configuration of the AWS SDK: %w: %w", poll.ErrCredentials, err)
	}
	if l.http == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		if built, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
			transport = built.GetTransport()
		}
		l.http = poll.Client(copying{transport}, maxBody)
	}
	cfg.HTTPClient = l.http
	if l.cfg.Endpoint != "" {
		cfg.BaseEndpoint = &l.cfg.Endpoint
		cfg.APIOptions = append(cfg.APIOptions, keepHost)
	}
	cfg.Credentials = aws.NewCredentialsCache(marked{cfg.Credentials}, expireEarly)
	return cfg, nil
}

// expireEarly renews credentials five minutes before they end: a listing of many pages must not outlive them.
func expireEarly(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 5 * time.Minute }

// assume returns credentials of the account's role, got with those of cfg.
func assume(cfg aws.Config, a Account) aws.CredentialsProvider {
	client := sts.NewFromConfig(cfg)
	provider := stscreds.NewAssumeRoleProvider(assumeRole(client.AssumeRole), a.RoleARN, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = "tradewind" // what the account's audit log shows
		if a.ExternalID != "" {
			o.ExternalID = &a.ExternalID
		}
	})
	return aws.NewCredentialsCache(marked{provider}, expireEarly)
}

// assumeRole is the one method of STS that stscreds needs, without the client: see the package comment.
type assumeRole operation[sts.AssumeRoleInput, sts.AssumeRoleOutput, sts.Options]

func (f assumeRole) AssumeRole(ctx context.Context, in *sts.AssumeRoleInput, o ...func(*sts.Options)) (*sts.AssumeRoleOutput, error) {
	return f(ctx, in, o...)
}

// marked puts poll.ErrCredentials into the tree of whatever keeps a provider from giving credentials.
type marked struct{ aws.CredentialsProvider }

func (m marked) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := m.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return c, fmt.Errorf("%w: %w", poll.ErrCredentials, err)
	}
	return c, nil
}

// keepHost stops the SDK from putting "data-" before the host of a given endpoint, as it does for Cloud Map's DiscoverInstances.
func keepHost(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("KeepHost", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		return next.HandleInitialize(smithyhttp.DisableEndpointHostPrefix(ctx, true), in)
	}), middleware.Before)
}

// metadataClient returns a client of the instance metadata service that speaks version 2 only: version 1 answers whoever can
// make a workload fetch a URL.
func metadataClient(endpoint string) *imds.Client {
	return imds.New(imds.Options{
		Endpoint:       endpoint, // empty: AWS_EC2_METADATA_SERVICE_ENDPOINT or the well-known address
		EnableFallback: aws.FalseTernary,
		Retryer:        aws.NopRetryer{},
		HTTPClient:     poll.MetadataClient(),
	})
}

// copying sends a copy of a request's body. The SDK closes its own as soon as the answer begins. The transport may still be looking for
// its end, and then drops the connection in the middle of the answer. Requests are a few kilobytes.
type copying struct{ *http.Transport }

func (c copying) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		sent, err := io.ReadAll(req.Body)
		req.Body.Close()
		if err != nil {
			return nil, err
		}
		req = req.Clone(req.Context())
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(sent)), nil }
		req.Body, _ = req.GetBody()
	}
	return c.Transport.RoundTrip(req)
}
