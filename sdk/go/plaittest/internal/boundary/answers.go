package boundary

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// Unknown stands for unknown fields where fields to ignore are named, and in their paths.
const Unknown = "?"

// codeFact is the path under which facts hold the code; no field has it.
const codeFact = ""

// answer is how one worker answered one message.
type answer struct {
	code codes.Code
	// The reason of its ErrorInfo, as "domain/REASON"; Plait's own without the domain.
	reason string
	// For people; not compared, since languages word things differently.
	message  string
	response []byte
	// From its start to its end, by the broker's clock.
	took time.Duration
}

// answerOf is the answer of a task's attempt that took so long.
func answerOf(task *plaitv1.Task, took time.Duration) answer {
	switch task.GetState() {
	case plaitv1.TaskState_TASK_STATE_SUCCEEDED:
		return answer{response: task.GetResponse(), took: took}
	case plaitv1.TaskState_TASK_STATE_EXPIRED:
		return answer{code: codes.DeadlineExceeded, reason: "TASK_EXPIRED", took: took}
	default:
	}
	said := task.GetError()
	found := answer{code: codeOf(said.GetCode()), message: said.GetMessage(), took: took}
	for _, packed := range said.GetDetails() {
		info := &errdetails.ErrorInfo{}
		if packed.UnmarshalTo(info) == nil {
			found.reason = info.GetReason()
			if info.GetDomain() != "plait" {
				found.reason = info.GetDomain() + "/" + info.GetReason()
			}
			break
		}
	}
	return found
}

func codeOf(n int32) codes.Code {
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		if fmt.Sprint(uint32(code)) == fmt.Sprint(n) {
			return code
		}
	}
	return codes.Unknown
}

// expired tells whether time was up: the broker or the worker, whoever is first, says so.
func (a answer) expired() bool {
	ours := a.reason == "" || a.reason == "TASK_EXPIRED" || a.reason == "ATTEMPT_TIMED_OUT"
	return a.code == codes.DeadlineExceeded && ours
}

// facts is what is compared: the leaves of the response by path, or the error.
func (a answer) facts(response protoreflect.MessageDescriptor, ignore []string) map[string]string {
	switch {
	case a.expired():
		return map[string]string{codeFact: codes.DeadlineExceeded.String()}
	case a.code != codes.OK:
		return map[string]string{codeFact: a.code.String(), "reason": a.reason}
	}
	message := dynamicpb.NewMessage(response)
	found := map[string]string{codeFact: codes.OK.String()}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(a.response, message); err != nil {
		found["bytes"] = hex.EncodeToString(a.response)
		return found
	}
	(&leaves{ignore, found}).message(message, "", "")
	return found
}

// text is for people, short.
func (a answer) text() string {
	switch {
	case a.expired():
		return codes.DeadlineExceeded.String()
	case a.code == codes.OK:
		return codes.OK.String()
	case a.reason == "":
		return fmt.Sprintf("%s: %s", a.code, cut(a.message))
	}
	return fmt.Sprintf("%s (%s): %s", a.code, a.reason, cut(a.message))
}

// leaves is what a message says, leaf by leaf.
type leaves struct {
	ignore []string
	found  map[string]string
}

// message takes everything that is set. path is such as "lines[3].id", names has no elements.
func (l *leaves) message(m protoreflect.Message, path, names string) {
	if path != "" {
		l.found[path] = "{}"
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		below := join(names, string(f.Name()))
		if !slices.Contains(l.ignore, below) {
			l.field(f, v, join(path, string(f.Name())), below)
		}
		return true
	})
	if slices.Contains(l.ignore, Unknown) {
		return
	}
	for unknown := m.GetUnknown(); len(unknown) > 0; {
		n, wire, size := protowire.ConsumeField(unknown)
		if size < 0 {
			break
		}
		at := join(path, fmt.Sprintf("%s%d", Unknown, n))
		l.found[at] += fmt.Sprintf("%d:%x ", wire, unknown[protowire.SizeTag(n):size])
		unknown = unknown[size:]
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (l *leaves) field(f protoreflect.FieldDescriptor, v protoreflect.Value, path, names string) {
	switch {
	case f.IsMap():
		v.Map().Range(func(key protoreflect.MapKey, each protoreflect.Value) bool {
			l.one(f.MapValue(), each, fmt.Sprintf("%s[%q]", path, key.String()), names)
			return true
		})
	case f.IsList():
		for at := range v.List().Len() {
			l.one(f, v.List().Get(at), fmt.Sprintf("%s[%d]", path, at), names)
		}
	case f.HasPresence() || !isZeroFloat(f, v):
		l.one(f, v, path, names)
	}
}

// isZeroFloat tells of -0, which is equal to 0 and so counts as unset.
func isZeroFloat(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	return isFloat(kinds[f.Kind()]) && v.Float() == 0
}

func (l *leaves) one(f protoreflect.FieldDescriptor, v protoreflect.Value, path, names string) {
	switch {
	case f.Message() != nil:
		l.message(v.Message(), path, names)
	case isFloat(kinds[f.Kind()]) && math.IsNaN(v.Float()):
		l.found[path] = "NaN"
	case isZeroFloat(f, v):
		l.found[path] = "0"
	case f.Kind() == protoreflect.BytesKind || f.Kind() == protoreflect.StringKind:
		l.found[path] = fmt.Sprintf("%q", v.Interface())
	default:
		l.found[path] = v.String()
	}
}

// differences is paths with what either says there, the first few.
func differences(one, other map[string]string) []string {
	if one[codeFact] != codes.OK.String() || other[codeFact] != codes.OK.String() {
		return nil
	}
	var found []string
	for _, each := range []map[string]string{one, other} {
		for path := range each {
			if one[path] != other[path] && !slices.Contains(found, path) {
				found = append(found, path)
			}
		}
	}
	sort.Strings(found)
	if len(found) > 3 {
		found = found[:3]
	}
	for at, path := range found {
		found[at] = fmt.Sprintf("  %s: %s there, %s here", path, cut(one[path]), cut(other[path]))
	}
	return found
}

// cut is a text for people, not too long.
func cut(text string) string {
	const most = 60
	if text == "" {
		return "unset"
	}
	if len(text) <= most {
		return text
	}
	head := strings.ToValidUTF8(string(bytes.Clone([]byte(text[:most]))), "")
	return fmt.Sprintf("%s… (%d)", head, len(text))
}
