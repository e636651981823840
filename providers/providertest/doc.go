// Package providertest holds the contracts of the wing, as suites that a provider's tests run.
//
// Run is the contract that every source of instances must keep: it publishes complete sets and nothing else, keeps silent when
// it cannot see, stops promptly, can be run again, and leaves nothing behind.
//
// Lister is the contract between an adapter and the framework in providers/poll. An adapter's test plugs in like this:
//
//	func TestLister(t *testing.T) {
//		providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
//			api := newFakeAPI(t)           // an httptest.Server that speaks the real API and holds a providertest.World
//			lister, err := New(Config{Endpoint: api.URL, Credentials: api.credentials})
//			...
//			return providertest.ListerRig{
//				Lister: lister, Scope: poll.Scope{Provider: "aws", Account: "111111111111", Region: "eu-west-1", Kind: "ec2"},
//				Serve: api.serve, Requests: api.requests, Action: "ec2:DescribeInstances", Close: api.client.CloseIdleConnections,
//			}
//		})
//	}
//
// The fake asks World what to do with a request: the page that the request's token names, its items translated to the API's form,
// and the page's fault, served in the API's own words, as often as Page.Times says. Player keeps that count.
package providertest
