package plait

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// The vectors that all languages share; interop/vectors/README.md says what they are.
const fieldPathsFile = "../../interop/vectors/field_paths.json"

type fieldPath struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Numbers []uint32 `json:"numbers"`
	Message string   `json:"message_hex"`
	Text    *string  `json:"text"`
	Error   bool     `json:"error"`
}

// fieldTypes is a type of each kind; a kind that is not here is an error.
var fieldTypes = map[string]descriptorpb.FieldDescriptorProto_Type{
	"STRING":   descriptorpb.FieldDescriptorProto_TYPE_STRING,
	"BYTES":    descriptorpb.FieldDescriptorProto_TYPE_BYTES,
	"INT":      descriptorpb.FieldDescriptorProto_TYPE_INT64,
	"UINT":     descriptorpb.FieldDescriptorProto_TYPE_UINT64,
	"SINT":     descriptorpb.FieldDescriptorProto_TYPE_SINT64,
	"BOOL":     descriptorpb.FieldDescriptorProto_TYPE_BOOL,
	"FIXED32":  descriptorpb.FieldDescriptorProto_TYPE_FIXED32,
	"FIXED64":  descriptorpb.FieldDescriptorProto_TYPE_FIXED64,
	"SFIXED32": descriptorpb.FieldDescriptorProto_TYPE_SFIXED32,
	"SFIXED64": descriptorpb.FieldDescriptorProto_TYPE_SFIXED64,
}

func TestVectors_FieldPathsAgree(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.FromSlash(fieldPathsFile))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Schema  int         `json:"schema"`
		Vectors []fieldPath `json:"vectors"`
	}
	if err := strict(raw, &file); err != nil {
		t.Fatal(err)
	}
	if file.Schema != 1 || len(file.Vectors) < 70 {
		t.Fatalf("schema %d with %d vectors", file.Schema, len(file.Vectors))
	}
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			if v.Error == (v.Text != nil) {
				t.Fatal("a vector has a text or an error")
			}
			got, err := v.read(t)
			if v.Error {
				if err == nil {
					t.Fatalf("got %q, want an error", got)
				}
			} else if err != nil || got != *v.Text {
				t.Fatalf("got %q and %v, want %q", got, err, *v.Text)
			}
		})
	}
}

// read reads the key as a submission does: from a message that the program's own types have parsed.
func (v fieldPath) read(t *testing.T) (string, error) {
	t.Helper()
	payload, err := hex.DecodeString(v.Message)
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(v.descriptor(t))
	if err := proto.Unmarshal(payload, m); err != nil {
		return "", err
	}
	return newKeyPath(&plaitv1.KeyPath{Path: "it", Numbers: v.Numbers}).text(m)
}

// descriptor is of a message that has the path and nothing else.
func (v fieldPath) descriptor(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	kind, ok := fieldTypes[v.Kind]
	if !ok {
		t.Fatalf("unknown kind %q", v.Kind)
	}
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("keyed.proto"), Package: proto.String("k"), Syntax: proto.String("proto3"),
	}
	for level, number := range v.Numbers {
		field := &descriptorpb.FieldDescriptorProto{
			Name: proto.String("it"), Number: proto.Int32(int32(number)),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Type: kind.Enum(),
		}
		if level < len(v.Numbers)-1 {
			field.Type = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
			field.TypeName = proto.String(fmt.Sprintf(".k.M%d", level+1))
		}
		file.MessageType = append(file.MessageType, &descriptorpb.DescriptorProto{
			Name:  proto.String(fmt.Sprintf("M%d", level)),
			Field: []*descriptorpb.FieldDescriptorProto{field},
		})
	}
	built, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return built.Messages().Get(0)
}
