package peering

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

var savedDomain = spiffeid.RequireTrustDomainFromString("b.mesh.internal")

func TestSavedImportIsReadBackOrNotAtAll(t *testing.T) {
	payload := []byte("what the machine has saved")
	good := encodeImport(savedDomain, payload)
	got, err := decodeImport(good, savedDomain)
	if err != nil || !bytes.Equal(got, payload) {
		t.Fatalf("got %q, %v", got, err)
	}
	for n := range good {
		if _, err := decodeImport(good[:n], savedDomain); err == nil {
			t.Fatalf("the first %d octets are taken for the whole", n)
		}
		torn := bytes.Clone(good)
		torn[n] ^= 1
		if _, err := decodeImport(torn, savedDomain); err == nil {
			t.Fatalf("a flipped bit in octet %d is not noticed", n)
		}
	}
	if _, err := decodeImport(good, spiffeid.RequireTrustDomainFromString("c.mesh.internal")); err == nil {
		t.Error("the import of another trust domain is used")
	}
}

func TestImportFileIsReplacedWhole(t *testing.T) {
	d := importDir{t.TempDir()}
	if err := d.prepare(); err != nil {
		t.Fatal(err)
	}
	if got, err := d.read("b", savedDomain); got != nil || err != nil {
		t.Errorf("before the first write: %q, %v", got, err)
	}
	for _, content := range []string{"first", "second, which is longer", "3"} {
		if err := d.write("b", savedDomain, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := d.read("b", savedDomain); string(got) != content || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	info, err := os.Stat(d.path("b"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file is %v, %v", info, err)
	}
	d.remove("b")
	if files, err := os.ReadDir(d.dir + "/imports"); err != nil || len(files) != 0 {
		t.Errorf("left: %v, %v", files, err)
	}
	if err := (importDir{d.dir + "/nowhere"}).write("b", savedDomain, nil); federation.CodeOf(err) != federation.CodeImportFile {
		t.Errorf("got %v", err)
	}
}

// TestDamagedRecordHoldsUpNobody: one stored peering is unreadable; the region starts, and the others work.
func TestDamagedRecordHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.add("a")
		w.join(a, w.add("b"))
		a.stop()
		for _, bad := range []struct{ key, value string }{
			{"c", "not JSON"},
			{"d", `{"region":"e"}`},
			{"E", `{"region":"E"}`},
			{"f", `{"region":"f","trust_domain":"no good","state":"Active"}`},
			{"g", `{"region":"g","trust_domain":"g.mesh.internal","state":"Active","addresses":["169.254.169.254:80"]}`},
		} {
			if _, err := a.store.Commit(t.Context(), store.Op{Key: recordPrefix + bad.key, Value: []byte(bad.value)}); err != nil {
				t.Fatal(err)
			}
		}
		a.start()
		a.await("b", federation.PeeringActive, 10*time.Second)
		if list := a.m.List(); len(list) != 1 {
			t.Errorf("lists %+v", list)
		}
	})
}

func FuzzDecodeImport(f *testing.F) {
	f.Add(encodeImport(savedDomain, []byte("x")))
	f.Add([]byte(importMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if payload, err := decodeImport(b, savedDomain); err == nil && !bytes.Equal(encodeImport(savedDomain, payload), b) {
			t.Fatal("a saved import has two forms")
		}
	})
}

// FuzzDecodeRecord: a record may be damaged in the store, but never makes the gateway fail.
func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"region":"b","trust_domain":"b.mesh.internal","state":"Active","addresses":["192.0.2.1:8443"],"token":"00"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		rec, err := decodeRecord(store.Entry{Key: recordPrefix + "b", Value: value, Version: 1})
		if err != nil {
			return
		}
		if rec.live() && rec.domain.IsZero() {
			t.Fatal("a live peering without a trust domain")
		}
		if _, err := rec.put(); err != nil {
			t.Fatal(err)
		}
	})
}
