package exchange

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/tradewind-mesh/tradewind/federation"
)

// schema reads cx1.proto, as far as it uses the language.
func schema(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	text, err := os.ReadFile("cx1.proto")
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]descriptorpb.FieldDescriptorProto_Type{"uint32": descriptorpb.FieldDescriptorProto_TYPE_UINT32,
		"uint64": descriptorpb.FieldDescriptorProto_TYPE_UINT64, "fixed64": descriptorpb.FieldDescriptorProto_TYPE_FIXED64,
		"bool": descriptorpb.FieldDescriptorProto_TYPE_BOOL, "string": descriptorpb.FieldDescriptorProto_TYPE_STRING,
		"bytes": descriptorpb.FieldDescriptorProto_TYPE_BYTES}
	for _, enum := range []string{"Mode", "Reason", "Detail"} { // varints, like the numbers they are read as
		types[enum] = descriptorpb.FieldDescriptorProto_TYPE_UINT32
	}
	file := &descriptorpb.FileDescriptorProto{Name: proto.String("cx1.proto"), Package: proto.String("tradewind.cx1"),
		Syntax: proto.String("proto3")}
	block := regexp.MustCompile(`^(message|enum) (\w+) {`)
	field := regexp.MustCompile(`^\s+(repeated )?(\w+) (\w+) = (\d+);`)
	var in *descriptorpb.DescriptorProto
	for line := range strings.Lines(string(text)) {
		if m := block.FindStringSubmatch(line); m != nil {
			if in = nil; m[1] == "message" {
				in = &descriptorpb.DescriptorProto{Name: proto.String(m[2])}
				file.MessageType = append(file.MessageType, in)
			}
		}
		m := field.FindStringSubmatch(line)
		if in == nil || m == nil {
			continue
		}
		n, _ := strconv.ParseInt(m[4], 10, 32)
		f := &descriptorpb.FieldDescriptorProto{Name: proto.String(m[3]), Number: proto.Int32(int32(n)),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		if m[1] != "" {
			f.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		}
		if typ, plain := types[m[2]]; plain {
			f.Type = typ.Enum()
		} else {
			f.Type, f.TypeName = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(), proto.String(".tradewind.cx1."+m[2])
		}
		in.Field = append(in.Field, f)
	}
	fd, err := protodesc.NewFile(file, &protoregistry.Files{})
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// everyFrame is one frame of every kind, and together they use every field that this version sends.
func everyFrame() []Send {
	frames := corpus()
	frames = frames[:len(frames)-60] // the forged ones come last
	p := newPair(nil)
	p.up(view(many(1, 4000).Services[0], exported("web", slot("i-1", 1, 1))))
	p.b.m.resync(modeReconcile)
	p.b.m.imp.say(p.b.m.imp.rows["web"], 2, Digest{}) // so that there is something to want
	p.b.take(p.b.m.act())
	p.settle()
	p.b.m.resync(modeSnapshot)
	p.b.take(p.b.m.act())
	p.settle()
	for _, service := range []string{"web", "svc-00000"} {
		p.a.take(p.a.m.SetHealth(p.now, name(service), []federation.ExportedSlot{slot("i-1", 0, 1), slot("i-0000000000000000", 0, 1)}))
		p.run(time.Second)
	}
	v := many(1, 4000)
	v.Services[0].Slots[0].Weight++
	p.export(v)
	for _, a := range slices.Concat(p.a.log, p.b.log) {
		if a, ok := a.(Send); ok {
			frames = append(frames, a)
		}
	}
	h := hello{versionMin: 1, versionMax: 1, features: 1, region: []byte("east"), epoch: federation.Epoch{Counter: 1, Incarnation: 1},
		known: federation.Epoch{Counter: 1}, window: 1, services: 1, slots: 1, time: 1}
	return append(frames, Send{LaneControl, h.frame()})
}

// cx1.proto is what the code writes, and the code reads what any other implementation of cx1.proto writes.
func TestTheSchemaIsWhatIsSpoken(t *testing.T) {
	fd := schema(t)
	used := map[protoreflect.FullName]bool{}
	var look func(where string, m protoreflect.Message)
	look = func(where string, m protoreflect.Message) {
		if u := m.GetUnknown(); len(u) > 0 {
			t.Errorf("%s: %x is in no field of %s", where, []byte(u)[:min(len(u), 16)], m.Descriptor().Name())
		}
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			used[f.FullName()] = true
			switch {
			case f.IsList() && f.Message() != nil:
				for i := range v.List().Len() {
					look(where, v.List().Get(i).Message())
				}
			case f.Message() != nil:
				look(where, v.Message())
			case f.FullName() == "tradewind.cx1.Row.body":
				look(where, parse(t, fd, "Service", v.Bytes()))
			}
			return true
		})
	}
	for i, s := range everyFrame() {
		k, _, err := unwrap(s.Lane, s.Frame)
		if err != nil {
			t.Fatal(err)
		}
		m := parse(t, fd, "Frame", s.Frame)
		look(fmt.Sprintf("frame %d, kind %d", i, k), m)
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
		if err != nil {
			t.Fatal(err)
		}
		if describe(Send{s.Lane, again}) != describe(s) {
			t.Errorf("it reads\n%s\nand written by another\n%s", describe(s), describe(Send{s.Lane, again}))
		}
	}
	never := []protoreflect.FullName{"Service.must_understand", "Service.identities"} // sent by later versions
	for i := range fd.Messages().Len() {
		m := fd.Messages().Get(i)
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			if name := m.Name() + "." + f.Name(); !used[f.FullName()] && !slices.Contains(never, protoreflect.FullName(name)) {
				t.Errorf("%s is never sent", name)
			}
		}
	}
	for k := range laneOf {
		if k > 0 && fd.Messages().ByName("Frame").Fields().ByNumber(kind(k)) == nil {
			t.Errorf("kind %d is not in the schema", k)
		}
	}
}

func parse(t *testing.T, fd protoreflect.FileDescriptor, name protoreflect.Name, b []byte) protoreflect.Message {
	t.Helper()
	m := dynamicpb.NewMessage(fd.Messages().ByName(name))
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}
