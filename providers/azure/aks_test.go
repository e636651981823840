package azure

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
)

func authority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func TestClusters(t *testing.T) {
	ca := authority(t)
	api, url := serve(t, azuretest.Inventory{Clusters: []azuretest.Cluster{
		{Name: "shop", CA: ca}, {Name: "local", CA: ca, Local: true}, {Name: "asleep", Power: "Stopped"},
		{Name: "leaving", Provisioned: "Deleting"},
		{Name: "gone", Gone: true}, {Name: "odd", CA: []byte("none")}, {Name: "plain", CA: ca, Server: "http://198.51.100.1"},
		{Where: azuretest.Where{Subscription: second}, Name: "far", CA: ca}}})
	l := open(t, Config{Kinds: []string{KindVM}, Endpoint: url, Subscriptions: []string{azuretest.Subscription, second}})
	got, err := Clusters(t.Context(), l)
	if err == nil || !strings.Contains(err.Error(), `cluster "odd"`) || !strings.Contains(err.Error(), `"http://198.51.100.1" is not`) ||
		strings.Contains(err.Error(), "gone") {
		t.Errorf("the error is %v, want odd and plain in it", err)
	}
	// One for the list, and one for each that runs: the API describes one at a time.
	if diff := cmp.Diff(map[string]int{azuretest.ActionGraph: 1, azuretest.ActionCredentials: 6}, api.Counts()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if len(got) != 3 || got[0].Name != "local" || got[1].Name != "shop" || got[2].Account != second {
		t.Fatalf("there are %+v", got)
	}
	shop := got[1]
	if shop.Endpoint != "https://shop.hcp.westeurope.azmk8s.io:443" || string(shop.CA) != string(ca) || shop.Group != azuretest.Group || shop.Region != "westeurope" {
		t.Errorf("the cluster is %+v", shop)
	}
	token, until, err := shop.Token(t.Context())
	if err != nil || token == "" || time.Until(until) < 10*time.Minute {
		t.Errorf("the token is %q until %v: %v", token, until, err)
	}
	if _, _, err := got[0].Token(t.Context()); err == nil || !strings.Contains(err.Error(), "Microsoft Entra") {
		t.Errorf("a cluster without the directory gives %v", err)
	}
}

func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte("clusters:\n- cluster:\n    server: https://example.com\n    certificate-authority-data: eA==\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		endpoint, ca, err := readKubeconfig(raw)
		if err == nil && (!strings.HasPrefix(strings.ToLower(endpoint), "https://") || len(ca) == 0) {
			t.Errorf("%q gives %q and %q", raw, endpoint, ca)
		}
	})
}
