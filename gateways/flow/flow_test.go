package flow

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

var web = spiffeid.RequireFromString("spiffe://west.mesh.internal/ns/default/svc/web")

// receive feeds the frames in b to in and returns what they mean. DATA comes back as its offset and bytes.
func receive(in *In, b []byte) (events []Event, data []byte, err error) {
	for len(b) > 0 {
		if len(b) < HeaderLen {
			return events, data, errors.New("cut in a header")
		}
		h := ParseHeader(b)
		if err := in.Header(h); err != nil {
			return events, data, err
		}
		b = b[HeaderLen:]
		if len(b) < h.Length {
			return events, data, errors.New("cut in a body")
		}
		body := b[:h.Length]
		b = b[h.Length:]
		if h.Type == TypeData {
			data = append(data, body...)
			continue
		}
		e, err := in.Body(h, body)
		if err != nil {
			return events, data, err
		}
		events = append(events, e)
	}
	return events, data, nil
}

func drawOpen(t *rapid.T) Open {
	o := Open{
		Source:    web,
		Assurance: rapid.Byte().Draw(t, "assurance"),
		Service:   rapid.StringN(1, -1, maxService).Draw(t, "service"),
		Instance:  rapid.StringN(0, -1, maxKey).Draw(t, "instance"),
	}
	copy(o.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	return o
}

// TestWhatOutSendsInTakes drives both halves at random: every frame that Out writes is one that In accepts, and means the same.
func TestWhatOutSendsInTakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opener, answerer := NewOut(Opener), NewOut(Answerer)
		toAnswerer, toOpener := NewIn(Answerer), NewIn(Opener)
		want := drawOpen(t)
		wire, err := opener.Open(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		events, _, err := receive(&toAnswerer, wire)
		if err != nil || len(events) != 1 || events[0].Open != want {
			t.Fatalf("%+v came for %+v, %v", events, want, err)
		}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			out, in := &opener, &toAnswerer
			if rapid.Bool().Draw(t, "answer") {
				out, in = &answerer, &toOpener
			}
			wire, payload := drawFrame(t, out)
			if len(wire) == 0 {
				continue // Out has refused it
			}
			_, data, err := receive(in, wire)
			if err != nil || !bytes.Equal(data, payload) {
				t.Fatalf("Out sent %x, In: %v", wire, err)
			}
			if in.Offset() != out.Offset() {
				t.Fatalf("offset %d sent, %d received", out.Offset(), in.Offset())
			}
		}
	})
}

// drawFrame makes out write a random frame; wire is empty when out refuses.
func drawFrame(t *rapid.T, out *Out) (wire, payload []byte) {
	var err error
	switch rapid.IntRange(0, 5).Draw(t, "frame") {
	case 0:
		wire, err = out.Accept(nil)
	case 1:
		wire, err = out.Refuse(nil, RefusalCode(rapid.Uint16().Draw(t, "code")), rapid.String().Draw(t, "reason"))
	case 2:
		wire, err = out.Outcome(nil, Outcome{Instance: rapid.StringN(0, -1, maxKey+1).Draw(t, "key"), Result: ResultConnected})
	case 3:
		payload = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload")
		wire = make([]byte, HeaderLen)
		err = out.Data(wire, len(payload))
		wire = append(wire, payload...)
	case 4:
		wire, err = out.Fin(nil)
	case 5:
		wire, err = out.Reset(nil, ResetCode(rapid.Uint16().Draw(t, "code")))
	}
	if err != nil {
		if !errors.Is(err, ErrViolation) {
			t.Fatal(err)
		}
		return nil, nil
	}
	return wire, payload
}

func TestOffsetsAreVerified(t *testing.T) {
	for name, offset := range map[string]uint64{"gap": 6, "overlap": 4, "from the start": 0, "far": 1 << 62} {
		in := NewIn(Answerer)
		in.phase = phaseBytes
		if err := in.Header(Header{Type: TypeData, Length: 5}); err != nil {
			t.Fatal(err)
		}
		for _, typ := range []Type{TypeData, TypeFin} {
			again := in
			h := Header{Type: typ, Offset: offset}
			if typ == TypeData {
				h.Length = 1
			}
			if err := again.Header(h); !errors.Is(err, ErrViolation) {
				t.Errorf("%s of %v: %v", name, typ, err)
			}
		}
		if err := in.Header(Header{Type: TypeFin, Offset: 5}); err != nil {
			t.Error(err)
		}
	}
}

