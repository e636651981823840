package flow

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

var web = spiffeid.RequireFromString("spiffe://west.mesh.internal/ns/default/svc/web")

var errAhead = errors.New("the frame lies ahead")

// receive feeds the frames in b to in and returns what they mean. DATA comes back as its offset and bytes.
func receive(in *In, b []byte) (events []Event, data []byte, err error) {
	return receiveAt(in, &Place{}, b)
}

func receiveAt(in *In, p *Place, b []byte) (events []Event, data []byte, err error) {
	for len(b) > 0 {
		if len(b) < HeaderLen {
			return events, data, errors.New("cut in a header")
		}
		h := ParseHeader(b)
		if err := in.Header(p, h); err != nil {
			return events, data, err
		}
		b = b[HeaderLen:]
		if len(b) < h.Length {
			return events, data, errors.New("cut in a body")
		}
		body := b[:h.Length]
		b = b[h.Length:]
		if h.Type == TypeData {
			known, ahead := in.Fresh(h.Offset, h.Length)
			if ahead {
				return events, data, errAhead
			}
			data = append(data, body[known:]...)
			in.Took(len(body) - known)
			continue
		}
		e, err := in.Body(p, h, body)
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
	o.Copied = rapid.Bool().Draw(t, "copied")
	if n := rapid.SampledFrom([]int{0, 4, 16}).Draw(t, "family"); n > 0 {
		client, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "client"))
		o.Client = netip.AddrPortFrom(client.Unmap(), rapid.Uint16().Draw(t, "port"))
	}
	return o
}

// TestWhatOutSendsInTakes drives both halves at random: every frame that Out writes is one that In accepts, and means the same.
func TestWhatOutSendsInTakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opener, answerer := NewOut(Opener), NewOut(Answerer)
		toAnswerer, toOpener := NewIn(Answerer), NewIn(Opener)
		ways, places := [2]Way{{ID: 1}, {ID: 1}}, [2]Place{}
		want := drawOpen(t)
		if err := opener.Open(want); err != nil {
			t.Fatal(err)
		}
		wire, _ := opener.Next(&ways[0], nil)
		events, _, err := receiveAt(&toAnswerer, &places[0], wire)
		if err != nil || len(events) != 1 || events[0].Open != want {
			t.Fatalf("%+v came for %+v, %v", events, want, err)
		}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			out, in, at := &opener, &toAnswerer, 0
			if rapid.Bool().Draw(t, "answer") {
				out, in, at = &answerer, &toOpener, 1
			}
			payload, taken := drawCall(t, out)
			if !taken {
				continue
			}
			if ways[at].Done() { // RESET behind FIN: this carrier has heard the last of this end
				ways[at], places[at] = Way{ID: ways[at].ID + 1}, Place{}
			}
			var data []byte
			for {
				wire, lent := out.Next(&ways[at], nil)
				if len(wire) == 0 {
					break
				}
				_, got, err := receiveAt(in, &places[at], wire)
				if err != nil {
					t.Fatalf("Out sent %x, In: %v", wire, err)
				}
				data = append(data, got...)
				out.Written(lent, heap{})
			}
			if !bytes.Equal(data, payload) {
				t.Fatalf("%x came for %x", data, payload)
			}
			if in.Next() != out.Offset() || in.Over() != out.Over() || in.Ended() != (out.Finished() && !out.Over()) && !in.Over() {
				t.Fatalf("offset %d sent, %d received", out.Offset(), in.Next())
			}
		}
	})
}

// heap is a Pool without a limit.
type heap struct{}

func (heap) Get(hint int, _ bool) []byte { return make([]byte, HeaderLen, HeaderLen+max(hint, 64)) }
func (heap) Put([]byte)                  {}

// drawCall gives out something random; taken is false when out refuses it.
func drawCall(t *rapid.T, out *Out) (payload []byte, taken bool) {
	var err error
	switch rapid.IntRange(0, 5).Draw(t, "frame") {
	case 0:
		err = out.Accept()
	case 1:
		err = out.Refuse(RefusalCode(rapid.Uint16().Draw(t, "code")), rapid.String().Draw(t, "reason"))
	case 2:
		err = out.Outcome(Outcome{Instance: rapid.StringN(0, -1, maxKey+1).Draw(t, "key"), Result: ResultConnected})
	case 3:
		payload = rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "payload")
		var n int
		if n, err = out.Add(payload, heap{}); err == nil && n != len(payload) {
			t.Fatalf("%d of %d bytes taken", n, len(payload))
		}
	case 4:
		err = out.Fin()
	case 5:
		err = out.Reset(ResetCode(rapid.Uint16().Draw(t, "code")), heap{})
	}
	if err != nil && !errors.Is(err, ErrViolation) {
		t.Fatal(err)
	}
	return payload, err == nil
}

