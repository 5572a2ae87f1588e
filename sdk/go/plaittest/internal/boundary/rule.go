package boundary

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// rule is one rule: what it says is a value, or a list of them.
type rule struct {
	name string
	said value
}

// holds tells whether a value keeps a rule.
func (r fieldRules) holds(each rule, v value) bool {
	switch said := each.said.(type) {
	case []value:
		among := slices.ContainsFunc(said, func(one value) bool { return equal(one, v) })
		return among == (each.name == "in")
	case bool:
		return r.holdsFlag(each.name, said, v)
	}
	if slices.Contains(lengthNames, each.name) {
		size, said := big.NewInt(int64(sizeOf(each.name, v))), each.said
		switch {
		case strings.HasPrefix(each.name, "min"):
			return compare(size, said) >= 0
		case strings.HasPrefix(each.name, "max"):
			return compare(size, said) <= 0
		}
		return compare(size, said) == 0
	}
	content, part := contentOf(v), contentOf(each.said)
	switch each.name {
	case "const":
		return equal(v, each.said)
	case "prefix":
		return bytes.HasPrefix(content, part)
	case "suffix":
		return bytes.HasSuffix(content, part)
	case "contains":
		return bytes.Contains(content, part)
	case "not_contains":
		return !bytes.Contains(content, part)
	}
	return within(each.name, v, each.said)
}

func (r fieldRules) holdsFlag(name string, said bool, v value) bool {
	switch name {
	case "const":
		return equal(v, said)
	case "defined_only":
		n, ok := v.(*big.Int)
		return !said || ok && r.declared[n.Int64()] != ""
	case "finite":
		n, ok := v.(float64)
		return !said || ok && !math.IsInf(n, 0) && !math.IsNaN(n)
	}
	if content, ok := v.([]byte); ok {
		return !said || slices.Contains(formatSizes[name], len(content))
	}
	// Whatever else it is, a control character and nothing at all are none of them.
	text, _ := v.(string)
	return !said || text != "" && !strings.Contains(text, "\x00")
}

// within tells whether a value is within a bound; NaN is within none.
func within(name string, v, said value) bool {
	if n, ok := v.(float64); ok && math.IsNaN(n) {
		return false
	}
	order := compare(v, said)
	switch name {
	case "lt":
		return order < 0
	case "lte":
		return order <= 0
	case "gt":
		return order > 0
	}
	return order >= 0
}

// sizeOf is what a length is counted in: code points of text, or bytes.
func sizeOf(name string, v value) int {
	if text, ok := v.(string); ok && !strings.HasSuffix(name, "bytes") {
		return utf8.RuneCountInString(text)
	}
	return len(contentOf(v))
}

func contentOf(v value) []byte {
	if text, ok := v.(string); ok {
		return []byte(text)
	}
	content, _ := v.([]byte)
	return content
}

func equal(one, other value) bool {
	switch one := one.(type) {
	case *big.Int:
		other, ok := other.(*big.Int)
		return ok && one.Cmp(other) == 0
	case []byte:
		other, ok := other.([]byte)
		return ok && bytes.Equal(one, other)
	}
	return one == other
}

// compare orders two numbers of one kind.
func compare(one, other value) int {
	if one, ok := one.(*big.Int); ok {
		if other, ok := other.(*big.Int); ok {
			return one.Cmp(other)
		}
	}
	first, _ := one.(float64)
	second, _ := other.(float64)
	switch {
	case first < second:
		return -1
	case first > second:
		return 1
	}
	return 0
}

func isZero(v value) bool {
	switch v := v.(type) {
	case *big.Int:
		return v.Sign() == 0
	case float64:
		return v == 0
	case bool:
		return !v
	}
	return len(contentOf(v)) == 0
}

