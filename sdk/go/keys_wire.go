package plait

import (
	"encoding/hex"
	"math"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// payloadText is the key's text in a serialized request, by field numbers, for requests whose type
// this program does not know. A field with another wire type than its kind's is unknown to a parser,
// and so it is here.
func (k *keyPath) payloadText(payload []byte) (string, error) {
	for _, number := range k.numbers[:len(k.numbers)-1] {
		var merged []byte
		err := eachField(payload, number, protowire.BytesType, func(value []byte) {
			body, _ := protowire.ConsumeBytes(value)
			// Messages that follow each other merge, as their occurrences do.
			merged = append(merged, body...)
		})
		if err != nil {
			return "", err
		}
		payload = merged
	}
	kind, ok := wireTypes[k.kind]
	if !ok {
		return "", invalid(k.path, "is of a kind that this version does not know")
	}
	var last []byte
	err := eachField(payload, k.numbers[len(k.numbers)-1], kind, func(value []byte) { last = value })
	if err != nil {
		return "", err
	}
	return k.valueText(kind, last)
}

// wireTypes are those of the kinds of keys.
var wireTypes = map[plaitv1.KeyKind]protowire.Type{
	plaitv1.KeyKind_KEY_KIND_STRING:   protowire.BytesType,
	plaitv1.KeyKind_KEY_KIND_BYTES:    protowire.BytesType,
	plaitv1.KeyKind_KEY_KIND_INT:      protowire.VarintType,
	plaitv1.KeyKind_KEY_KIND_UINT:     protowire.VarintType,
	plaitv1.KeyKind_KEY_KIND_SINT:     protowire.VarintType,
	plaitv1.KeyKind_KEY_KIND_BOOL:     protowire.VarintType,
	plaitv1.KeyKind_KEY_KIND_FIXED32:  protowire.Fixed32Type,
	plaitv1.KeyKind_KEY_KIND_SFIXED32: protowire.Fixed32Type,
	plaitv1.KeyKind_KEY_KIND_FIXED64:  protowire.Fixed64Type,
	plaitv1.KeyKind_KEY_KIND_SFIXED64: protowire.Fixed64Type,
}

// eachField calls found with the encoded value of every occurrence of a field. It reads the whole
// message, so that a broken one is always refused.
func eachField(
	message []byte, number protoreflect.FieldNumber, kind protowire.Type, found func([]byte),
) error {
	for len(message) > 0 {
		n, t, tag := protowire.ConsumeTag(message)
		size := -1
		if tag >= 0 {
			size = protowire.ConsumeFieldValue(n, t, message[tag:])
		}
		if size < 0 {
			return invalid("request", "is no protobuf message")
		}
		if n == number && t == kind {
			found(message[tag : tag+size])
		}
		message = message[tag+size:]
	}
	return nil
}

// valueText is the text of an encoded value; nil: the field's default.
func (k *keyPath) valueText(kind protowire.Type, value []byte) (string, error) {
	var body []byte
	var bits uint64
	if value != nil {
		switch kind {
		case protowire.BytesType:
			body, _ = protowire.ConsumeBytes(value)
		case protowire.Fixed32Type:
			narrow, _ := protowire.ConsumeFixed32(value)
			bits = uint64(narrow)
		case protowire.Fixed64Type:
			bits, _ = protowire.ConsumeFixed64(value)
		default:
			bits, _ = protowire.ConsumeVarint(value)
		}
	}
	switch k.kind {
	case plaitv1.KeyKind_KEY_KIND_STRING:
		if !utf8.Valid(body) {
			return "", invalid(k.path, "is not valid UTF-8")
		}
		return string(body), nil
	case plaitv1.KeyKind_KEY_KIND_BYTES:
		return hex.EncodeToString(body), nil
	case plaitv1.KeyKind_KEY_KIND_BOOL:
		return strconv.FormatBool(protowire.DecodeBool(bits)), nil
	case plaitv1.KeyKind_KEY_KIND_SINT:
		return strconv.FormatInt(protowire.DecodeZigZag(bits), 10), nil
	case plaitv1.KeyKind_KEY_KIND_SFIXED32:
		if bits > math.MaxInt32 {
			bits |= math.MaxUint32 << 32
		}
		return signedText(bits), nil
	case plaitv1.KeyKind_KEY_KIND_INT, plaitv1.KeyKind_KEY_KIND_SFIXED64:
		return signedText(bits), nil
	default:
		return strconv.FormatUint(bits, 10), nil
	}
}

// signedText is the number whose two's complement the bits are.
func signedText(bits uint64) string {
	if bits > math.MaxInt64 {
		return "-" + strconv.FormatUint(-bits, 10)
	}
	return strconv.FormatUint(bits, 10)
}
