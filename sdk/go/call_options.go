package plait

import (
	"time"

	"google.golang.org/grpc"
)

// callOption is an option of one submission. It is a grpc.CallOption, so it passes through a
// generated stub.
type callOption struct {
	grpc.EmptyCallOption
	kind     optionKind
	text     string
	duration time.Duration
	number   int32
	// For asHandle: the handle to fill.
	handle *handle
	// For asSchedule: what is to be filled in.
	scheduled *scheduled
}

type optionKind uint8

const (
	optionKey optionKind = iota
	optionOrderingKey
	optionChildKey
	optionDelay
	optionDeadline
	optionPriority
	// The call submits and fills a handle.
	asHandle
	// The call submits nothing: it tells what it would submit.
	asSchedule
)

// WithKey sets the idempotency key of a submission, in place of the field that the policy names.
func WithKey(key string) grpc.CallOption { return &callOption{kind: optionKey, text: key} }

// WithOrderingKey sets the ordering key of a submission, in place of the field that the policy
// names.
func WithOrderingKey(key string) grpc.CallOption {
	return &callOption{kind: optionOrderingKey, text: key}
}

// WithDelay starts the task no earlier than this after it was accepted. Default 0.
func WithDelay(delay time.Duration) grpc.CallOption {
	return &callOption{kind: optionDelay, duration: delay}
}

// WithDeadline bounds the whole task, queues and retries included; the shorter of this and the
// policy's holds. Default: the policy's, and for a call that waits also the deadline of its
// context.
func WithDeadline(deadline time.Duration) grpc.CallOption {
	return &callOption{kind: optionDeadline, duration: deadline}
}

// WithPriority sets the task's priority, 0 to 9; higher starts first. Default: the policy's.
func WithPriority(priority int32) grpc.CallOption {
	return &callOption{kind: optionPriority, number: priority}
}

// WithChildKey names a child among the children of its flow, so that a re-run finds it whatever
// its request. Default: the method, the request and how many equal ones came before. It has no
// effect outside a flow.
func WithChildKey(key string) grpc.CallOption {
	return &callOption{kind: optionChildKey, text: key}
}

// callSettings is what the options of one submission say.
type callSettings struct {
	// "" with its flag set means that the caller wants no key.
	key, orderingKey, childKey string
	hasKey, hasOrderingKey     bool
	delay, deadline            time.Duration
	hasDelay, hasDeadline      bool
	priority                   int32
	hasPriority                bool
	// nil for a call that waits for its result.
	handle *handle
	// nil for a call that is not to be scheduled.
	scheduled *scheduled
}

func (s *callSettings) take(options []grpc.CallOption) {
	for _, option := range options {
		own, ok := option.(*callOption)
		if !ok {
			continue
		}
		switch own.kind {
		case optionKey:
			s.key, s.hasKey = own.text, true
		case optionOrderingKey:
			s.orderingKey, s.hasOrderingKey = own.text, true
		case optionChildKey:
			s.childKey = own.text
		case optionDelay:
			s.delay, s.hasDelay = own.duration, true
		case optionDeadline:
			s.deadline, s.hasDeadline = own.duration, true
		case optionPriority:
			s.priority, s.hasPriority = own.number, true
		case asHandle:
			s.handle = own.handle
		case asSchedule:
			s.scheduled = own.scheduled
		}
	}
}

// plain tells options that lead to no TaskOptions.
func (s *callSettings) plain() bool { return !s.hasDelay && !s.hasDeadline && !s.hasPriority }
