package boundary

import (
	"fmt"
	"maps"
	"math/big"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// tried is one thing that a field is set to.
type tried struct {
	label string
	// The field with it, tags and all.
	content []byte
	// The rule that it breaks; "" for none that is known.
	breaks string
}

// fieldOf is a field of a message type.
type fieldOf struct {
	said  protoreflect.FieldDescriptor
	rules fieldRules
	// Of a map's keys.
	key kind
	// Of the value, the elements or a map's values; the zero kind for messages.
	kind kind
	// The type of the message, of the elements or of a map's values; nil for scalars.
	message protoreflect.MessageDescriptor
	// A well-known type that is more than its fields.
	special bool
	// The enum's numbers with their first names.
	enum map[int64]string
	// Its oneof; "" for none, and for that of an optional field, which is none.
	oneof protoreflect.Name
}

func newField(said protoreflect.FieldDescriptor) *fieldOf {
	f := &fieldOf{said: said}
	inner := said
	if said.IsMap() {
		inner = said.MapValue()
		f.key = kinds[said.MapKey().Kind()]
	}
	f.kind = kinds[inner.Kind()]
	f.message = inner.Message()
	if f.message != nil {
		f.special = ofMessage(f.message.FullName()) != nil
	}
	if values := inner.Enum(); values != nil {
		f.enum = map[int64]string{}
		for at := range values.Values().Len() {
			each := values.Values().Get(at)
			if n := int64(each.Number()); f.enum[n] == "" {
				f.enum[n] = string(each.Name())
			}
		}
	}
	f.rules = fieldRules{option(said.Options()), f.enum}
	if arms := said.ContainingOneof(); arms != nil && !arms.IsSynthetic() {
		f.oneof = arms.Name()
	}
	return f
}

// option is the buf.validate option among a descriptor's options; several pieces are one.
func option(options proto.Message) []byte {
	data, err := proto.Marshal(options)
	if err != nil {
		return nil // Options without what they require say nothing of rules.
	}
	var found []byte
	for _, each := range read(data) {
		if each.number == extension {
			found = append(found, each.content...)
		}
	}
	return found
}

// fieldsOf is the fields of a type, by number.
func fieldsOf(m protoreflect.MessageDescriptor) []*fieldOf {
	var found []*fieldOf
	for at := range m.Fields().Len() {
		found = append(found, newField(m.Fields().Get(at)))
	}
	slices.SortFunc(found, func(a, b *fieldOf) int { return int(a.number()) - int(b.number()) })
	return found
}

// oneof is one of a type, with its arms.
type oneof struct {
	name     protoreflect.Name
	required bool
	arms     []*fieldOf
}

func oneofsOf(m protoreflect.MessageDescriptor) []oneof {
	fields := fieldsOf(m)
	var found []oneof
	for at := range m.Oneofs().Len() {
		said := m.Oneofs().Get(at)
		if said.IsSynthetic() {
			continue
		}
		one := oneof{name: said.Name()}
		required, _ := last(option(said.Options()), 1)
		one.required = required.varint != 0
		for _, each := range fields {
			if each.oneof == said.Name() {
				one.arms = append(one.arms, each)
			}
		}
		found = append(found, one)
	}
	return found
}

func (f *fieldOf) number() number { return f.said.Number() }

func (f *fieldOf) name() string { return string(f.said.FullName()) }

func (f *fieldOf) repeated() bool { return f.said.Cardinality() == protoreflect.Repeated }

func (f *fieldOf) isScalar() bool { return f.message == nil }

// needed tells whether a message without it breaks a rule, or cannot be read.
func (f *fieldOf) needed() bool {
	return f.brokenWhenUnset() != "" || f.said.Cardinality() == protoreflect.Required
}

// boundless tells whether it is a text or bytes that no rule bounds.
func (f *fieldOf) boundless() bool {
	plain := f.isScalar() && (f.kind.name == "string" || f.kind.name == "bytes")
	return plain && !f.said.IsMap() && !f.rules.any()
}

// brokenWhenUnset is the rule that a message without it breaks; "" for none.
func (f *fieldOf) brokenWhenUnset() string {
	if f.rules.required() {
		return "required"
	}
	if f.repeated() {
		if least, _ := f.rules.counts(); least > 0 {
			return fmt.Sprintf("min %d", least)
		}
		return ""
	}
	if f.said.HasPresence() || !f.isScalar() {
		return ""
	}
	return f.rules.broken(f.kind, zero(f.kind))
}

// holding is the field with one message.
func (f *fieldOf) holding(content []byte) []byte {
	switch {
	case f.said.IsMap():
		return f.entry(delimited(2, content), 0)
	case f.said.Kind() == protoreflect.GroupKind:
		return group(f.number(), content)
	}
	return delimited(f.number(), content)
}

// many is the field with so many ordinary values, or messages of this content.
func (f *fieldOf) many(count int, content []byte) []byte {
	var made []byte
	for each := range count {
		if f.said.IsMap() {
			made = append(made, f.entry(f.ordinary(2, content), each)...)
		} else {
			made = append(made, f.ordinary(f.number(), content)...)
		}
	}
	return made
}

// scalarValues is everything that is tried of a scalar field, of a list or of a map of scalars.
func (f *fieldOf) scalarValues() []tried {
	switch {
	case f.said.IsMap():
		return f.mapValues()
	case f.repeated():
		return f.listValues()
	}
	var found []tried
	for _, each := range f.edges(f.rules) {
		content := field(f.number(), f.kind, each.value)
		found = append(found, tried{f.kind.name + " " + each.label, content, f.broken(each.value)})
	}
	return found
}

// specialValues is those of a well-known type that is more than its fields.
func (f *fieldOf) specialValues() []tried {
	short := string(f.message.Name()) + " "
	var found []tried
	for _, each := range ofMessage(f.message.FullName()) {
		broken := f.rules.timeBroken(each.nanos)
		found = append(found, tried{short + each.label, f.holding(each.content), broken})
	}
	for _, each := range f.rules.timeEdges() {
		nanos, _ := each.value.(*big.Int)
		content := f.holding(timeOf(nanos))
		found = append(found, tried{short + each.label, content, f.rules.timeBroken(nanos)})
	}
	return found
}

func (f *fieldOf) broken(v value) string {
	if f.rules.required() && !f.said.HasPresence() && isZero(v) {
		return "required"
	}
	return f.rules.broken(f.kind, v)
}

func (f *fieldOf) edges(rules fieldRules) []labelled {
	if f.enum != nil {
		closed := f.said.Enum() != nil && f.said.Enum().IsClosed()
		return append(ofEnum(f.enum, closed), rules.edges(f.kind)...)
	}
	found := append(ofKind(f.kind), rules.edges(f.kind)...)
	if rules.any() {
		found = append(found, labelled{"ordinary", f.good(rules)})
	}
	return found
}

// shortMax is the bytes of a value that stands among others.
const shortMax = 4096

// short leaves out what is long, and what breaks a rule.
func short(k kind, rules fieldRules, found []labelled, broken bool) []labelled {
	return slices.DeleteFunc(slices.Clone(found), func(each labelled) bool {
		return len(scalar(k, each.value)) > shortMax || !broken && rules.broken(k, each.value) != ""
	})
}

func (f *fieldOf) listValues() []tried {
	rules := f.rules.inner(4, f.enum)
	edges := f.edges(rules)
	alone := append(short(f.kind, rules, edges, true)[:1:1], rules.edges(f.kind)...)
	var found []tried
	for _, each := range alone {
		content := field(f.number(), f.kind, each.value)
		label := "one " + f.kind.name + " " + each.label
		found = append(found, tried{label, content, rules.broken(f.kind, each.value)})
	}
	var single, packed []byte
	for _, each := range short(f.kind, rules, edges, false) {
		single = append(single, field(f.number(), f.kind, each.value)...)
		packed = append(packed, scalar(f.kind, each.value)...)
	}
	every := "every " + f.kind.name
	found = append(found, tried{label: every, content: single})
	if f.kind.wire != protowire.BytesType {
		found = append(found, tried{label: every + ", packed", content: delimited(f.number(), packed)})
	}
	return found
}

func (f *fieldOf) mapValues() []tried {
	keys, values := f.rules.inner(4, nil), f.rules.inner(5, f.enum)
	good := short(f.kind, values, f.edges(values), false)
	var every []byte
	for at, each := range short(f.key, keys, ofKind(f.key), false) {
		if len(good) > 0 {
			entry := field(1, f.key, each.value)
			entry = append(entry, field(2, f.kind, good[at%len(good)].value)...)
			every = append(every, delimited(f.number(), entry)...)
		}
	}
	empty := values.broken(f.kind, zero(f.kind))
	bare := keys.broken(f.key, zero(f.key))
	if bare == "" {
		bare = empty
	}
	twice := f.entry(field(2, f.kind, zero(f.kind)), 0)
	twice = append(twice, f.entry(f.ordinary(2, nil), 0)...)
	return []tried{
		{"an entry without key and value", delimited(f.number(), nil), bare},
		{"one key twice", twice, empty},
		{"every " + f.key.name, every, ""},
	}
}

// entry is one entry of a map, under a key that goes by the number.
func (f *fieldOf) entry(content []byte, n int) []byte {
	var key value
	switch f.key.name {
	case "bool":
		key = n%2 == 1
	case "string":
		key = fmt.Sprintf("k%d", n)
	default:
		key = big.NewInt(int64(n))
	}
	return delimited(f.number(), append(field(1, f.key, key), content...))
}

// ordinary is one ordinary value, or a message of this content, under a number.
func (f *fieldOf) ordinary(n number, content []byte) []byte {
	if !f.isScalar() {
		if f.special && f.message.Name() != "Any" {
			content = timeOf(f.rules.goodTime())
		}
		if f.said.Kind() == protoreflect.GroupKind {
			return group(n, content)
		}
		return delimited(n, content)
	}
	rules := f.rules
	switch {
	case f.said.IsMap():
		rules = rules.inner(5, f.enum)
	case f.repeated():
		rules = rules.inner(4, f.enum)
	}
	return field(n, f.kind, f.good(rules))
}

func (f *fieldOf) good(rules fieldRules) value {
	if f.enum == nil {
		return rules.good(f.kind, []value{typical(f.kind)})
	}
	var named []value
	for _, n := range slices.Sorted(maps.Keys(f.enum)) {
		if n != 0 {
			named = append(named, big.NewInt(n))
		}
	}
	if named == nil {
		named = []value{new(big.Int)}
	}
	return rules.good(f.kind, named)
}

// timeOf is a Timestamp or a Duration of so many nanoseconds, seconds and nanos of one sign.
func timeOf(nanos *big.Int) []byte {
	seconds, rest := new(big.Int).QuoRem(nanos, big.NewInt(1_000_000_000), new(big.Int))
	return timeContent(seconds.Int64(), rest.Int64())
}
