package plait

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// keyed is a message with one field of each kind that a key may have, and a nested one.
func keyed(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	type field = descriptorpb.FieldDescriptorProto
	label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
	newField := func(name string, n int32, kind descriptorpb.FieldDescriptorProto_Type) *field {
		f := &field{Name: &name, Number: &n, Type: &kind, Label: &label}
		switch kind {
		case descriptorpb.FieldDescriptorProto_TYPE_MESSAGE:
			f.TypeName = proto.String(".t.Keyed")
		case descriptorpb.FieldDescriptorProto_TYPE_ENUM:
			f.TypeName = proto.String(".t.Colour")
		default:
		}
		return f
	}
	var fields []*field
	for n := int32(1); n <= 18; n++ {
		kind := descriptorpb.FieldDescriptorProto_Type(n)
		if kind != descriptorpb.FieldDescriptorProto_TYPE_GROUP {
			fields = append(fields, newField("f"+string('a'+n), n, kind))
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("t.proto"), Package: proto.String("t"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Keyed"), Field: fields}},
		EnumType: []*descriptorpb.EnumDescriptorProto{{
			Name: proto.String("Colour"),
			Value: []*descriptorpb.EnumValueDescriptorProto{
				{Name: proto.String("NONE"), Number: proto.Int32(0)},
			},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().Get(0)
}

func TestKeys_TextOfEveryKind(t *testing.T) {
	t.Parallel()
	md := keyed(t)
	inner := dynamicpb.NewMessage(md)
	outer := dynamicpb.NewMessage(md)
	outer.Set(md.Fields().ByNumber(11), protoreflect.ValueOfMessage(inner))
	values := map[protoreflect.FieldNumber]struct {
		value protoreflect.Value
		text  string
	}{
		3:  {protoreflect.ValueOfInt64(-9007199254740993), "-9007199254740993"},
		4:  {protoreflect.ValueOfUint64(1<<64 - 1), "18446744073709551615"},
		5:  {protoreflect.ValueOfInt32(-1), "-1"},
		6:  {protoreflect.ValueOfUint64(6), "6"},
		7:  {protoreflect.ValueOfUint32(7), "7"},
		8:  {protoreflect.ValueOfBool(true), "true"},
		9:  {protoreflect.ValueOfString("Grüße"), "Grüße"},
		12: {protoreflect.ValueOfBytes([]byte{0x0a, 0xff}), "0aff"},
		13: {protoreflect.ValueOfUint32(13), "13"},
		14: {protoreflect.ValueOfEnum(42), "42"},
		15: {protoreflect.ValueOfInt32(-15), "-15"},
		16: {protoreflect.ValueOfInt64(-16), "-16"},
		17: {protoreflect.ValueOfInt32(17), "17"},
		18: {protoreflect.ValueOfInt64(18), "18"},
	}
	for number, c := range values {
		inner.Set(md.Fields().ByNumber(number), c.value)
		path := newKeyPath(
			&plaitv1.KeyPath{Path: "in.field", Numbers: []uint32{11, uint32(number)}},
		)
		text, err := path.text(outer)
		if err != nil || text != c.text {
			t.Errorf("field %d: %q, %v; want %q", number, text, err, c.text)
		}
	}
}

func TestKeys_FieldsThatAreNotSetAreTheirDefault(t *testing.T) {
	t.Parallel()
	for number, want := range map[uint32]string{3: "0", 8: "false", 9: "", 12: "", 14: "0"} {
		path := newKeyPath(&plaitv1.KeyPath{Path: "in.field", Numbers: []uint32{11, number}})
		text, err := path.text(dynamicpb.NewMessage(keyed(t)))
		if err != nil || text != want {
			t.Errorf("field %d: %q, %v; want %q", number, text, err, want)
		}
	}
}

func TestKeys_PathThatThisProgramDoesNotHaveIsAnError(t *testing.T) {
	t.Parallel()
	for _, numbers := range [][]uint32{{99}, {9, 1}, {11}, {11, 99}} {
		_, err := newKeyPath(
			&plaitv1.KeyPath{Path: "p", Numbers: numbers},
		).text(
			dynamicpb.NewMessage(keyed(t)),
		)
		wantCode(t, err, codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
	}
}

func TestKeys_NoPathIsNoKey(t *testing.T) {
	t.Parallel()
	if newKeyPath(nil) != nil {
		t.Fatal("a key without a path")
	}
}

func TestDescriptors_HoldTheImportsInOrderWithoutTheWellKnown(t *testing.T) {
	t.Parallel()
	sd, err := serviceDescriptor(protoregistry.GlobalFiles, testingv1.EchoService_ServiceDesc.ServiceName)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := descriptorSet(sd)
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range set.GetFile() {
		names = append(names, f.GetName())
	}
	want := []string{"google/rpc/code.proto", "plait/v1/options.proto", "testing/v1/echo.proto"}
	if len(names) != len(want) {
		t.Fatalf("files %v, want %v", names, want)
	}
	for i := range want {
		if names[i] != want[i] {
			t.Fatalf("files %v, want %v", names, want)
		}
	}
	options := set.GetFile()[2].GetService()[0].GetMethod()[4].GetOptions()
	policy, ok := proto.GetExtension(options, plaitv1.E_Task).(*plaitv1.TaskPolicy)
	if !ok || policy.GetOrderingKey() != "account" {
		t.Fatalf("policy = %v", policy)
	}
}

func TestDescriptors_OfWhatIsNoServiceAreAnError(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"testing.v1.Nothing", "testing.v1.EchoRequest"} {
		if _, err := serviceDescriptor(protoregistry.GlobalFiles, name); err == nil {
			t.Errorf("%s has a descriptor", name)
		}
	}
}
