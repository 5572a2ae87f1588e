package plait

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// Method is a method of a generated client, such as c.Charge, whose stub was made with a [Channel].
type Method[Q, R any] = func(context.Context, *Q, ...grpc.CallOption) (*R, error)

// Task is a handle to a durable task. R is the type of its response. It is safe for concurrent use.
type Task[R any] struct {
	handle handle
	// The empty response that the stub made; the first result fills it.
	empty atomic.Pointer[R]
}

// handle is what a Task knows, whatever its response is.
type handle struct {
	client *Client
	// The running flow that asked for the task; nil: none.
	parent *attempt
	number uint64
	// The submission, when this program made it.
	submission *submission
	// The bulk submission that it belongs to; nil: none. Its span is ended there.
	bulk *bulkMode
	span trace.Span
}

// Submit makes a durable task of a method's call and returns its handle once the task is accepted.
// ctx bounds the submission, not the task. Its errors are refusals: KEY_MISSING,
// DUPLICATE_KEY_CONFLICT, METHOD_UNKNOWN and the like (see [Reason]); or ctx's.
func Submit[Q, R any](
	ctx context.Context, m Method[Q, R], request *Q, options ...grpc.CallOption,
) (*Task[R], error) {
	task := &Task[R]{}
	fill := &callOption{kind: asHandle, handle: &task.handle}
	response, err := m(ctx, request, append(options[:len(options):len(options)], fill)...)
	if err != nil {
		return nil, err
	}
	if task.handle.client == nil {
		return nil, errNoChannel
	}
	task.handle.number = task.handle.submission.wait.task
	task.empty.Store(response)
	return task, nil
}

var errNoChannel = status.Error(codes.InvalidArgument,
	"the stub was not made with a plait channel: pass Client.Channel() to its New function")

// TaskOf is the handle of a task that was submitted elsewhere, by its id. It does not ask whether
// the task exists.
func TaskOf[R any](c *Client, id string) (*Task[R], error) {
	number, err := taskNumber(id)
	if err != nil {
		return nil, err
	}
	return &Task[R]{handle: handle{client: c, number: number}}, nil
}

// ID is the task's id: "t" and 16 hexadecimal digits.
func (t *Task[R]) ID() string { return taskID(t.handle.number) }

// Result waits until the task is final and returns its response, or its handler's error unchanged.
// A cancelled task gives CANCELLED (TASK_CANCELLED), an expired one DEADLINE_EXCEEDED
// (TASK_EXPIRED). The end of ctx ends the wait, not the task.
func (t *Task[R]) Result(ctx context.Context) (*R, error) {
	response := t.empty.Swap(nil)
	if response == nil {
		response = new(R)
	}
	message, ok := any(response).(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "%T is not a protobuf message", response)
	}
	w, err := t.handle.result(ctx)
	if err != nil {
		return nil, err
	}
	if w.failure != nil {
		return nil, withTrailer(w.failure)
	}
	if err := unmarshalResponse(w.payload, message, t.handle.number); err != nil {
		return nil, err
	}
	return response, nil
}

func (h *handle) result(ctx context.Context) (*wait, error) {
	session := h.client.session
	if sub := h.submission; sub != nil && sub.await {
		if err := session.awaitResult(ctx, &sub.wait, sub); !errors.Is(err, errLeft) {
			return &sub.wait, err
		}
	}
	w := &wait{task: h.number, parent: h.parent}
	if err := session.await(w); err != nil {
		return nil, err
	}
	return w, session.awaitResult(ctx, w, nil)
}

// Watch yields the task as it is now and after each change, until it is final. The broker's trouble
// ends it with an error.
func (t *Task[R]) Watch(ctx context.Context) iter.Seq2[*plaitv1.Task, error] {
	return func(yield func(*plaitv1.Task, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := t.handle.client.tasks.WatchTask(ctx, &plaitv1.WatchTaskRequest{Id: t.ID()})
		for err == nil {
			var change *plaitv1.WatchTaskResponse
			if change, err = stream.Recv(); err == nil && !yield(change.GetTask(), nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, err)
		}
	}
}

// State is where the task is now.
func (t *Task[R]) State(ctx context.Context) (plaitv1.TaskState, error) {
	answer, err := t.handle.client.tasks.GetTask(ctx, &plaitv1.GetTaskRequest{Id: t.ID()})
	if err != nil {
		return plaitv1.TaskState_TASK_STATE_UNSPECIFIED, err
	}
	return answer.GetTask().GetState(), nil
}

// Cancel cancels the task and returns the state it has then: CANCELLED, or a final state that won
// the race. A task that has not started never will; a running handler's context ends.
func (t *Task[R]) Cancel(ctx context.Context) (plaitv1.TaskState, error) {
	answer, err := t.handle.client.tasks.CancelTask(ctx, &plaitv1.CancelTaskRequest{Id: t.ID()})
	if err != nil {
		return plaitv1.TaskState_TASK_STATE_UNSPECIFIED, err
	}
	return answer.GetTask().GetState(), nil
}
