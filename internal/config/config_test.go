package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOnlyRegionIsRequired(t *testing.T) {
	g, err := Load(write(t, t.TempDir(), "gateway.hcl", `region = "aws-us-east-1"`))
	if err != nil {
		t.Fatal(err)
	}
	if g.Region != "aws-us-east-1" || g.TrustDomain.Name() != "aws-us-east-1.mesh.internal" || g.MeshListen != ":8443" ||
		!slices.Equal(g.MeshLanes, []string{"quic", "tcp"}) || g.AdminListen != "127.0.0.1:8480" || g.MaxStale != 24*time.Hour || g.Name == "" || g.AdminSocket == "" {
		t.Fatalf("defaults: %+v", g)
	}
}

func TestEveryErrorIsShownAtOnceWithItsPlace(t *testing.T) {
	path := write(t, t.TempDir(), "gateway.hcl", `
regoin    = "aws-us-east-1"
max_stale = "1 day"
mesh {
  lisen = ":8443"
}
service "checkout" {}
`)
	_, err := Load(path)
	if federation.CodeOf(err) != "TW-1001" {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		`line 2`, `regoin    = "aws-us-east-1"`, `Did you mean "region"?`,
		`line 5`, `Did you mean "listen"?`,
		`line 3`, `duration "1 day" is not valid`[1:],
		`Resources live apart from gateway.hcl`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

// TestErrorsAreAllThereInOrderAndTrue: no error hides behind another one, and none is made up because another one was met.
func TestErrorsAreAllThereInOrderAndTrue(t *testing.T) {
	many := "region = \"a\"\n"
	for i := range 25 {
		many += fmt.Sprintf("wrong%d = 1\n", i)
	}
	many += "max_stale = \"x\"\n"
	_, err := Load(write(t, t.TempDir(), "gateway.hcl", many))
	last := 0
	for line := 2; line <= 27; line++ {
		at := strings.Index(err.Error(), fmt.Sprintf("line %d:", line))
		if at < last {
			t.Fatalf("line %d is missing or out of order:\n%v", line, err)
		}
		last = at
	}
	for name, content := range map[string]string{
		"syntax":      "region = \"a\"\nfoo =\n",
		"wrong type":  "region = [\"a\"]\n",
		"null":        "region = null\n",
		"variable":    "region = var.x\n",
		"two regions": "region = \"a\"\nregion = \"b\"\n",
	} {
		if _, err := Load(write(t, t.TempDir(), "gateway.hcl", content)); err == nil || strings.Contains(err.Error(), "Region is empty") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Load(write(t, t.TempDir(), "gateway.hcl", "\x7fELF\x00\x01")); err == nil || !strings.Contains(err.Error(), "1 error") {
		t.Errorf("a file that is no text: %v", err)
	}
}

func TestWrongValuesNameTheirLine(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{`region = "AWS"`, "lower case"},
		{`region = "local"`, "reserved"},
		{"region = \"a\"\nlocal {\n  listen = \"0.0.0.0:1\"\n}", "loopback"},
		{"region = \"a\"\nadmin {\n  listen = \"0.0.0.0:1\"\n}", "loopback"},
		{"region = \"a\"\nsource \"ftp\" \"x\" {\n  path = \"/x\"\n}", "source type"},
		{"region = \"a\"\nsource \"file\" \"x\" {\n  path = \"x\"\n}", "not absolute"},
		{"region = \"a\"\nsource \"file\" \"\" {\n  path = \"/x\"\n}", "source name"},
		{"region = \"a\"\nlog {\n  format = \"xml\"\n}", "xml"},
		{"region = \"a\"\ntrust_domain = \"A/b\"", "trust"},
		{"region = \"a\"\nmesh {\n  advertise = [\"host\"]\n}", "port"},
		{"region = \"a\"\nmesh {\n  lanes = [\"sctp\"]\n}", "not a lane"},
		{"region = \"a\"\nmesh {\n  lanes = []\n}", "without a lane"},
	} {
		_, err := Load(write(t, t.TempDir(), "gateway.hcl", c.content))
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), c.want) || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%s\ngave %v, want a line and %q", c.content, err, c.want)
		}
	}
}

func TestDirectoryMergesFilesAndRefusesContradictions(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "10-region.hcl", `region = "gcp-europe-west1"`)
	write(t, dir, "20-name.hcl", `name = "gw-2"`)
	g, err := Load(dir)
	if err != nil || g.Name != "gw-2" {
		t.Fatalf("%+v %v", g, err)
	}
	write(t, dir, "30-again.hcl", `region = "other"`)
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "30-again.hcl") {
		t.Fatalf("a second region was not refused: %v", err)
	}
}

