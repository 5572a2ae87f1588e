package boundary

import (
	"maps"
	"math/big"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// extension is the number of buf.validate.field, .message and .oneof among the options.
const extension number = 1159

// Members of buf.validate.FieldRules, and values of its enum Ignore.
const (
	ruleRepeated  number = 18
	ruleMap       number = 19
	ruleDuration  number = 21
	ruleTimestamp number = 22
	ruleRequired  number = 25
	ruleIgnore    number = 27

	ignoreIfZero = 1
	ignoreAlways = 3
)

// What is asked for beyond these is not tried: bytes of a text, and elements.
const (
	sizeMax  = 4 * long
	countMax = 10_000
)

// ofKindRules are the members of FieldRules by kind.
var ofKindRules = map[string]number{
	"float": 1, "double": 2, "int32": 3, "int64": 4, "uint32": 5, "uint64": 6, "sint32": 7, "sint64": 8,
	"fixed32": 9, "fixed64": 10, "sfixed32": 11, "sfixed64": 12, "bool": 13, "string": 14, "bytes": 15,
	"enum": 16,
}

var numberNames = map[number]string{
	1: "const", 2: "lt", 3: "lte", 4: "gt", 5: "gte", 6: "in", 7: "not_in",
}

var floatNames = func() map[number]string {
	names := maps.Clone(numberNames)
	names[8] = "finite"
	return names
}()

var ruleNames = map[string]map[number]string{
	"float":  floatNames,
	"double": floatNames,
	"bool":   {1: "const"},
	"string": {
		1: "const", 19: "len", 2: "min_len", 3: "max_len", 20: "len_bytes", 4: "min_bytes", 5: "max_bytes",
		7: "prefix", 8: "suffix", 9: "contains", 23: "not_contains", 10: "in", 11: "not_in", 12: "email",
		13: "hostname", 14: "ip", 15: "ipv4", 16: "ipv6", 17: "uri", 21: "address", 22: "uuid",
	},
	"bytes": {
		1: "const", 13: "len", 2: "min_len", 3: "max_len", 5: "prefix", 6: "suffix", 7: "contains", 8: "in",
		9: "not_in", 10: "ip", 11: "ipv4", 12: "ipv6", 15: "uuid",
	},
	"enum": {1: "const", 2: "defined_only", 3: "in", 4: "not_in"},
}

var (
	durationNames = map[number]string{
		2: "const", 3: "lt", 4: "lte", 5: "gt", 6: "gte", 7: "in", 8: "not_in",
	}
	timestampNames = map[number]string{2: "const", 3: "lt", 4: "lte", 5: "gt", 6: "gte"}
)

// formats has a text that satisfies each, and so do few others: of those, nothing is claimed.
var formats = map[string]string{
	"email":    "a@example.com",
	"hostname": "example.com",
	"ip":       "192.0.2.1",
	"ipv4":     "192.0.2.1",
	"ipv6":     "2001:db8::1",
	"uri":      "https://example.com/a",
	"address":  "example.com",
	"uuid":     "0b8f6f1e-7f9c-4d3e-9a57-3f1c2b7d9e10",
}

var formatSizes = map[string][]int{"ip": {4, 16}, "ipv4": {4}, "ipv6": {16}, "uuid": {16}}

var (
	boundNames  = []string{"lt", "lte", "gt", "gte"}
	lengthNames = []string{"len", "min_len", "max_len", "len_bytes", "min_bytes", "max_bytes"}
)

// fieldRules are the plain rules of protovalidate that a field, its elements, keys or values carry. CEL
// expressions and patterns are not evaluated: of those, nothing is claimed.
type fieldRules struct {
	content  []byte
	declared map[int64]string
}

func (r fieldRules) any() bool { return len(r.content) > 0 }

func (r fieldRules) ignore() uint64 {
	found, _ := last(r.content, ruleIgnore)
	return found.varint
}

func (r fieldRules) required() bool {
	found, _ := last(r.content, ruleRequired)
	return found.varint != 0 && r.ignore() != ignoreAlways
}

func (r fieldRules) member(n number) []byte {
	found, _ := last(r.content, n)
	return found.content
}

// counts is how many elements or entries there are, at least and at most; 0 for no bound.
func (r fieldRules) counts() (int, int) {
	content := r.member(ruleRepeated)
	if len(content) == 0 {
		content = r.member(ruleMap)
	}
	bound := func(n number) int {
		found, _ := last(content, n)
		if found.varint > countMax {
			return 0
		}
		return int(new(big.Int).SetUint64(found.varint).Int64())
	}
	return bound(1), bound(2)
}

// inner is the rules of elements and of keys (4), or of values (5).
func (r fieldRules) inner(n number, declared map[int64]string) fieldRules {
	content := r.member(ruleMap)
	if len(content) == 0 {
		content = r.member(ruleRepeated)
	}
	found, _ := last(content, n)
	return fieldRules{found.content, declared}
}

func (r fieldRules) skips(zero bool) bool {
	ignore := r.ignore()
	return ignore == ignoreAlways || zero && ignore == ignoreIfZero
}

// broken is the first rule that a value of a scalar kind certainly breaks; "" for none.
func (r fieldRules) broken(k kind, v value) string {
	if r.skips(isZero(v)) {
		return ""
	}
	for _, each := range r.of(k) {
		if !r.holds(each, v) {
			return each.text()
		}
	}
	return ""
}

// timeBroken is the same of a Duration, or of a Timestamp, in nanoseconds.
func (r fieldRules) timeBroken(nanos *big.Int) string {
	if nanos == nil || r.skips(false) {
		return ""
	}
	for _, each := range r.ofTime() {
		if !r.holds(each, nanos) {
			return each.text() + " ns"
		}
	}
	return ""
}

// edges is values at the edges of the rules and just outside.
func (r fieldRules) edges(k kind) []labelled {
	var found []labelled
	if r.skips(false) {
		return nil
	}
	for _, each := range r.of(k) {
		found = append(found, each.around(k)...)
	}
	return found
}

// timeEdges is the same of times, in nanoseconds.
func (r fieldRules) timeEdges() []labelled {
	var found []labelled
	for _, each := range r.ofTime() {
		for _, edge := range each.around(kinds[protoreflect.Int64Kind]) {
			found = append(found, labelled{edge.label + " ns", edge.value})
		}
	}
	return found
}

// good is a value that satisfies them, as far as is known: an ordinary one, or one at an edge.
func (r fieldRules) good(k kind, ordinary []value) value {
	candidates := slices.Clone(ordinary)
	for _, each := range r.edges(k) {
		candidates = append(candidates, each.value)
	}
	rules := r.of(k)
	candidates = append(candidates, assembled(rules, k)...)
	certain := k.name != "string" || !slices.ContainsFunc(rules, func(each rule) bool {
		return formats[each.name] != ""
	})
	for _, each := range candidates {
		if r.broken(k, each) == "" && (certain || isGoodFormat(each)) {
			return each
		}
	}
	return candidates[0]
}

// goodTime is the same of times, in nanoseconds.
func (r fieldRules) goodTime() *big.Int {
	second := big.NewInt(1_000_000_000)
	candidates := append([]labelled{{"", second}}, r.timeEdges()...)
	for _, each := range candidates {
		if nanos, ok := each.value.(*big.Int); ok && r.timeBroken(nanos) == "" {
			return nanos
		}
	}
	return second
}

func isGoodFormat(v value) bool {
	text, ok := v.(string)
	return ok && slices.Contains(slices.Collect(maps.Values(formats)), text)
}

// of is the rules of a scalar kind, in the order in which they were written.
func (r fieldRules) of(k kind) []rule {
	names, ok := ruleNames[k.name]
	if !ok {
		names = numberNames
	}
	var found []rule
	for _, each := range read(r.member(ofKindRules[k.name])) {
		if name := names[each.number]; name != "" {
			found = addRule(found, name, ruleValue(name, k, each))
		}
	}
	return withoutGaps(found)
}

func (r fieldRules) ofTime() []rule {
	content, names := r.member(ruleDuration), durationNames
	if len(content) == 0 {
		content, names = r.member(ruleTimestamp), timestampNames
	}
	var found []rule
	for _, each := range read(content) {
		if name := names[each.number]; name != "" {
			found = addRule(found, name, nanosOf(each.content))
		}
	}
	return withoutGaps(found)
}

// addRule adds to a list, or says anew what was said.
func addRule(found []rule, name string, said value) []rule {
	at := slices.IndexFunc(found, func(each rule) bool { return each.name == name })
	isList := name == "in" || name == "not_in"
	switch {
	case at < 0 && isList:
		return append(found, rule{name, []value{said}})
	case at < 0:
		return append(found, rule{name, said})
	case isList:
		list, _ := found[at].said.([]value)
		found[at].said = append(list, said)
	default:
		found[at].said = said
	}
	return found
}

// withoutGaps leaves out bounds that allow either side of a gap; nothing is claimed of those.
func withoutGaps(found []rule) []rule {
	bound := func(names ...string) value {
		for _, name := range names {
			for _, each := range found {
				if each.name == name {
					return each.said
				}
			}
		}
		return nil
	}
	low, high := bound("gt", "gte"), bound("lt", "lte")
	if low == nil || high == nil || compare(low, high) < 0 {
		return found
	}
	return slices.DeleteFunc(found, func(each rule) bool { return slices.Contains(boundNames, each.name) })
}

func ruleValue(name string, k kind, found member) value {
	if slices.Contains(lengthNames, name) {
		return new(big.Int).SetUint64(found.varint)
	}
	if formats[name] != "" || name == "defined_only" || name == "finite" {
		return found.varint != 0
	}
	return found.of(k)
}

func nanosOf(content []byte) *big.Int {
	int64Kind := kinds[protoreflect.Int64Kind]
	total := new(big.Int)
	for _, each := range read(content) {
		part, _ := each.of(int64Kind).(*big.Int)
		if each.number == 1 {
			part = new(big.Int).Mul(part, big.NewInt(1_000_000_000))
		}
		total.Add(total, part)
	}
	return total
}
