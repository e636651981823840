package world

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A Region is a cloud with a gateway.
type Region struct {
	*Cloud
	Gateway *Process
	bin     string
}

// Binaries returns the directory of the built programs, or ends the test with the command that builds them. TRADEWIND_BIN names
// another directory, to test programs that were built elsewhere.
func Binaries(t testing.TB) string {
	t.Helper()
	bin, err := filepath.Abs(cmp.Or(os.Getenv("TRADEWIND_BIN"), filepath.Join("..", "bin")))
	if err == nil {
		_, err = os.Stat(filepath.Join(bin, "tradewind-gateway"))
	}
	need(t, err == nil, "bin/tradewind-gateway is missing: run make e2e, which builds it")
	return bin
}

// Regions makes a cloud for each name and starts a gateway in it. extra is added to every gateway.hcl.
func Regions(t testing.TB, extra string, names ...string) []*Region {
	t.Helper()
	Binaries(t)
	var regions []*Region
	for _, c := range Clouds(t, names...) {
		regions = append(regions, c.Region("", extra))
	}
	return regions
}

// Region starts a gateway in the cloud. mesh is added to the mesh block of its gateway.hcl, extra to the file.
func (c *Cloud) Region(mesh, extra string) *Region {
	c.t.Helper()
	r := &Region{Cloud: c, bin: Binaries(c.t)}
	c.Write("gateway.hcl", fmt.Sprintf("region   = %q\nname     = \"gw-1\"\ndata_dir = %q\n\nmesh {\n  listen    = %q\n  advertise = [%q]\n  %s\n}\n\n"+
		"access_log = %q\n\n%s\n", c.Name, filepath.Join(c.Dir, "data"), c.Address+":8443", c.Address+":8443", mesh, filepath.Join(c.Dir, "access.log"), extra))
	r.StartGateway()
	return r
}

// In returns the region for use in the subtest t, so that a failure there ends the subtest and not its parent.
func (r *Region) In(t testing.TB) *Region {
	cloud := *r.Cloud
	cloud.t = t
	return &Region{Cloud: &cloud, Gateway: r.Gateway, bin: r.bin}
}

// StartGateway starts the region's gateway on its data directory and returns when it is ready.
func (r *Region) StartGateway() {
	r.t.Helper()
	r.Gateway = r.Start(filepath.Join(r.bin, "tradewind-gateway"), "-config", filepath.Join(r.Dir, "gateway.hcl"))
	Until(r.t, 20*time.Second, "the gateway of "+r.Name, func() error {
		_, err := r.TryCLI("status")
		return err
	})
}

// CLI runs the tradewind command against the region's gateway and returns its standard output; a failure ends the test.
func (r *Region) CLI(args ...string) string {
	r.t.Helper()
	out, err := r.TryCLI(args...)
	if err != nil {
		r.t.Fatalf("tradewind %v in %s: %v\n%s", args, r.Name, err, out)
	}
	return out
}

// TryCLI is CLI, but returns the failure.
func (r *Region) TryCLI(args ...string) (string, error) {
	return r.Try(60*time.Second, filepath.Join(r.bin, "tradewind"), append([]string{"--socket", filepath.Join(r.Dir, "data", "admin.sock")}, args...)...)
}

// JSON runs the command with -o json and decodes what it prints.
func (r *Region) JSON(into any, args ...string) {
	r.t.Helper()
	decode(r.t, r.CLI(append(args, "-o", "json")...), into)
}

// Apply applies resources written in HCL.
func (r *Region) Apply(hcl string) {
	r.t.Helper()
	r.CLI("apply", "--yes", "-f", r.Write("resources.hcl", hcl))
}

// Federate makes a token in a and redeems it in b.
func Federate(t testing.TB, a, b *Region) {
	t.Helper()
	var token struct{ Token string }
	a.JSON(&token, "peer", "generate-token", b.Name)
	b.CLI("peer", "establish", a.Name, "--token", token.Token)
}
