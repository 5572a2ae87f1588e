package boundary

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

func factsOf(t *testing.T, values *testingv1.Scalars, ignore ...string) map[string]string {
	t.Helper()
	data, err := proto.Marshal(&testingv1.ScalarsResponse{Values: values})
	if err != nil {
		t.Fatal(err)
	}
	kind := (&testingv1.ScalarsResponse{}).ProtoReflect().Descriptor()
	return answer{response: data}.facts(kind, ignore)
}

func TestFacts_DifferByWhatIsSaid(t *testing.T) {
	t.Parallel()
	unknown := &testingv1.Scalars{}
	unknown.ProtoReflect().SetUnknown([]byte{0xf8, 0xff, 0xff, 0xff, 0x0f, 1})
	zero := int32(0)
	for path, pair := range map[string][2]*testingv1.Scalars{
		"":                      {{DoubleValue: math.NaN()}, {DoubleValue: math.NaN()}},
		" ":                     {{FloatValue: float32(math.Copysign(0, -1))}, {}},
		"values.int32_value":    {{Int32Value: 1}, {Int32Value: 2}},
		"values.optional_value": {{OptionalValue: &zero}, {}},
		"values.nested":         {{Nested: &testingv1.Scalars{}}, {}},
		"values.texts[1]":       {{Texts: []string{"a", "b"}}, {Texts: []string{"a", "c"}}},
		`values.counts["a"]`:    {{Counts: map[string]int64{"a": 1}}, {Counts: map[string]int64{"a": 2}}},
		"values.?536870911":     {unknown, {}},
	} {
		one, other := factsOf(t, pair[0]), factsOf(t, pair[1])
		found := differences(one, other)
		switch {
		case strings.TrimSpace(path) == "" && !maps.Equal(one, other):
			t.Errorf("%v and %v differ", one, other)
		case strings.TrimSpace(path) != "" && (len(found) != 1 || !strings.HasPrefix(found[0], "  "+path+":")):
			t.Errorf("%s: got %v", path, found)
		}
	}
	if len(differences(factsOf(t, unknown, Unknown), factsOf(t, &testingv1.Scalars{}, Unknown))) != 0 {
		t.Error("unknown fields are compared, though they are ignored")
	}
	ignored := factsOf(t, &testingv1.Scalars{Int32Value: 1}, "values.int32_value")
	if !maps.Equal(ignored, factsOf(t, &testingv1.Scalars{})) {
		t.Errorf("an ignored field is compared: %v", ignored)
	}
}

func TestAnswerOf_TimeIsUpWhoeverSaysSo(t *testing.T) {
	t.Parallel()
	expired := &plaitv1.Task{State: plaitv1.TaskState_TASK_STATE_EXPIRED}
	late := &plaitv1.Task{
		State: plaitv1.TaskState_TASK_STATE_FAILED,
		Error: &status.Status{Code: int32(codes.DeadlineExceeded), Message: "context deadline exceeded"},
	}
	kind := (&testingv1.ScalarsResponse{}).ProtoReflect().Descriptor()
	if !maps.Equal(answerOf(expired, 0).facts(kind, nil), answerOf(late, 0).facts(kind, nil)) {
		t.Error("the broker's word and the worker's differ")
	}
	late.Error.Code = int32(codes.Internal)
	if answerOf(late, 0).expired() || answerOf(late, 0).code != codes.Internal {
		t.Errorf("got %v", answerOf(late, 0))
	}
}

func TestLastAttempt_IsTheOneThatEnded(t *testing.T) {
	t.Parallel()
	for name, each := range map[string]struct {
		state  plaitv1.TaskState
		events string
		want   string
	}{
		"runs":             {plaitv1.TaskState_TASK_STATE_RUNNING, "SUBMITTED STARTED:a", ""},
		"done":             {plaitv1.TaskState_TASK_STATE_SUCCEEDED, "SUBMITTED STARTED:a COMPLETED:a", "a"},
		"given out again":  {plaitv1.TaskState_TASK_STATE_READY, "STARTED:a FAILED:a STARTED:b", "a"},
		"failed twice":     {plaitv1.TaskState_TASK_STATE_FAILED, "STARTED:a FAILED:a STARTED:b FAILED:b", "b"},
		"never begun":      {plaitv1.TaskState_TASK_STATE_EXPIRED, "SUBMITTED DEADLINE", ""},
		"expired later":    {plaitv1.TaskState_TASK_STATE_EXPIRED, "STARTED:a FAILED:a DEADLINE", ""},
		"expired while on": {plaitv1.TaskState_TASK_STATE_EXPIRED, "STARTED:a DEADLINE:a", "a"},
	} {
		task := &plaitv1.Task{State: each.state}
		for second, said := range slices.All(strings.Fields(each.events)) {
			cause, worker, _ := strings.Cut(said, ":")
			at := timestamppb.New(time.Unix(int64(second), 0))
			task.Events = append(task.Events, &plaitv1.TaskEvent{Cause: cause, Worker: worker, Time: at})
		}
		if id, _ := lastAttempt(task); id != each.want {
			t.Errorf("%s: %q, want %q", name, id, each.want)
		}
	}
}
