package boundary

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	typesMax = 200
	deep     = 32
)

// Case is one message that every worker is to answer alike.
type Case struct {
	// What it is, such as "orders.v1.Order.amount = int32 max"; stable from run to run.
	Name string
	// The request.
	Payload []byte
	// The rule that it breaks, whose answer is INVALID_ARGUMENT; "" for none that is known.
	Breaks string
}

// Cases is all of a request type. limit is the bytes of the largest one.
func Cases(request protoreflect.MessageDescriptor, limit int) []Case {
	m := &maker{request: request, limit: limit}
	m.add(string(request.FullName())+" = unset", nil, neededBy(request))
	m.add(string(request.FullName())+" = every field set", full(request, nil), "")
	for _, each := range reached(request) {
		m.ofType(each.message, each.way)
	}
	m.largest()
	return m.cases
}

type maker struct {
	request protoreflect.MessageDescriptor
	limit   int
	cases   []Case
}

// stepInto is a way into a message: the field of its parent that holds it.
type stepInto struct {
	parent protoreflect.MessageDescriptor
	field  *fieldOf
}

// reachedType is a type and the shortest way to it.
type reachedType struct {
	message protoreflect.MessageDescriptor
	way     []stepInto
}

func (m *maker) add(name string, payload []byte, breaks string) {
	m.cases = append(m.cases, Case{Name: name, Payload: payload, Breaks: breaks})
}

// reached is the request and each message type below it, once.
func reached(request protoreflect.MessageDescriptor) []reachedType {
	found := []reachedType{{message: request}}
	seen := map[protoreflect.FullName]bool{request.FullName(): true}
	for at := 0; at < len(found); at++ {
		parent := found[at]
		for _, each := range fieldsOf(parent.message) {
			if each.isScalar() || each.special || seen[each.message.FullName()] || len(seen) >= typesMax {
				continue
			}
			seen[each.message.FullName()] = true
			way := append(slices.Clone(parent.way), stepInto{parent.message, each})
			found = append(found, reachedType{each.message, way})
		}
	}
	return found
}

func (m *maker) ofType(message protoreflect.MessageDescriptor, way []stepInto) {
	for _, each := range fieldsOf(message) {
		rest := base(message, each)
		if each.needed() {
			m.add(each.name()+" = unset", wrap(way, rest), each.brokenWhenUnset())
		}
		for _, one := range m.values(each) {
			payload := wrap(way, slices.Concat(rest, one.content))
			if len(payload) <= m.limit {
				m.add(each.name()+" = "+one.label, payload, one.breaks)
			}
		}
		if !each.isScalar() && each.message.FullName() == message.FullName() {
			m.deep(message, each, way)
		}
	}
	m.oneofs(message, way)
	if !strings.HasPrefix(message.ParentFile().Path(), "google/protobuf/") {
		unknown := append(base(message, nil), unknownOf(message)...)
		m.add(string(message.FullName())+" = unknown fields", wrap(way, unknown), "")
	}
}

func (m *maker) oneofs(message protoreflect.MessageDescriptor, way []stepInto) {
	for _, each := range oneofsOf(message) {
		rest, first, final := base(message, each.arms[0]), each.arms[0], each.arms[len(each.arms)-1]
		name := fmt.Sprintf("%s.%s", message.FullName(), each.name)
		if each.required {
			m.add(name+" = no arm", wrap(way, rest), "oneof required")
		}
		if len(each.arms) > 1 {
			both := slices.Concat(rest, filler(first, nil, false), filler(final, nil, false))
			m.add(name+" = first arm, then last", wrap(way, both), "")
		}
	}
}

func (m *maker) deep(message protoreflect.MessageDescriptor, f *fieldOf, way []stepInto) {
	content := base(message, nil)
	for range deep {
		content = append(base(message, f), f.holding(content)...)
	}
	m.add(fmt.Sprintf("%s = %d deep", f.name(), deep), wrap(way, content), "")
}

// largest is as large as a request may be, by a text or bytes that no rule bounds, else by a field
// that nobody knows.
func (m *maker) largest() {
	n, rest := protowire.MaxValidNumber-9, base(m.request, nil)
	for _, each := range fieldsOf(m.request) {
		if each.boundless() {
			n, rest = each.number(), base(m.request, each)
			break
		}
	}
	room := m.limit - len(rest) - protowire.SizeTag(n)
	size := max(0, 2*room-protowire.SizeBytes(room))
	for protowire.SizeBytes(size+1) <= room {
		size++
	}
	payload := append(rest, delimited(n, []byte(strings.Repeat("x", size)))...)
	m.add(fmt.Sprintf("%s = %d bytes", m.request.FullName(), len(payload)), payload, "")
}

