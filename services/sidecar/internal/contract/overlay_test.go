package contract

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

const echoService = "testing.v1.EchoService"

// echoSet are the descriptors of a service that has policies already.
func echoSet() *descriptorpb.FileDescriptorSet {
	return &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(testingv1.File_testing_v1_echo_proto),
	}}
}

// overlaidPolicy is the policy of a method of echoSet with an overlay on it.
func overlaidPolicy(t *testing.T, method int, text string) *plaitv1.TaskPolicy {
	t.Helper()
	set := echoSet()
	if err := overlay(set, []string{echoService}, "p.yaml", []byte(text)); err != nil {
		t.Fatal(err)
	}
	options := set.GetFile()[0].GetService()[0].GetMethod()[method].GetOptions()
	policy, ok := proto.GetExtension(options, plaitv1.E_Task).(*plaitv1.TaskPolicy)
	if !ok {
		t.Fatal("the option is no policy")
	}
	return policy
}

func TestOverlay_FieldsWinAndTheOthersStay(t *testing.T) {
	t.Parallel()
	got := overlaidPolicy(t, 1, `
services:
  testing.v1.EchoService:
    methods:
      Fail:
        task:
          deadline: 1h30m
          retention: {seconds: 5, nanos: 7}
          retry:
            multiplier: 1.5
            non_retryable_codes: [INTERNAL, UNKNOWN]
          priority: 9
          delivery: DELIVERY_AT_MOST_ONCE
          rate_limit: {limit: 9007199254740993}
          idempotency_key: ""
`)
	if got.GetQueue() != "echo.fail" || got.GetRetry().GetMaxAttempts() != 5 ||
		!got.GetDeadLetter().GetEnabled() {
		t.Errorf("what the overlay does not say has changed: %v", got)
	}
	if got.GetDeadline().AsDuration() != 90*time.Minute || got.GetRetention().GetNanos() != 7 ||
		got.GetRetry().GetMultiplier() != 1.5 || got.GetPriority() != 9 ||
		got.GetDelivery() != plaitv1.Delivery_DELIVERY_AT_MOST_ONCE ||
		got.GetRateLimit().GetLimit() != 9007199254740993 {
		t.Errorf("%v", got)
	}
	codes := got.GetRetry().GetNonRetryableCodes()
	if len(codes) != 2 || codes[0] != code.Code_INTERNAL || codes[1] != code.Code_UNKNOWN {
		t.Errorf("codes %v", codes)
	}
	if got.IdempotencyKey == nil {
		t.Error("a key that is set to nothing is not set")
	}
}

func TestOverlay_ListsAreReplacedAndAnchorsFollowed(t *testing.T) {
	t.Parallel()
	set := echoSet()
	text := []byte(`
services:
  testing.v1.EchoService:
    task_defaults: &shared {queue: a, retry: {retryable_codes: [ABORTED]}}
    methods: {Inspect: {task: *shared}}
`)
	for range 2 {
		if err := overlay(set, []string{echoService}, "p.yaml", text); err != nil {
			t.Fatal(err)
		}
	}
	service := set.GetFile()[0].GetService()[0]
	for name, option := range map[string]any{
		"defaults": proto.GetExtension(service.GetOptions(), plaitv1.E_TaskDefaults),
		"method":   proto.GetExtension(service.GetMethod()[6].GetOptions(), plaitv1.E_Task),
	} {
		policy, ok := option.(*plaitv1.TaskPolicy)
		if !ok || policy.GetQueue() != "a" || len(policy.GetRetry().GetRetryableCodes()) != 1 {
			t.Errorf("%s: %v", name, policy)
		}
	}
}

func TestOverlay_WhatCannotBeReadIsNamed(t *testing.T) {
	t.Parallel()
	task := func(text string) string {
		return "services:\n testing.v1.EchoService:\n  methods:\n   Echo:\n    task:\n     " + text
	}
	const path = "p.yaml:6: services.testing.v1.EchoService.methods.Echo.task."
	for _, c := range []struct{ text, want string }{
		{"", "p.yaml is empty"},
		{"services: [", "p.yaml: yaml: "},
		{"services: 1", "p.yaml:1: services is no mapping; known in it: testing."},
		{"service: {}", "p.yaml:1: service is not known; known here: services"},
		{"services: {other.S: {}}", "1: services.other.S is not known; known here: testing."},
		{task("que: a"), path + "que is not known; known here: queue, "},
		{task("queue: 7"), path + "queue is 7, which is no text; put it in quotes"},
		{task("queue: ~"), path + "queue is no value of kind string"},
		{task("queue: {a: b}"), path + "queue is no value of kind string"},
		{task("queue: a\n     queue: b"), "task.queue is there twice"},
		{task("priority: high"), path + `priority is "high", not a value of kind int32`},
		{task("priority: 3000000000"), path + `priority is "3000000000", not a value of kind int32`},
		{task("deadline: 10"), path + "deadline is no duration such as 250ms, 10s, 5m or 1h"},
		{task("deadline: {hours: 1}"), path + "deadline.hours is not known; known here: seconds, nanos"},
		{task("delivery: ONCE"), path + `delivery is "ONCE"; known here: DELIVERY_UNSPECIFIED, `},
		{task("retry: 3"), path + "retry is no mapping; known in it: max_attempts, "},
		{task("retry: {retryable_codes: ABORTED}"), path + "retry.retryable_codes is no list"},
		{task("dead_letter: {enabled: yes please}"), path + "dead_letter.enabled is "},
	} {
		err := overlay(echoSet(), []string{echoService}, "p.yaml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n got: %v\nwant: %s", c.text, err, c.want)
		}
	}
}

func TestOverlay_EveryProblemIsTold(t *testing.T) {
	t.Parallel()
	text := []byte("services: {testing.v1.EchoService: {task_defaults: {one: 1, two: 2}}}")
	err := overlay(echoSet(), []string{echoService}, "p.yaml", text)
	if err == nil || !strings.Contains(err.Error(), ".one ") || !strings.Contains(err.Error(), ".two ") {
		t.Errorf("%v", err)
	}
}