// TestNoSettingIsForgottenByAReload: each is either applied or said to wait for a restart, and what is applied reaches the running
// configuration.
func TestNoSettingIsForgottenByAReload(t *testing.T) {
	running, err := Load(write(t, t.TempDir(), "gateway.hcl", `region = "a"`))
	if err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[Gateway]().NumField() {
		name := reflect.TypeFor[Gateway]().Field(i).Name
		if name == "Files" {
			continue
		}
		next := *running
		switch v := reflect.ValueOf(&next).Elem().Field(i); v.Kind() {
		case reflect.String:
			v.SetString("other")
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		case reflect.Struct:
			switch v.Addr().Interface().(type) {
			case *spiffeid.TrustDomain:
				v.Set(reflect.ValueOf(spiffeid.RequireTrustDomainFromString("other.example")))
			case *Location:
				next.Location.Zone = "z"
			}
		}
		restart, reload := RestartOnly(running, &next), Reloadable(running, &next)
		if len(restart)+len(reload) != 1 {
			t.Errorf("%s: restart %v, reload %v", name, restart, reload)
		}
		merged := Merge(running, &next)
		if applied := reflect.DeepEqual(reflect.ValueOf(*merged).Field(i).Interface(), reflect.ValueOf(next).Field(i).Interface()); applied != (len(reload) == 1) {
			t.Errorf("%s: reloadable %v, but applied is %v", name, reload, applied)
		}
	}
}

func TestInitialIsAWorkingConfiguration(t *testing.T) {
	path := write(t, t.TempDir(), "gateway.hcl", string(Initial("aws-us-east-1", "/srv/tw")))
	g, err := Load(path)
	if err != nil || g.DataDir != "/srv/tw" {
		t.Fatalf("%+v %v", g, err)
	}
	// Uncommenting every shown default must also work: what the file shows is what it would accept.
	var shown []string
	for _, line := range strings.Split(string(Initial("aws-us-east-1", "")), "\n") {
		rest, commented := strings.CutPrefix(line, "# ")
		if commented && (strings.Contains(rest, "=") || strings.HasSuffix(rest, "{") || rest == "}" || strings.HasPrefix(rest, "  ")) {
			line = rest
		}
		shown = append(shown, line)
	}
	if _, err := Load(write(t, t.TempDir(), "gateway.hcl", strings.Join(shown, "\n"))); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(shown, "\n"))
	}
	for field := range reflect.TypeFor[file]().Fields() { // nobody has to look elsewhere for what there is
		name, _, _ := strings.Cut(field.Tag.Get("hcl"), ",")
		if !slices.ContainsFunc(shown, func(line string) bool { return strings.HasPrefix(line, name+" ") }) {
			t.Errorf("it does not mention %q", name)
		}
	}
}

const shop = `
service "checkout" {
  protocol = "http"
  instance "a" {
    address = "192.0.2.10:8080"
    zone    = "a"
    labels  = { version = "2" }
  }
  check "http" {
    path     = "/healthz"
    interval = "1s"
  }
}
export "checkout" { to = ["*"] }
intention "web-checkout" {
  source      = "web@gcp-europe-west1"
  destination = "checkout"
  action      = "allow"
  require     = "mtls"
}
resolver "shop/search" {
  failover     = ["local", "*"]
  idle_timeout = "10m"
  outlier { consecutive_failures = 3 }
}
upstream "search" {
  service = "shop/search"
  listen  = "127.0.0.1:9001"
  caller  = "web"
}
`

func TestResourcesRoundTripThroughHCL(t *testing.T) {
	dir := t.TempDir()
	first, err := ParseResources(write(t, dir, "shop.hcl", shop))
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != 5 {
		t.Fatalf("got %d resources", len(first))
	}
	second, err := ParseResources(write(t, dir, "again.hcl", string(FormatHCL(first))))
	if err != nil {
		t.Fatalf("%v\n%s", err, FormatHCL(first))
	}
	for i := range first {
		if !reflect.DeepEqual(first[i].Spec, second[i].Spec) || first[i].Key != second[i].Key {
			t.Errorf("%v came back as %v", first[i], second[i])
		}
	}
}

func TestResourceErrorsNameFileAndLine(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{`servce "x" {}`, `Did you mean "service"?`},
		{"export \"x\" {\n  too = [\"*\"]\n}", `Did you mean "to"?`},
		{"intention \"x\" {\n  source = \"a\"\n  destination = \"b\"\n  action = \"permit\"\n}", "use allow or deny"},
		{"upstream \"x\" {\n  service = \"a\"\n  listen = \"0.0.0.0:80\"\n  caller = \"w\"\n}", "loopback"},
		{"service \"x\" {\n  instance \"a\" {\n    address = \"host:1\"\n  }\n}", "no IP:port"},
		{"export \"x\" {\n  to = [\"*\"]\n}\nexport \"x\" {\n  to = [\"a\"]\n}", "declared before"},
		{"resolver \"x\" {\n  connect_timeout = \"5\"\n}", "duration"},
		{`[{"kind":"export","name":"x","spec":{"too":["*"]}}]`, "unknown field"},
		{`{"kind":"exprt","name":"x","spec":{}}`, "unknown"},
	} {
		_, err := ParseResources(write(t, t.TempDir(), "r.hcl", c.content))
		if federation.CodeOf(err) != "TW-1004" || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.want)) || !strings.Contains(err.Error(), "r.hcl") {
			t.Errorf("%s\ngave %v, want %q", c.content, err, c.want)
		}
	}
}