func TestOffsetsAreVerified(t *testing.T) {
	fresh := func() (In, Place) {
		in, p := NewIn(Answerer), Place{}
		in.phase = phaseBytes
		if err := in.Header(&p, Header{Type: TypeData, Length: 5}); err != nil {
			t.Fatal(err)
		}
		in.Took(5)
		return in, p
	}
	for name, offset := range map[string]uint64{"back": 4, "from the start": 0, "far": 6 + MaxAhead, "too far": 1 << 62} {
		for _, typ := range []Type{TypeData, TypeFin} {
			in, p := fresh()
			h := Header{Type: typ, Offset: offset}
			if typ == TypeData {
				h.Length = 1
			}
			if err := in.Header(&p, h); !errors.Is(err, ErrViolation) {
				t.Errorf("%s of %v: %v", name, typ, err)
			}
		}
	}
	in, p := fresh()
	if err := in.Header(&p, Header{Type: TypeData, Offset: 9, Length: 2}); err != nil {
		t.Error(err)
	}
	for offset, want := range map[uint64]struct {
		known int
		ahead bool
	}{9: {0, true}, 6: {0, true}, 5: {0, false}, 4: {1, false}, 1: {4, false}, 0: {4, false}} {
		if known, ahead := in.Fresh(offset, 4); known != want.known || ahead != want.ahead {
			t.Errorf("at %d: %d known, ahead %v", offset, known, ahead)
		}
	}
	other := Place{} // another carrier, with what this one has brought already, and the end
	for _, h := range []Header{{Type: TypeAttach, Length: attachLen}, {Type: TypeData, Length: 3}, {Type: TypeFin, Offset: 11}} {
		if err := in.Header(&other, h); err != nil {
			t.Error(err)
		}
	}
	if _, err := in.Body(&other, Header{Type: TypeFin, Offset: 11}, nil); err != nil || in.Ended() {
		t.Errorf("ended %v with bytes missing, %v", in.Ended(), err)
	}
	if err := in.Header(&p, Header{Type: TypeData, Offset: 11, Length: 1}); !errors.Is(err, ErrViolation) {
		t.Errorf("bytes behind FIN: %v", err)
	}
	if in.Took(6); !in.Ended() || in.Consumed() != 12 {
		t.Errorf("ended %v, %d consumed", in.Ended(), in.Consumed())
	}
}

