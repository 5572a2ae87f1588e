package boundary

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// The vectors that all languages share; interop/vectors/README.md says what they are.
const vectorsFile = "../../../../../interop/vectors/boundary_cases.json"

type vectors struct {
	Schema        int    `json:"schema"`
	Limit         int    `json:"limit"`
	DescriptorSet []byte `json:"descriptor_set"`
	Vectors       []struct {
		Request string       `json:"request"`
		Cases   []caseVector `json:"cases"`
	} `json:"vectors"`
}

type caseVector struct {
	Name   string  `json:"name"`
	Hex    *string `json:"hex"`
	Size   int     `json:"size"`
	SHA256 string  `json:"sha256"`
	Breaks string  `json:"breaks"`
}

func readVectors(t *testing.T) (vectors, *protoregistry.Files) {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash(vectorsFile))
	if err != nil {
		t.Fatal(err)
	}
	var found vectors
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&found); err != nil {
		t.Fatal(err)
	}
	if found.Schema != 1 || len(found.Vectors) < 4 {
		t.Fatalf("schema %d with %d requests", found.Schema, len(found.Vectors))
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(found.DescriptorSet, &set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	return found, files
}

func TestCases_AreThoseOfTheVectors(t *testing.T) {
	t.Parallel()
	found, files := readVectors(t)
	for _, each := range found.Vectors {
		t.Run(each.Request, func(t *testing.T) {
			t.Parallel()
			made := Cases(message(t, files, each.Request), found.Limit)
			for at, want := range each.Cases {
				if at >= len(made) {
					t.Fatalf("%d cases, want %d: %q is missing", len(made), len(each.Cases), want.Name)
				}
				compareCase(t, made[at], want)
			}
			if len(made) > len(each.Cases) {
				t.Errorf("%q is too many", made[len(each.Cases)].Name)
			}
		})
	}
}

func compareCase(t *testing.T, got Case, want caseVector) {
	t.Helper()
	if got.Name != want.Name {
		t.Fatalf("case %q, want %q", got.Name, want.Name)
	}
	if got.Breaks != want.Breaks {
		t.Errorf("%s breaks %q, want %q", got.Name, got.Breaks, want.Breaks)
	}
	if want.Hex != nil {
		if text := hex.EncodeToString(got.Payload); text != *want.Hex {
			t.Errorf("%s is %s, want %s", got.Name, text, *want.Hex)
		}
		return
	}
	sum := sha256.Sum256(got.Payload)
	if len(got.Payload) != want.Size || hex.EncodeToString(sum[:]) != want.SHA256 {
		t.Errorf("%s has %d other bytes than the vector's %d", got.Name, len(got.Payload), want.Size)
	}
}

func TestCases_AreMessages(t *testing.T) {
	t.Parallel()
	found, files := readVectors(t)
	for _, each := range found.Vectors {
		descriptor := message(t, files, each.Request)
		for _, one := range Cases(descriptor, found.Limit) {
			read := dynamicpb.NewMessage(descriptor)
			options := proto.UnmarshalOptions{AllowPartial: true}
			if err := options.Unmarshal(one.Payload, read); err != nil {
				t.Errorf("%s: %v", one.Name, err)
			}
		}
	}
}

func TestCases_TheLargestFillsTheLimit(t *testing.T) {
	t.Parallel()
	found, files := readVectors(t)
	for limit := 100; limit < 300; limit++ {
		made := Cases(message(t, files, "boundary.v1.Line"), limit)
		size := len(made[len(made)-1].Payload)
		// A length that takes one byte more leaves out one size.
		if size != limit && size != limit-1 {
			t.Errorf("%d bytes where %d fit", size, limit)
		}
	}
	if found.Limit == 0 {
		t.Error("the vectors have no limit")
	}
}

func message(
	t *testing.T, files *protoregistry.Files, name string,
) protoreflect.MessageDescriptor {
	t.Helper()
	found, err := files.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		t.Fatal(err)
	}
	descriptor, ok := found.(protoreflect.MessageDescriptor)
	if !ok {
		t.Fatalf("%s is no message", name)
	}
	return descriptor
}
