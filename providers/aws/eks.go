package aws

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/eks/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Cluster is an EKS cluster, with all that a Kubernetes client needs.
type Cluster struct {
	Name, Region, Account string
	Endpoint              string // URL of the API server
	CA                    []byte // PEM, the only authority that the API server's certificate may come from
	// Token returns a bearer token and until when it is good.
	Token func(ctx context.Context) (string, time.Time, error)
}

// Clusters returns the EKS clusters that serve, in the order of account, region and name. With an error it returns those of the
// accounts and regions that could be listed; the error names the others.
func Clusters(ctx context.Context, l *Lister) ([]Cluster, error) { // no method: as one, it would stay in builds that never call it
	var all []Cluster
	var errs []error
	for _, a := range l.cfg.Accounts {
		for _, r := range l.cfg.Regions {
			p := l.places[placeKey{a.id(), r}]
			v, err := l.visit(ctx, p, nil)
			if err == nil {
				var here []Cluster
				here, err = l.clustersIn(ctx, v)
				all = append(all, here...)
				l.leave(v, err)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("list EKS clusters of %v in %s: %w", a, r, err))
			}
		}
	}
	slices.SortFunc(all, func(a, b Cluster) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Name, b.Name))
	})
	return all, errors.Join(errs...)
}

func (l *Lister) clustersIn(ctx context.Context, v *visit) ([]Cluster, error) {
	kubernetes := eks.NewFromConfig(v.config)
	list := operation[eks.ListClustersInput, eks.ListClustersOutput, eks.Options](kubernetes.ListClusters)
	describe := operation[eks.DescribeClusterInput, eks.DescribeClusterOutput, eks.Options](kubernetes.DescribeCluster)
	var names []string
	err := pages(func(token *string) (*string, error) {
		out, err := call(ctx, &v.spend, list, &eks.ListClustersInput{NextToken: token, MaxResults: aws.Int32(100)})
		if err != nil {
			return nil, err
		}
		names = append(names, out.Clusters...)
		return out.NextToken, nil
	})
	if err != nil {
		return nil, err
	}
	var here []Cluster
	for _, name := range names { // the API describes one at a time
		out, err := call(ctx, &v.spend, describe, &eks.DescribeClusterInput{Name: &name})
		if code(err) == "ResourceNotFoundException" {
			continue // it went away a moment ago
		}
		if err != nil {
			return here, err
		}
		c := out.Cluster
		if c == nil || c.Status != types.ClusterStatusActive && c.Status != types.ClusterStatusUpdating {
			continue
		}
		if c.Endpoint == nil || c.CertificateAuthority == nil { // registered from outside AWS
			continue
		}
		ca, err := base64.StdEncoding.DecodeString(aws.ToString(c.CertificateAuthority.Data))
		if err != nil {
			return here, fmt.Errorf("read the certificate authority of cluster %q: %w", name, err)
		}
		account := v.place.account.id()
		if id, err := arn.Parse(aws.ToString(c.Arn)); err == nil && account == "" { // the process's own
			account = id.AccountID
		}
		here = append(here, Cluster{Name: name, Region: v.place.region, Account: account, Endpoint: *c.Endpoint, CA: ca,
			Token: func(ctx context.Context) (string, time.Time, error) { return l.token(ctx, v.place, name) }})
	}
	return here, nil
}

// token returns a bearer token for an EKS cluster: the URL of a request that says who we are, signed and good for this cluster
// only. The cluster makes the request and learns it (https://github.com/kubernetes-sigs/aws-iam-authenticator).
func (l *Lister) token(ctx context.Context, p *place, cluster string) (string, time.Time, error) {
	fail := func(err error) (string, time.Time, error) {
		return "", time.Time{}, fmt.Errorf("sign a token for EKS cluster %q: %w", cluster, err)
	}
	v, err := l.visit(ctx, p, nil)
	if err != nil {
		return fail(err)
	}
	who, err := v.credentials.Retrieve(ctx)
	if err != nil {
		err = classify(ctx, err)
		l.leave(v, err)
		return fail(err)
	}
	// The region's own endpoint, whatever endpoint this process is told to use: the cluster accepts no other host.
	endpoint, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, sts.EndpointParameters{Region: &p.region,
		UseFIPS: aws.Bool(false), UseDualStack: aws.Bool(false), UseGlobalEndpoint: aws.Bool(false)})
	if err != nil {
		return fail(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		endpoint.URI.JoinPath("/").String()+"?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60", nil)
	if err != nil {
		return fail(err)
	}
	req.Header.Set("x-k8s-aws-id", cluster)
	now := time.Now()
	signed, _, err := v4.NewSigner().PresignHTTP(ctx, who, req, emptyHash, "sts", p.region, now.UTC())
	if err != nil {
		return fail(err)
	}
	// The cluster takes it for 15 minutes from the signature, whatever X-Amz-Expires says; one is for clocks that differ.
	return "k8s-aws-v1." + base64.RawURLEncoding.EncodeToString([]byte(signed)), now.Add(14 * time.Minute), nil
}

// emptyHash is the SHA-256 of an empty body.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