func TestBounds(t *testing.T) {
	for _, h := range []Header{
		{Type: TypeOpen, Length: MaxOpen + 1}, {Type: TypeOpen}, {Type: TypeAccept, Length: 1}, {Type: TypeAccept, Offset: 1},
		{Type: TypeRefuse, Length: 1}, {Type: TypeRefuse, Length: 3 + MaxReason}, {Type: TypeData}, {Type: TypeData, Length: MaxData + 1},
		{Type: TypeFin, Length: 1}, {Type: TypeReset, Length: 3}, {Type: TypeOutcome, Length: maxOutcome + 1}, {Type: 0}, {Type: 12}, {Type: 255},
		{Type: TypeAck, Length: 1}, {Type: TypeAck, Offset: 1<<62 + 5}, {Type: TypeAttach}, {Type: TypeAttach, Length: 18},
		{Type: TypeDetach, Length: 1}, {Type: TypeDetach, Offset: 1}, {Type: TypeUnknown, Offset: 1}, {Type: TypeOutcome, Length: 2, Offset: 16},
	} {
		for _, role := range []Role{Opener, Answerer} {
			for _, p := range []phase{phaseNew, phaseBytes} {
				in := NewIn(role)
				in.phase = p
				if err := in.Header(&Place{}, h); !errors.Is(err, ErrViolation) {
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
		if err := out.Open(o); !errors.Is(err, ErrViolation) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := out.Open(Open{Source: web, Service: "a/b"}); err != nil {
		t.Errorf("a refused OPEN has moved the machine: %v", err)
	}
}

func TestOutcomesAreCounted(t *testing.T) {
	out := NewOut(Answerer)
	for i := range MaxOutcomes + 1 {
		if err := out.Outcome(Outcome{Result: ResultConnected}); (err == nil) != (i < MaxOutcomes) {
			t.Fatalf("outcome %d sent: %v", i, err)
		}
	}
	wire, _ := out.Next(&Way{ID: 1}, nil)
	in := NewIn(Opener)
	for range 2 { // the second carrier brings them once more
		if _, _, err := receive(&in, wire); err != nil || in.outcomes != MaxOutcomes {
			t.Fatalf("%d outcomes received: %v", in.outcomes, err)
		}
	}
	again := NewIn(Opener)
	b := Header{Type: TypeOutcome, Length: 2, Offset: 1}.Append(nil)
	if _, _, err := receive(&again, append(b, 1, 0)); !errors.Is(err, ErrViolation) {
		t.Errorf("the second outcome before the first: %v", err)
	}
}

// sent returns what out says on a carrier of its own.
func sent(out *Out) []byte {
	wire, _ := out.Next(&Way{ID: 99}, nil)
	return wire
}

func TestOpenOfALaterVersion(t *testing.T) {
	out := NewOut(Opener)
	if err := out.Open(Open{Source: web, Service: "default/echo"}); err != nil {
		t.Fatal(err)
	}
	body := sent(&out)[HeaderLen:]
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
	if err := out.Refuse(RefusedUnavailable, "gone\x1b[2J\n"+strings.Repeat("x", 300)); err != nil {
		t.Fatal(err)
	}
	events, _, err := receive(&in, sent(&out))
	if err != nil || !strings.HasPrefix(events[0].Reason, "gone.[2J.xxx") || len(events[0].Reason) != MaxReason {
		t.Errorf("%q, %v", events[0].Reason, err)
	}
}

// FuzzIn feeds anything to both ends, on two carriers: they may refuse it, never panic, never take more than comes.
func FuzzIn(f *testing.F) {
	opener := NewOut(Opener)
	_ = opener.Open(Open{Source: web, Service: "default/echo", Instance: "a"})
	f.Add(true, sent(&opener), Attach{Role: Opener, Heard: true}.Append(nil))
	answer := NewOut(Answerer)
	_ = answer.Outcome(Outcome{Instance: "a", Result: ResultConnected})
	_ = answer.Accept()
	wire := append(Header{Type: TypeData, Length: 3}.Append(sent(&answer)), "abc"...)
	again := append(Header{Type: TypeData, Length: 4}.Append(nil), "abcd"...)
	again = Header{Type: TypeFin, Offset: 4}.Append(again)
	f.Add(false, wire, again)
	f.Add(false, []byte{3, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'x'}, Header{Type: TypeUnknown}.Append(nil))
	f.Fuzz(func(t *testing.T, answerer bool, b, c []byte) {
		role := Opener
		if answerer {
			role = Answerer
		}
		in := NewIn(role)
		events, data, err := receive(&in, b)
		if err == nil || errors.Is(err, errAhead) {
			more, rest, _ := receive(&in, c)
			events, data = append(events, more...), append(data, rest...)
		}
		if uint64(len(data)) != in.Next() || len(data) > len(b)+len(c) || in.ended && in.Next() > in.last {
			t.Errorf("%d octets for offset %d", len(data), in.Next())
		}
		for _, e := range events {
			if e.Type != TypeOpen {
				continue
			}
			again := NewOut(Opener)
			if err := again.Open(e.Open); err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			back, err := parseOpen(sent(&again)[HeaderLen:])
			if err != nil || back != e.Open {
				t.Errorf("%+v came back as %+v, %v", e.Open, back, err)
			}
		}
	})
}

// FuzzBody reads any body as any frame, also ones that Header would have refused.
func FuzzBody(f *testing.F) {
	f.Add(byte(TypeOpen), uint64(0), []byte{1, 16})
	f.Add(byte(TypeRefuse), uint64(0), []byte{0})
	f.Add(byte(TypeAttach), uint64(3), Attach{Role: Answerer}.Append(nil)[HeaderLen:])
	f.Fuzz(func(t *testing.T, typ byte, offset uint64, b []byte) {
		in := NewIn(Opener)
		h := Header{Type: Type(typ), Length: len(b), Offset: offset}
		e, err := in.Body(&Place{}, h, b)
		if err == nil && e.Type == TypeAttach && !bytes.Equal(e.Attach.Append(nil), append(h.Append(nil), b...)) {
			t.Errorf("%+v was read from %x", e.Attach, b)
		}
	})
}

// FuzzConsumed reads any batch of acknowledgements.
func FuzzConsumed(f *testing.F) {
	f.Add(Consumed{Role: Answerer, Offset: Settled}.Append(Consumed{ID: ID{1}, Offset: 5}.Append(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var back []byte
		err := ParseConsumed(b, func(c Consumed) { back = c.Append(back) })
		if !bytes.HasPrefix(b, back) || err == nil && len(back) != len(b) {
			t.Errorf("%x read as %x, %v", b, back, err)
		}
	})
}
