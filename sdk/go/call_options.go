package plait

import (
	"time"

	"google.golang.org/grpc"
)

// callOption is an option of one submission. It is a grpc.CallOption, so it passes through a generated stub.
type callOption struct {
	grpc.EmptyCallOption
	apply func(*callSettings)
}

// callSettings is what the options of one submission say.
type callSettings struct {
	key, orderingKey, childKey *string
	delay, deadline            *time.Duration
	priority                   *int32
	// Set by Submit: the handle to fill; nil for a call that waits for its result.
	handle *handle
	// Set by the bulk functions: queue the task and do not wait for its acceptance.
	pipelined bool
	// Ask for the result with the submission.
	await bool
}

// WithKey sets the idempotency key of a submission, in place of the field that the policy names.
func WithKey(key string) grpc.CallOption {
	return callOption{apply: func(s *callSettings) { s.key = &key }}
}

// WithOrderingKey sets the ordering key of a submission, in place of the field that the policy names.
func WithOrderingKey(key string) grpc.CallOption {
	return callOption{apply: func(s *callSettings) { s.orderingKey = &key }}
}

// WithDelay starts the task no earlier than this after it was accepted. Default 0.
func WithDelay(delay time.Duration) grpc.CallOption {
	return callOption{apply: func(s *callSettings) { s.delay = &delay }}
}

// WithDeadline bounds the whole task, queues and retries included; the shorter of this and the policy's holds. Default: the
// policy's, and for a call that waits also the deadline of its context.
func WithDeadline(deadline time.Duration) grpc.CallOption {
	return callOption{apply: func(s *callSettings) { s.deadline = &deadline }}
}

// WithPriority sets the task's priority, 0 to 9; higher starts first. Default: the policy's.
func WithPriority(priority int32) grpc.CallOption {
	return callOption{apply: func(s *callSettings) { s.priority = &priority }}
}

// WithChildKey names a child among the children of its flow, so that a re-run finds it whatever its request. Default: the
// method, the request and how many equal ones came before. It has no effect outside a flow.
func WithChildKey(key string) grpc.CallOption {
	return callOption{apply: func(s *callSettings) { s.childKey = &key }}
}

func settingsOf(options []grpc.CallOption) callSettings {
	var settings callSettings
	for _, option := range options {
		if own, ok := option.(callOption); ok {
			own.apply(&settings)
		}
	}
	return settings
}

// plain tells options that lead to no TaskOptions.
func (s *callSettings) plain() bool {
	return s.delay == nil && s.deadline == nil && s.priority == nil
}
