package peering

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func sampleRequest() joinRequest {
	return joinRequest{
		Token:     sampleToken().id(),
		Region:    "gcp-europe-west1",
		Domain:    spiffeid.RequireTrustDomainFromString("gcp-europe-west1.mesh.internal"),
		Addresses: []string{"198.51.100.4:8443"},
		Time:      time.UnixMilli(1_800_000_000_123).UTC(),
		Bundle:    []byte(`{"keys":[]}`),
	}
}

func sampleReply() joinReply {
	return joinReply{
		Time:      time.UnixMilli(1_800_000_000_456).UTC(),
		Region:    "aws-us-east-1",
		Domain:    spiffeid.RequireTrustDomainFromString("aws-us-east-1.mesh.internal"),
		Addresses: []string{"203.0.113.7:8443"},
		Bundle:    []byte(`{"keys":[]}`),
		Yours:     "7Q4K-2MZP",
	}
}

var channel = bytes.Repeat([]byte{7}, 32)

func TestJoinRequestRoundTrips(t *testing.T) {
	want, key := sampleRequest(), sampleToken().key()
	b, err := want.encode(key, channel)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseJoinRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(sameDomain)); diff != "" {
		t.Error(diff)
	}
	if !proven(b, key, channel) {
		t.Error("its own proof does not hold")
	}
}

func TestProofHoldsNowhereElse(t *testing.T) {
	key := sampleToken().key()
	b, err := sampleRequest().encode(key, channel)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(channel)
	other[31] ^= 1
	if proven(b, key, other) {
		t.Error("holds on another connection")
	}
	if proven(b, key, nil) {
		t.Error("holds without a connection")
	}
	wrong := key
	wrong[0] ^= 1
	if proven(b, wrong, channel) {
		t.Error("holds for another token")
	}
	for i := range b {
		changed := bytes.Clone(b)
		changed[i] ^= 0x20
		if proven(changed, key, channel) {
			t.Fatalf("holds although octet %d was changed", i)
		}
	}
	for n := range b {
		if proven(b[:n], key, channel) {
			t.Fatalf("holds for the first %d octets", n)
		}
	}
}

func TestJoinReplyRoundTrips(t *testing.T) {
	refusal := joinReply{Refusal: refusedSkew, Detail: "our clock says 12:00", Time: time.UnixMilli(5).UTC()}
	for _, want := range []joinReply{sampleReply(), refusal} {
		got, err := parseJoinReply(want.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(sameDomain)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestRefusalTextIsHarmless(t *testing.T) {
	evil := joinReply{Refusal: refusedUsed, Detail: "\x1b[2Jyou won" + strings.Repeat("é", 1000), Time: time.UnixMilli(5)}
	got, err := parseJoinReply(evil.encode())
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsRune(got.Detail, 0x1b) || len(got.Detail) > maxDetail {
		t.Errorf("detail of %d octets: %q", len(got.Detail), got.Detail[:20])
	}
}

func TestOtherVersionIsToldApart(t *testing.T) {
	b, err := sampleRequest().encode(sampleToken().key(), channel)
	if err != nil {
		t.Fatal(err)
	}
	b[3] = 7
	_, err = parseJoinRequest(b)
	var version *errVersion
	if !errors.As(err, &version) || version.version != 7 {
		t.Errorf("got %v", err)
	}
	if _, err := parseJoinReply([]byte("HTTP/1.1 400 Bad Request\r\n")); err == nil || errors.As(err, &version) {
		t.Errorf("another protocol is taken for a version: %v", err)
	}
}

func FuzzParseJoinRequest(f *testing.F) {
	b, err := sampleRequest().encode(sampleToken().key(), channel)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseJoinRequest(b)
		if err != nil {
			return
		}
		again, err := r.encode(sampleToken().key(), channel)
		if err != nil || !bytes.Equal(again[:len(again)-32], b[:len(b)-32]) {
			t.Fatalf("a request has two encodings (%v)", err)
		}
	})
}

func FuzzParseJoinReply(f *testing.F) {
	f.Add(sampleReply().encode())
	f.Add(joinReply{Refusal: refusedSkew, Detail: "x", Time: time.UnixMilli(5)}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseJoinReply(b)
		if err != nil {
			return
		}
		if len(r.Addresses) > MaxAddresses || len(r.Bundle) > maxBundle || len(r.Detail) > maxDetail {
			t.Fatalf("out of bounds: %+v", r)
		}
		if _, err := parseJoinReply(r.encode()); err != nil {
			t.Fatalf("cannot be read again: %v", err)
		}
	})
}
