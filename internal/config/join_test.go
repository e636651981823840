package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPeersAndLocation(t *testing.T) {
	g, err := Load(write(t, t.TempDir(), "gateway.hcl", `region = "a"
location {
  provider = "aws"
  zone     = "eu-west-1b"
  lookup   = false
}
peer "b" {
  retry_join = ["provider=aws region=eu-west-1 tag_key=role tag_value=\"mesh gateway\" port=443", "gw.example.com", "192.0.2.7:443"]
}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Location{Provider: "aws", Zone: "eu-west-1b"}); g.Location != want {
		t.Errorf("location is %+v", g.Location)
	}
	want := []Peer{{Region: "b", RetryJoin: []Join{
		{Text: `provider=aws region=eu-west-1 tag_key=role tag_value="mesh gateway" port=443`, Port: "443",
			Words: map[string]string{"provider": "aws", "region": "eu-west-1", "tag_key": "role", "tag_value": "mesh gateway"}},
		{Text: "gw.example.com", Address: "gw.example.com:8443", Port: MeshPort},
		{Text: "192.0.2.7:443", Address: "192.0.2.7:443", Port: MeshPort}}}}
	if diff := cmp.Diff(want, g.Peers); diff != "" {
		t.Errorf("peers (-want +got):\n%s", diff)
	}
	next := *g
	next.Peers, next.Location.Zone = nil, ""
	if got := Reloadable(g, &next); len(got) != 1 || got[0] != "peer" || len(Merge(g, &next).Peers) != 0 {
		t.Errorf("reloadable: %v", got)
	}
	if got := RestartOnly(g, &next); len(got) != 1 || got[0] != "location" {
		t.Errorf("restart only: %v", got)
	}
}

func TestPeersAndLocationsThatAreRefused(t *testing.T) {
	peer := func(entry string) string { return "peer \"b\" {\n retry_join = [" + entry + "]\n}\n" }
	for text, want := range map[string]string{
		peer(``): "0 entries",
		peer(`"10.0.0.1:8443"`) + peer(`"10.0.0.1:8443"`):            "Another block",
		"peer \"a\" {\n retry_join = [\"10.0.0.1\"]\n}":              "own region",
		"peer \"A b\" {\n retry_join = [\"10.0.0.1\"]\n}":            "Region",
		peer(`"169.254.169.254"`):                                    "credentials",
		peer(`"provider=vsphere tag_name=x"`):                        "aws, azure, gce",
		peer(`"tag_key=x"`):                                          "unknown",
		peer(`"provider=aws tag_name=x"`):                            "tag_name is unknown: provider=aws takes region, tag_key",
		peer(`"provider=aws tag_key=x secret_access_key=example"`):   "credentials do not belong here",
		peer(`"provider=aws tag_key=x port=0"`):                      "port",
		peer(`"provider=aws tag_key=x tag_key=y"`):                   "twice",
		peer(`"provider=aws tag_key="`):                              "missing",
		peer(`"provider=aws tag_key=a=b"`):                           "quotes",
		peer(`"provider=aws tag_key=\"a"`):                           "not closed",
		"location {\n zone = \"" + strings.Repeat("z", 64) + "\"\n}": "64 octets",
		"location {\n zone = \"eu west\"\n}":                         "printable",
		"location {\n zones = \"eu west\"\n}":                        "zones",
	} {
		_, err := Load(write(t, t.TempDir(), "gateway.hcl", "region = \"a\"\n"+text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives %v, want %q", text, err, want)
		}
	}
}

const twoClouds = `region = "a"
provider "aws" "amazon" {
  regions = ["eu-west-1"]
  kinds   = []
}
provider "gcp" "google" {
  projects = ["example-project"]
  kinds    = ["instances"]
  discover {
    service = "web"
  }
}
`

func TestClustersFromOtherProviders(t *testing.T) {
	all := "provider \"kubernetes\" \"all\" {\n clusters_from = [%s]\n discover {\n service = \"*\"\n }\n}\n"
	g, err := Load(write(t, t.TempDir(), "gateway.hcl", twoClouds+strings.Replace(all, "%s", `"amazon", "google"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	var listed, from []string
	for _, p := range g.Providers {
		listed = append(listed, p.Name)
		if k, ok := p.Config.(*KubernetesProvider); ok {
			for _, f := range k.From {
				from = append(from, f.Name)
			}
		}
	}
	if diff := cmp.Diff([][]string{{"google", "all"}, {"amazon", "google"}}, [][]string{listed, from}); diff != "" {
		t.Errorf("what is listed, and where clusters come from (-want +got):\n%s", diff)
	}
	for _, names := range []string{`"nobody"`, `"all"`, `"google", "google"`} {
		_, err := Load(write(t, t.TempDir(), "gateway.hcl", twoClouds+strings.Replace(all, "%s", names, 1)))
		if err == nil || !strings.Contains(err.Error(), "clusters_from") {
			t.Errorf("clusters_from = [%s] gives %v", names, err)
		}
	}
}

func FuzzParseJoin(f *testing.F) {
	f.Add(`provider=aws tag_key="a \"b\"" tag_value=c`)
	f.Add("gw.example.com:8443")
	f.Add(`provider="gce" "tag_value"=x`)
	f.Fuzz(func(t *testing.T, text string) {
		j, err := ParseJoin(text)
		if err != nil {
			return
		}
		if (j.Address == "") != (j.Words["provider"] != "") || j.Port == "" {
			t.Fatalf("%q gives %+v", text, j)
		}
	})
}
