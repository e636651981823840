package demo

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/aws/awstest"
	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
)

// pollEvery is how often a gateway of the demo asks its cloud: the least that gateway.hcl allows. The default is a minute.
const pollEvery = time.Second

// A cloud is the double of a provider's API, on a loopback address: the gateway beside it finds its machines by asking it, as it
// would ask the cloud itself.
type cloud struct {
	kind        string // of the provider block
	product     string // as people call it
	settings    string // of the provider block: where to look
	account     string // as whom the machines are listed
	nameForm    string // of a machine, by its number
	network     netip.Addr
	environment map[string]string // what the provider's library is to find, beside the block

	url    string
	double http.Handler
	show   func([]*machine) // makes these the machines of the inventory
	forget func()           // the double keeps all requests, for tests
}

// A machine is an entry of a cloud's inventory, and the process of checkout that runs on it. Each has an address of its own: what a
// cloud says of a machine is true of all its ports.
type machine struct {
	name    string
	address netip.AddrPort
	leaving bool // the cloud is about to take it away, and waits until it has nothing more to do
	process *process
}

// tags are what a machine says of itself. Google Cloud allows no slash in a label, nor Azure in a tag.
func (m *machine) tags(prefix string) map[string]string {
	return map[string]string{prefix + "service": "checkout", prefix + "protocol": "http", prefix + "port": fmt.Sprint(m.address.Port())}
}

// openCloud starts the double of a kind of provider on a free port, until ctx ends. What it writes goes to dir.
func (w *world) openCloud(ctx context.Context, kind, dir string) (*cloud, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the double of %s: %w", kind, err)
	}
	open := map[string]func(url, dir string) (*cloud, error){"aws": openAWS, "gcp": openGCP, "azure": openAzure}[kind]
	url := "http://" + l.Addr().String()
	c, err := open(url, dir)
	if err != nil {
		l.Close()
		return nil, err
	}
	c.kind, c.url = kind, url
	w.wg.Go(func() {
		_ = serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.double.ServeHTTP(w, r)
			c.forget()
		}))
	})
	return c, nil
}

// block is the provider block of gateway.hcl. But for endpoint and interval, it is what one would write for the cloud itself.
func (c *cloud) block() string {
	return fmt.Sprintf("provider %q \"machines\" {\n  %s\n\n  endpoint = %q\n  interval = %q\n\n  discover {\n    service  = \"checkout\"\n"+
		"    accounts = [%q]\n  }\n}\n", c.kind, c.settings, c.url, pollEvery, c.account)
}

// variables are the whole environment of the gateway that asks the cloud. Nothing of the user's is among them: those credentials
// are for other clouds, and proxies lead away from this machine.
func (c *cloud) variables(home string) []string {
	all := []string{"HOME=" + home, "TMPDIR=" + home}
	for _, name := range slices.Sorted(maps.Keys(c.environment)) {
		all = append(all, name+"="+c.environment[name])
	}
	return all
}

// address returns the address of machine n.
func (c *cloud) address(n int) netip.Addr {
	a := c.network.As4()
	a[2], a[3] = byte(n>>8), byte(n)
	return netip.AddrFrom4(a)
}

// openAWS returns AWS with one Auto Scaling group, whose lifecycle hook makes it wait before it takes a machine away.
func openAWS(string, string) (*cloud, error) {
	s := awstest.New(awstest.Inventory{})
	return &cloud{product: "AWS", settings: "regions = [\"us-east-1\"]\n  kinds   = [\"ec2\"]", account: awstest.Account,
		nameForm: "i-%08x", network: netip.MustParseAddr("127.1.0.0"), environment: awstest.Environment(), double: s, forget: s.Forget,
		show: func(machines []*machine) {
			var inv awstest.Inventory
			for _, m := range machines {
				i := awstest.Instance{Where: awstest.Where{Region: "us-east-1"}, ID: m.name, VPC: "vpc-1", Zone: "us-east-1a", ZoneID: "use1-az1",
					IP: m.address.Addr().String(), Tags: m.tags("mesh/"), Group: "checkout"}
				if m.leaving {
					i.Lifecycle = "Terminating:Wait"
				}
				inv.Instances = append(inv.Instances, i)
			}
			s.Set(inv)
		}}, nil
}

// openGCP returns Google Cloud.
func openGCP(url, dir string) (*cloud, error) {
	key, err := gcptest.WriteCredentials(dir, url)
	if err != nil {
		return nil, fmt.Errorf("write the credentials for the double of Google Cloud: %w", err)
	}
	s := gcptest.New(gcptest.Inventory{})
	return &cloud{product: "Google Cloud", account: gcptest.Project,
		settings: fmt.Sprintf("projects         = [%q]\n  kinds            = [\"instances\"]\n  credentials_file = %q", gcptest.Project, key),
		nameForm: "checkout-%d", network: netip.MustParseAddr("127.2.0.0"), double: s, forget: s.Forget,
		show: func(machines []*machine) {
			var inv gcptest.Inventory
			for _, m := range machines {
				i := gcptest.Instance{Name: m.name, IP: m.address.Addr().String(), Labels: m.tags("mesh-")}
				if m.leaving {
					i.Status = "STOPPING"
				}
				inv.Instances = append(inv.Instances, i)
			}
			s.Change(func(_ *gcptest.Server, old *gcptest.Inventory) { *old = inv })
		}}, nil
}

// openAzure returns Azure.
func openAzure(url, _ string) (*cloud, error) {
	s := azuretest.New(azuretest.Inventory{})
	return &cloud{product: "Azure", account: azuretest.Subscription,
		settings: fmt.Sprintf("subscriptions = [%q]\n  kinds         = [\"vm\"]", azuretest.Subscription),
		nameForm: "checkout-%d", network: netip.MustParseAddr("127.3.0.0"), environment: azuretest.Environment(url), double: s, forget: s.Forget,
		show: func(machines []*machine) {
			var inv azuretest.Inventory
			for _, m := range machines {
				i := azuretest.Machine{Name: m.name, IP: m.address.Addr().String(), Zone: "1", Tags: m.tags("mesh-")}
				if m.leaving {
					i.Power = "deallocating"
				}
				inv.Machines = append(inv.Machines, i)
			}
			s.Change(func(_ *azuretest.Server, old *azuretest.Inventory) { *old = inv })
		}}, nil
}