// around is values at and beside what a rule says.
func (each rule) around(k kind) []labelled {
	switch {
	case slices.Contains(boundNames, each.name):
		return each.aroundBound(k)
	case each.name == "in" || each.name == "not_in":
		var found []labelled
		list, _ := each.said.([]value)
		for _, one := range list {
			found = append(found, labelled{rule{each.name, one}.text(), one})
		}
		return found
	case slices.Contains(lengthNames, each.name):
		return each.aroundLength(k)
	case k.name == "bytes" && formatSizes[each.name] != nil:
		var found []labelled
		for _, size := range append(slices.Clone(formatSizes[each.name]), 5) {
			label := fmt.Sprintf("%d bytes for %s", size, each.name)
			found = append(found, labelled{label, bytes.Repeat([]byte{1}, size)})
		}
		return found
	case formats[each.name] != "":
		return []labelled{{"good " + each.name, formats[each.name]}, {"no " + each.name, "\x00"}}
	case each.name == "const" || each.name == "prefix" || each.name == "suffix":
		return []labelled{{each.text(), each.said}}
	}
	return nil
}

func (each rule) aroundBound(k kind) []labelled {
	var found []labelled
	for _, side := range []struct {
		label string
		by    int64
	}{{"below", -1}, {"at", 0}, {"above", 1}} {
		beside := step(each.said, side.by)
		if fits(k, beside) {
			found = append(found, labelled{side.label + " " + each.text(), beside})
		}
	}
	return found
}

func (each rule) aroundLength(k kind) []labelled {
	said, _ := each.said.(*big.Int)
	if said.Cmp(big.NewInt(sizeMax+1)) > 0 {
		return nil
	}
	middle := int(said.Int64())
	var found []labelled
	for size := middle - 1; size <= middle+1; size++ {
		if size < 0 || size > sizeMax {
			continue
		}
		found = append(found, labelled{fmt.Sprintf("%d for %s", size, each.text()), filled(k, size)})
	}
	return found
}

func filled(k kind, size int) value {
	if k.name == "string" {
		return strings.Repeat("x", size)
	}
	return bytes.Repeat([]byte("x"), size)
}

// step is the next number of a whole kind; of a floating one, one that is surely beside it.
func step(said value, by int64) value {
	if whole, ok := said.(*big.Int); ok {
		return new(big.Int).Add(whole, big.NewInt(by))
	}
	n, _ := said.(float64)
	if by == 0 {
		return n
	}
	return n + float64(by)*math.Max(1, math.Abs(n)/2)
}

func fits(k kind, v value) bool {
	whole, ok := v.(*big.Int)
	if !ok {
		// What is too large for a float would be infinity.
		n, _ := v.(float64)
		return k.name != "float" || math.Abs(n) < 3.4e38
	}
	least, most := new(big.Int), new(big.Int).Lsh(big.NewInt(1), k.bits)
	if k.signed {
		most.Rsh(most, 1)
		least.Neg(most)
	}
	return whole.Cmp(least) >= 0 && whole.Cmp(most) < 0
}

// assembled is a text that is put together from what several rules ask for.
func assembled(rules []rule, k kind) []value {
	if k.name != "string" && k.name != "bytes" {
		return nil
	}
	parts := map[string][]byte{}
	least := 0
	for _, each := range rules {
		switch each.name {
		case "prefix", "contains", "suffix":
			parts[each.name] = contentOf(each.said)
		case "len", "min_len", "len_bytes", "min_bytes":
			said, _ := each.said.(*big.Int)
			if !said.IsInt64() || said.Int64() > sizeMax {
				said = big.NewInt(sizeMax)
			}
			least = max(least, int(said.Int64()))
		}
	}
	made := append(slices.Clone(parts["prefix"]), parts["contains"]...)
	size := 0
	for _, part := range parts {
		size += sizeOf("len", shaped(k, part))
	}
	made = append(made, bytes.Repeat([]byte("x"), max(0, least-size))...)
	return []value{shaped(k, append(made, parts["suffix"]...))}
}

func shaped(k kind, content []byte) value {
	if k.name == "string" {
		return string(content)
	}
	return content
}

// text is a rule for people.
func (each rule) text() string {
	if list, ok := each.said.([]value); ok {
		var texts []string
		for _, one := range list {
			texts = append(texts, shown(one))
		}
		return each.name + " " + strings.Join(texts, ", ")
	}
	if each.said == true {
		return each.name
	}
	return each.name + " " + shown(each.said)
}

func shown(said value) string {
	switch said := said.(type) {
	case []byte:
		return hex.EncodeToString(said)
	case string:
		return said
	case float64:
		return strconv.FormatFloat(said, 'g', -1, 64)
	}
	return fmt.Sprint(said)
}
