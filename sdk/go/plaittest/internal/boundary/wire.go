// Package boundary makes boundary messages from descriptors: the same bytes under the same names as
// Python's `plait contract test` does, which interop/vectors/boundary_cases.json holds both to.
//
// Encoding is written by hand, since the messages say what a library would tidy up: a default on the
// wire, two arms of a oneof, a field that nobody knows.
package boundary

import (
	"encoding/binary"
	"math"
	"math/big"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// kind is a kind of scalar field.
type kind struct {
	name string
	wire protowire.Type
	// Of the whole numbers; 0 for the others.
	bits   uint
	signed bool
	zigzag bool
}

// kinds are those of scalars. Messages and groups are none.
var kinds = map[protoreflect.Kind]kind{
	protoreflect.DoubleKind:   {name: "double", wire: protowire.Fixed64Type},
	protoreflect.FloatKind:    {name: "float", wire: protowire.Fixed32Type},
	protoreflect.Int64Kind:    {name: "int64", bits: 64, signed: true},
	protoreflect.Uint64Kind:   {name: "uint64", bits: 64},
	protoreflect.Int32Kind:    {name: "int32", bits: 32, signed: true},
	protoreflect.Fixed64Kind:  {name: "fixed64", wire: protowire.Fixed64Type, bits: 64},
	protoreflect.Fixed32Kind:  {name: "fixed32", wire: protowire.Fixed32Type, bits: 32},
	protoreflect.BoolKind:     {name: "bool"},
	protoreflect.StringKind:   {name: "string", wire: protowire.BytesType},
	protoreflect.BytesKind:    {name: "bytes", wire: protowire.BytesType},
	protoreflect.Uint32Kind:   {name: "uint32", bits: 32},
	protoreflect.EnumKind:     {name: "enum", bits: 32, signed: true},
	protoreflect.Sfixed32Kind: {name: "sfixed32", wire: protowire.Fixed32Type, bits: 32, signed: true},
	protoreflect.Sfixed64Kind: {name: "sfixed64", wire: protowire.Fixed64Type, bits: 64, signed: true},
	protoreflect.Sint32Kind:   {name: "sint32", bits: 32, signed: true, zigzag: true},
	protoreflect.Sint64Kind:   {name: "sint64", bits: 64, signed: true, zigzag: true},
}

// number is what a protoreflect.FieldNumber is.
type number = protowire.Number

// A value of a scalar is a *big.Int (whole numbers, enums), a float64, a bool, a string or a []byte.
type value = any

var two64 = new(big.Int).Lsh(big.NewInt(1), 64)

// raw is a whole number as its two's complement of 64 bits.
func raw(n *big.Int) uint64 {
	if n.Sign() < 0 {
		return new(big.Int).Add(n, two64).Uint64()
	}
	return n.Uint64()
}

func isFloat(k kind) bool { return k.name == "double" || k.name == "float" }

// scalar is a value without its tag; text and bytes with their length.
func scalar(k kind, v value) []byte {
	switch v := v.(type) {
	case string:
		return protowire.AppendString(nil, v)
	case []byte:
		return protowire.AppendBytes(nil, v)
	case bool:
		return protowire.AppendVarint(nil, protowire.EncodeBool(v))
	case float64:
		if k.name == "double" {
			return protowire.AppendFixed64(nil, math.Float64bits(v))
		}
		return protowire.AppendFixed32(nil, math.Float32bits(float32(v)))
	case *big.Int:
		if k.zigzag {
			return protowire.AppendVarint(nil, protowire.EncodeZigZag(v.Int64()))
		}
		if k.wire == protowire.VarintType {
			return protowire.AppendVarint(nil, raw(v))
		}
		return binary.LittleEndian.AppendUint64(nil, raw(v))[:k.bits/8]
	}
	return nil
}

// field is a value with its tag.
func field(n number, k kind, v value) []byte {
	return append(protowire.AppendTag(nil, n, k.wire), scalar(k, v)...)
}

// delimited is bytes, a text, a message or packed values, with tag and length.
func delimited(n number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), content)
}

// group is a message in the old encoding, between two tags.
func group(n number, content []byte) []byte {
	made := append(protowire.AppendTag(nil, n, protowire.StartGroupType), content...)
	return protowire.AppendTag(made, n, protowire.EndGroupType)
}

// member is one field of a message of rules: a number for a varint, else bytes.
type member struct {
	number  number
	varint  uint64
	content []byte
}

// read is the fields of a message. What cannot be read ends it: options come from a descriptor that
// was parsed before.
func read(data []byte) []member {
	var found []member
	for len(data) > 0 {
		n, wire, size := protowire.ConsumeTag(data)
		if size < 0 {
			break
		}
		data = data[size:]
		size = protowire.ConsumeFieldValue(n, wire, data)
		if size < 0 {
			break
		}
		one := member{number: n}
		switch wire {
		case protowire.VarintType:
			one.varint, _ = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			content, _ := protowire.ConsumeBytes(data)
			one.content = slices.Clone(content)
			if content == nil {
				one.content = []byte{}
			}
		default:
			one.content = slices.Clone(data[:size])
		}
		found = append(found, one)
		data = data[size:]
	}
	return found
}

// last is the last member of a number; the zero member where there is none.
func last(data []byte, n number) (member, bool) {
	var found member
	ok := false
	for _, each := range read(data) {
		if each.number == n {
			found, ok = each, true
		}
	}
	return found, ok
}

// of is a member as a field of this kind has it.
func (m member) of(k kind) value {
	switch {
	case k.name == "string":
		return string(m.content)
	case k.name == "bytes":
		return m.content
	case k.name == "double":
		bits, _ := protowire.ConsumeFixed64(m.content)
		return math.Float64frombits(bits)
	case k.name == "float":
		bits, _ := protowire.ConsumeFixed32(m.content)
		return float64(math.Float32frombits(bits))
	case k.name == "bool":
		return m.varint != 0
	case k.zigzag:
		return big.NewInt(protowire.DecodeZigZag(m.varint))
	}
	bits, width := m.varint, uint(64)
	if m.content != nil {
		padded := append(slices.Clone(m.content), make([]byte, 8)...)
		bits, width = binary.LittleEndian.Uint64(padded), k.bits
	}
	found := new(big.Int).SetUint64(bits)
	half := new(big.Int).Lsh(big.NewInt(1), width-1)
	if k.signed && found.Cmp(half) >= 0 {
		found.Sub(found, new(big.Int).Lsh(big.NewInt(1), width))
	}
	return found
}
