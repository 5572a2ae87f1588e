package boundary

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// long is the bytes of a long text: more than any buffer on its way.
const long = 65_536

// labelled is a value and its name.
type labelled struct {
	label string
	value value
}

func texts() []labelled {
	return []labelled{
		{"empty", ""},
		{"one letter", "a"},
		{"padded", "  a\t\r\n"},
		{"NUL", "a\x00b"},
		{"quotes", "\"'\\`${a}<b>&%s"},
		{"accents", "\u00e9 e\u0301"},
		{"astral", "\U0001f9f5 \U0001f469\u200d\U0001f680"},
		{"right to left", "\u202e\u05d0\u0628"},
		{"byte order mark", "\ufeffa"},
		{"last code points", "\uffff\U0010ffff"},
		{fmt.Sprintf("%d bytes", long), strings.Repeat("x", long)},
	}
}

func byteStrings() []labelled {
	all := make([]byte, 0, 256)
	for each := byte(0); ; each++ {
		all = append(all, each)
		if each == 0xff {
			break
		}
	}
	return []labelled{
		{"empty", []byte{}},
		{"00", []byte{0}},
		{"no UTF-8", []byte{0xff, 0xfe, 0xc0}},
		{"all 256 values", all},
		{fmt.Sprintf("%d bytes", long), bytes.Repeat([]byte{0xa5}, long)},
	}
}

func floats(k kind) []labelled {
	most, least, tenth := math.MaxFloat64, math.SmallestNonzeroFloat64, 0.1
	if k.name == "float" {
		most, least = math.MaxFloat32, math.SmallestNonzeroFloat32
		tenth = float64(float32(0.1))
	}
	return []labelled{
		{"0", 0.0},
		{"-0", math.Copysign(0, -1)},
		{"-1", -1.0},
		{"0.1", tenth},
		{"max", most},
		{"min", -most},
		{"least above 0", least},
		{"infinity", math.Inf(1)},
		{"-infinity", math.Inf(-1)},
		{"NaN", math.Float64frombits(0x7ff8 << 48)},
	}
}

// ofKind is the edges of a scalar kind, enums aside.
func ofKind(k kind) []labelled {
	switch {
	case isFloat(k):
		return floats(k)
	case k.name == "bool":
		return []labelled{{"false", false}, {"true", true}}
	case k.name == "string":
		return texts()
	case k.name == "bytes":
		return byteStrings()
	}
	one := big.NewInt(1)
	if !k.signed {
		most := new(big.Int).Sub(new(big.Int).Lsh(one, k.bits), one)
		return []labelled{{"0", new(big.Int)}, {"1", one}, {"max", most}}
	}
	half := new(big.Int).Lsh(one, k.bits-1)
	return []labelled{
		{"0", new(big.Int)},
		{"1", one},
		{"-1", big.NewInt(-1)},
		{"max", new(big.Int).Sub(half, one)},
		{"min", new(big.Int).Neg(half)},
	}
}

// ofEnum is each value by its first name; and, where any number is allowed, numbers that have none.
func ofEnum(names map[int64]string, closed bool) []labelled {
	var found []labelled
	for _, n := range slices.Sorted(maps.Keys(names)) {
		found = append(found, labelled{names[n], big.NewInt(n)})
	}
	if closed {
		return found
	}
	unknown := int64(1)
	for names[unknown] != "" {
		unknown++
	}
	found = append(found, labelled{"unknown", big.NewInt(unknown)})
	for _, each := range []struct {
		label  string
		number int64
	}{{"unknown max", math.MaxInt32}, {"unknown min", math.MinInt32}} {
		if names[each.number] == "" {
			found = append(found, labelled{each.label, big.NewInt(each.number)})
		}
	}
	return found
}

// typical is an ordinary value that is no default.
func typical(k kind) value {
	switch {
	case isFloat(k):
		return 1.5
	case k.name == "bool":
		return true
	case k.name == "string":
		return "text"
	case k.name == "bytes":
		return []byte("bytes")
	}
	return big.NewInt(7)
}

// zero is the default.
func zero(k kind) value {
	switch {
	case isFloat(k):
		return 0.0
	case k.name == "bool":
		return false
	case k.name == "string":
		return ""
	case k.name == "bytes":
		return []byte{}
	}
	return new(big.Int)
}

// timeContent is a Timestamp or a Duration.
func timeContent(seconds, nanos int64) []byte {
	int64Kind := kinds[protoreflect.Int64Kind]
	var made []byte
	if seconds != 0 {
		made = field(1, int64Kind, big.NewInt(seconds))
	}
	if nanos != 0 {
		made = append(made, field(2, int64Kind, big.NewInt(nanos))...)
	}
	return made
}

// instant is an edge of a Timestamp or a Duration.
type instant struct {
	label          string
	seconds, nanos int64
}

var instants = map[protoreflect.FullName][]instant{
	"google.protobuf.Timestamp": {
		{"1970", 0, 0},
		{"1 ns after 1970", 0, 1},
		{"1 ns before 1970", -1, 999_999_999},
		{"2038", 1 << 31, 0},
		{"year 1", -62_135_596_800, 0},
		{"end of year 9999", 253_402_300_799, 999_999_999},
		{"year 10000", 253_402_300_800, 0},
		{"negative nanos", 0, -1},
		{"too many nanos", 0, 1_000_000_000},
	},
	"google.protobuf.Duration": {
		{"0", 0, 0},
		{"1 ns", 0, 1},
		{"-1 ns", 0, -1},
		{"max", 315_576_000_000, 999_999_999},
		{"min", -315_576_000_000, -999_999_999},
		{"over max", 315_576_000_001, 0},
		{"two signs", 1, -1},
	},
}

// special is an edge of a well-known type that is more than its fields; nanos is nil but for times.
type special struct {
	label   string
	content []byte
	nanos   *big.Int
}

// ofMessage is the edges of such a type; nil for any other.
func ofMessage(name protoreflect.FullName) []special {
	if name == "google.protobuf.Any" {
		unknown := delimited(1, []byte("type.googleapis.com/plait.test.Unknown"))
		duration := delimited(1, []byte("type.googleapis.com/google.protobuf.Duration"))
		return []special{
			{label: "empty"},
			{label: "of an unknown type", content: append(unknown, delimited(2, []byte{8, 1})...)},
			{label: "a Duration", content: append(duration, delimited(2, timeContent(1, 0))...)},
		}
	}
	var found []special
	for _, each := range instants[name] {
		nanos := new(big.Int).Mul(big.NewInt(each.seconds), big.NewInt(1_000_000_000))
		nanos.Add(nanos, big.NewInt(each.nanos))
		found = append(found, special{each.label, timeContent(each.seconds, each.nanos), nanos})
	}
	return found
}

// unknownFields is one of each encoding, from this number on downwards.
func unknownFields(first number) []byte {
	eight := []byte{0, 1, 2, 3, 4, 5, 6, 7}
	made := protowire.AppendVarint(protowire.AppendTag(nil, first, protowire.VarintType), 1)
	made = append(protowire.AppendTag(made, first-1, protowire.Fixed64Type), eight...)
	made = append(made, delimited(first-2, []byte("new"))...)
	return append(protowire.AppendTag(made, first-3, protowire.Fixed32Type), eight[:4]...)
}