func wrap(way []stepInto, content []byte) []byte {
	for _, each := range slices.Backward(way) {
		content = append(base(each.parent, each.field), each.field.holding(content)...)
	}
	return content
}

// values is everything that is tried of a field, itself only.
func (m *maker) values(f *fieldOf) []tried {
	var found []tried
	switch {
	case f.isScalar():
		found = f.scalarValues()
	case f.special:
		found = f.specialValues()
	default:
		found = []tried{{"empty", f.holding(nil), neededBy(f.message)}}
	}
	if !f.repeated() {
		return found
	}
	least, most := f.rules.counts()
	content := inner(f, nil, false)
	if least > 0 {
		broken := fmt.Sprintf("min %d", least)
		for more, breaks := range []string{broken, "", ""} {
			label := fmt.Sprintf("%d of at least %d", least+more-1, least)
			found = append(found, tried{label, f.many(least+more-1, content), breaks})
		}
	}
	if most > 0 {
		broken := fmt.Sprintf("max %d", most)
		for more, breaks := range []string{"", "", broken} {
			label := fmt.Sprintf("%d of at most %d", most+more-1, most)
			found = append(found, tried{label, f.many(most+more-1, content), breaks})
		}
	}
	if most == 0 || most >= 1000 {
		found = append(found, tried{label: "1000 of them", content: f.many(1000, content)})
	}
	return found
}

// needs is the fields without which a message breaks a rule; of a oneof that is required, the first.
func needs(message protoreflect.MessageDescriptor) []*fieldOf {
	wanted := map[number]bool{}
	for _, each := range oneofsOf(message) {
		if each.required {
			wanted[each.arms[0].number()] = true
		}
	}
	return slices.DeleteFunc(fieldsOf(message), func(each *fieldOf) bool {
		return !each.needed() && !wanted[each.number()]
	})
}

// neededBy is the rule that an empty message breaks.
func neededBy(message protoreflect.MessageDescriptor) string {
	for _, each := range needs(message) {
		if broken := each.brokenWhenUnset(); broken != "" {
			return broken
		}
	}
	if slices.ContainsFunc(oneofsOf(message), func(each oneof) bool { return each.required }) {
		return "oneof required"
	}
	return ""
}

// base is what rules ask for, beside one field and its oneof.
func base(message protoreflect.MessageDescriptor, without *fieldOf) []byte {
	var made []byte
	for _, each := range needs(message) {
		beside := without == nil ||
			each.number() != without.number() && (each.oneof == "" || each.oneof != without.oneof)
		if beside {
			made = append(made, filler(each, []protoreflect.FullName{message.FullName()}, false)...)
		}
	}
	return made
}

// full is every field set, one arm of each oneof; a type within itself is empty.
func full(message protoreflect.MessageDescriptor, above []protoreflect.FullName) []byte {
	above = append(slices.Clone(above), message.FullName())
	fields := fieldsOf(message)
	final := map[protoreflect.Name]number{}
	for _, each := range fields {
		final[each.oneof] = each.number()
	}
	var made []byte
	for _, each := range fields {
		if each.oneof == "" || final[each.oneof] == each.number() {
			made = append(made, filler(each, above, true)...)
		}
	}
	return made
}

// filler is the field with an ordinary value that its rules allow.
func filler(f *fieldOf, above []protoreflect.FullName, whole bool) []byte {
	least, _ := f.rules.counts()
	return f.many(max(1, least), inner(f, above, whole))
}

// inner is the content of a message field; of others, nothing.
func inner(f *fieldOf, above []protoreflect.FullName, whole bool) []byte {
	if f.isScalar() || f.special || slices.Contains(above, f.message.FullName()) {
		return nil
	}
	if whole {
		return full(f.message, above)
	}
	above = append(slices.Clone(above), f.message.FullName())
	var made []byte
	for _, each := range needs(f.message) {
		made = append(made, filler(each, above, false)...)
	}
	return made
}

// unknownOf is fields that a newer contract might have.
func unknownOf(message protoreflect.MessageDescriptor) []byte {
	first := protowire.MaxValidNumber
	taken := func() bool {
		for n := first - 3; n <= first; n++ {
			if message.Fields().ByNumber(n) != nil {
				return true
			}
		}
		return false
	}
	for taken() {
		first -= 4
	}
	return unknownFields(first)
}