func TestBounds(t *testing.T) {
	for _, h := range []Header{
		{Type: TypeOpen, Length: MaxOpen + 1}, {Type: TypeOpen}, {Type: TypeAccept, Length: 1}, {Type: TypeAccept, Offset: 1},
		{Type: TypeRefuse, Length: 1}, {Type: TypeRefuse, Length: 3 + MaxReason}, {Type: TypeData}, {Type: TypeData, Length: MaxData + 1},
		{Type: TypeFin, Length: 1}, {Type: TypeReset, Length: 3}, {Type: TypeOutcome, Length: maxOutcome + 1}, {Type: 0}, {Type: 8}, {Type: 255},
	} {
		for _, role := range []Role{Opener, Answerer} {
			for _, p := range []phase{phaseNew, phaseBytes} {
				in := NewIn(role)
				in.phase = p
				if err := in.Header(h); !errors.Is(err, ErrViolation) {
					t.Errorf("%+v: %v", h, err)
				}
			}
		}
	}
	out := NewOut(Opener)
	for _, o := range []Open{
		{Service: "a/b"}, {Source: web}, {Source: web, Service: strings.Repeat("s", maxService+1)},
		{Source: web, Service: "a/b", Instance: strings.Repeat("k", maxKey+1)},
	} {
		if b, err := out.Open([]byte("kept"), o); !errors.Is(err, ErrViolation) || string(b) != "kept" {
			t.Errorf("%+v: %q, %v", o, b, err)
		}
	}
	if _, err := out.Open(nil, Open{Source: web, Service: "a/b"}); err != nil {
		t.Errorf("a refused OPEN has moved the machine: %v", err)
	}
}

func TestOutcomesAreCounted(t *testing.T) {
	out, in := NewOut(Answerer), NewIn(Opener)
	for i := range MaxOutcomes + 1 {
		b, err := out.Outcome(nil, Outcome{Result: ResultConnected})
		if (err == nil) != (i < MaxOutcomes) {
			t.Fatalf("outcome %d sent: %v", i, err)
		}
		if err != nil {
			b = Header{Type: TypeOutcome, Length: 2}.Append(nil)
			b = append(b, 1, 0)
		}
		if _, _, err := receive(&in, b); (err == nil) != (i < MaxOutcomes) {
			t.Fatalf("outcome %d received: %v", i, err)
		}
	}
}

func TestOpenOfALaterVersion(t *testing.T) {
	out := NewOut(Opener)
	wire, err := out.Open(nil, Open{Source: web, Service: "default/echo"})
	if err != nil {
		t.Fatal(err)
	}
	body := wire[HeaderLen:]
	if _, err := parseOpen(append(bytes.Clone(body), 99, 3, 'n', 'e', 'w')); err != nil {
		t.Errorf("a field that may be skipped: %v", err)
	}
	if _, err := parseOpen(append(bytes.Clone(body), 200, 0)); !errors.Is(err, ErrViolation) {
		t.Errorf("a field that must be understood: %v", err)
	}
	if _, err := parseOpen(append(bytes.Clone(body), tagAssurance, 1, 2)); !errors.Is(err, ErrViolation) {
		t.Errorf("a field twice: %v", err)
	}
}

func TestReasonsAreSafeToPrint(t *testing.T) {
	out, in := NewOut(Answerer), NewIn(Opener)
	wire, err := out.Refuse(nil, RefusedUnavailable, "gone\x1b[2J\n"+strings.Repeat("x", 300))
	if err != nil {
		t.Fatal(err)
	}
	events, _, err := receive(&in, wire)
	if err != nil || !strings.HasPrefix(events[0].Reason, "gone.[2J.xxx") || len(events[0].Reason) != MaxReason {
		t.Errorf("%q, %v", events[0].Reason, err)
	}
}

// FuzzIn feeds anything to both ends: they may refuse it, never panic, never take more than they announce.
func FuzzIn(f *testing.F) {
	out := NewOut(Opener)
	wire, _ := out.Open(nil, Open{Source: web, Service: "default/echo", Instance: "a"})
	f.Add(true, wire)
	answer := NewOut(Answerer)
	wire, _ = answer.Outcome(nil, Outcome{Instance: "a", Result: ResultConnected})
	wire, _ = answer.Accept(wire)
	wire = append(Header{Type: TypeData, Length: 3}.Append(wire), "abc"...)
	f.Add(false, Header{Type: TypeFin, Offset: 3}.Append(wire))
	f.Add(false, []byte{3, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, answerer bool, b []byte) {
		role := Opener
		if answerer {
			role = Answerer
		}
		in := NewIn(role)
		events, data, err := receive(&in, b)
		if err == nil && uint64(len(data)) != in.Offset() {
			t.Errorf("%d octets for offset %d", len(data), in.Offset())
		}
		for _, e := range events {
			if e.Type == TypeOpen {
				again := NewOut(Opener)
				wire, err := again.Open(nil, e.Open)
				if err != nil {
					t.Fatalf("what was read cannot be written: %v", err)
				}
				back, err := parseOpen(wire[HeaderLen:])
				if err != nil || back != e.Open {
					t.Errorf("%+v came back as %+v, %v", e.Open, back, err)
				}
			}
		}
	})
}

// FuzzBody reads any body as any frame, also ones that Header would have refused.
func FuzzBody(f *testing.F) {
	f.Add(byte(TypeOpen), []byte{1, 16})
	f.Add(byte(TypeRefuse), []byte{0})
	f.Fuzz(func(_ *testing.T, typ byte, b []byte) {
		in := NewIn(Opener)
		_, _ = in.Body(Header{Type: Type(typ), Length: len(b)}, b)
	})
}