func TestAnySpecSurvivesHCL(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		label := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?`)
		text := rapid.StringMatching(`[ -~]*`) // every character that HCL or a template could take for its own
		in := federation.Resource{Key: federation.Key{Kind: federation.KindIntention, Name: label.Draw(t, "name")}, Spec: &federation.Intention{
			Source: label.Draw(t, "src"), Destination: label.Draw(t, "dst"), Action: federation.Allow, Description: text.Draw(t, "text")}}
		if in.Validate() != nil {
			t.Skip("not a valid resource")
		}
		path := filepath.Join(dir, "any.hcl")
		if err := os.WriteFile(path, FormatHCL([]federation.Resource{in}), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := ParseResources(path)
		if err != nil {
			t.Fatalf("%v\n%s", err, FormatHCL([]federation.Resource{in}))
		}
		if !reflect.DeepEqual(in.Spec, out[0].Spec) {
			t.Fatalf("%+v became %+v", in.Spec, out[0].Spec)
		}
	})
}

func TestWatchAppliesChangesAndKeepsTheLastGood(t *testing.T) {
	synctest.Test(t, watchAppliesChanges)
}

func watchAppliesChanges(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.hcl", `export "x" { to = ["*"] }`)
	applied, failures := make(chan []federation.Resource, 8), make(chan error, 8)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_ = WatchResources(ctx, dir, func(r []federation.Resource) error { applied <- r; return nil }, func(err error) { failures <- err })
	}()
	if r := <-applied; len(r) != 1 || <-failures != nil {
		t.Fatalf("first: %v", r)
	}
	write(t, dir, "b.hcl", `exprt "y" {}`)
	if err := <-failures; federation.CodeOf(err) != "TW-1004" {
		t.Fatalf("a broken file gave %v", err)
	}
	write(t, dir, "b.hcl", `export "yy" { to = ["*"] }`)
	if r := <-applied; len(r) != 2 {
		t.Fatalf("after repair: %v", r)
	}
}

// TestWatchTakesAbsenceForNoDeletion: a file that is about to be written, a directory that lost its mount and one that is gone
// look like "nothing is declared", and must not delete a region's services.
func TestWatchTakesAbsenceForNoDeletion(t *testing.T) {
	synctest.Test(t, watchTakesAbsence)
}

func watchTakesAbsence(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "resources.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a.hcl", `export "x" { to = ["*"] }`)
	applied, failures := make(chan []federation.Resource, 8), make(chan error, 8)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_ = WatchResources(ctx, dir, func(r []federation.Resource) error { applied <- r; return nil }, func(err error) { failures <- err })
	}()
	if r := <-applied; len(r) != 1 || <-failures != nil {
		t.Fatalf("first: %v", r)
	}
	write(t, dir, "a.hcl", "")
	if err := <-failures; federation.CodeOf(err) != "TW-1003" {
		t.Errorf("an empty file gave %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "a.hcl")); err != nil {
		t.Fatal(err)
	}
	if err := <-failures; !errors.Is(err, ErrNoFiles) {
		t.Errorf("an empty directory gave %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-failures; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory gave %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "none.hcl", "# nothing is declared here\n")
	if r := <-applied; len(r) != 0 || len(applied) != 0 {
		t.Errorf("a file with a comment declares %v, then %d more", r, len(applied))
	}
}

func TestFileThatIsNoText(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"binary.hcl": "\x7fELF\x00\x1b[2J", "latin.json": "[\xe4]"} {
		write(t, dir, name, content)
		_, err := ParseResources(filepath.Join(dir, name))
		if federation.CodeOf(err) != "TW-1004" || len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("%s gave %q", name, err)
		}
	}
	write(t, dir, "many.hcl", strings.Repeat("' \x1b[2J &\n", 2000))
	if _, err := ParseResources(filepath.Join(dir, "many.hcl")); err == nil || len(err.Error()) > 16000 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("2,000 wrong lines give %d octets of explanation", len(err.Error()))
	}
}

func FuzzParseResources(f *testing.F) {
	f.Add([]byte(shop))
	f.Add([]byte(`[{"kind":"export","name":"x","spec":{"to":["*"]}}]`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(dir, "f.hcl")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := ParseResources(path)
		var d *federation.Diagnostic
		if err != nil && !errors.As(err, &d) {
			t.Fatalf("an error without a code: %v", err)
		}
		for _, r := range list {
			if err := r.Validate(); err != nil {
				t.Fatalf("parsed an invalid resource: %v", err)
			}
		}
	})
}
