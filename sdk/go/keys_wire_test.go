package plait

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"pgregory.net/rapid"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// keyKinds are the kinds of the fields of keyed.
var keyKinds = map[protoreflect.FieldNumber]plaitv1.KeyKind{
	3:  plaitv1.KeyKind_KEY_KIND_INT,
	4:  plaitv1.KeyKind_KEY_KIND_UINT,
	5:  plaitv1.KeyKind_KEY_KIND_INT,
	6:  plaitv1.KeyKind_KEY_KIND_FIXED64,
	7:  plaitv1.KeyKind_KEY_KIND_FIXED32,
	8:  plaitv1.KeyKind_KEY_KIND_BOOL,
	9:  plaitv1.KeyKind_KEY_KIND_STRING,
	12: plaitv1.KeyKind_KEY_KIND_BYTES,
	13: plaitv1.KeyKind_KEY_KIND_UINT,
	14: plaitv1.KeyKind_KEY_KIND_INT,
	15: plaitv1.KeyKind_KEY_KIND_SFIXED32,
	16: plaitv1.KeyKind_KEY_KIND_SFIXED64,
	17: plaitv1.KeyKind_KEY_KIND_SINT,
	18: plaitv1.KeyKind_KEY_KIND_SINT,
}

func wirePath(numbers ...uint32) *keyPath {
	kind := keyKinds[protoreflect.FieldNumber(numbers[len(numbers)-1])]
	return newKeyPath(&plaitv1.KeyPath{Path: "a.key", Numbers: numbers, Kind: kind})
}

// drawValue draws a value of a field.
func drawValue(t *rapid.T, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.String().Draw(t, "string"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32().Draw(t, "enum")))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	default:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	}
}

func TestKeysWire_TextIsThatOfTheDescriptor(t *testing.T) {
	t.Parallel()
	md := keyed(t)
	rapid.Check(t, func(t *rapid.T) {
		inner, outer := dynamicpb.NewMessage(md), dynamicpb.NewMessage(md)
		for number := range keyKinds {
			if rapid.Bool().Draw(t, "set") {
				fd := md.Fields().ByNumber(number)
				inner.Set(fd, drawValue(t, fd))
			}
		}
		outer.Set(md.Fields().ByNumber(11), protoreflect.ValueOfMessage(inner))
		payload, err := proto.Marshal(outer)
		if err != nil {
			t.Fatal(err)
		}
		for number := range keyKinds {
			path := wirePath(11, uint32(number))
			want, err := path.text(outer)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := path.payloadText(payload); err != nil || got != want {
				t.Fatalf("field %d: %q, %v; want %q", number, got, err, want)
			}
		}
	})
}

func TestKeysWire_TheLastOccurrenceCountsAndMessagesMerge(t *testing.T) {
	t.Parallel()
	text := func(s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, 9, protowire.BytesType), s)
	}
	in := func(body []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, 11, protowire.BytesType), body)
	}
	other := protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 7)
	for want, payload := range map[string][]byte{
		"last":   slices.Concat(in(text("first")), in(text("last"))),
		"merged": slices.Concat(in(text("merged")), in(nil)),
		"typed":  in(slices.Concat(text("typed"), other)),
	} {
		if got, err := wirePath(11, 9).payloadText(payload); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
}

func TestKeysWire_WhatIsNoMessageIsRefused(t *testing.T) {
	t.Parallel()
	invalidText := protowire.AppendString(protowire.AppendTag(nil, 9, protowire.BytesType), "\xff")
	for _, payload := range [][]byte{{0x4a}, {0x4a, 5, 'a'}, {0xff}, {0}, invalidText} {
		_, err := wirePath(9).payloadText(payload)
		wantCode(t, err, codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
	}
	_, err := newKeyPath(&plaitv1.KeyPath{Path: "k", Numbers: []uint32{1}, Kind: 99}).payloadText(nil)
	wantCode(t, err, codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
}
