package plait

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// Requests are serialized deterministically: a flow's child is matched by its bytes.
var marshalRequest = proto.MarshalOptions{Deterministic: true}

// call is one use of a channel: what will be submitted, and what is told to the caller.
type call struct {
	callSettings
	method  *method
	options []grpc.CallOption
	message proto.Message
	payload []byte
	// The running attempt whose child the task is; nil: none.
	parent *attempt
	span   trace.Span
	// The task's number once it is accepted.
	task    uint64
	trailer metadata.MD
}

// newCall prepares a call. The call is never nil, so that whoever gets the error can finish it.
func (c *Channel) newCall(ctx context.Context, path string, args any, options []grpc.CallOption) (*call, error) {
	call := &call{callSettings: settingsOf(options), options: options}
	message, ok := args.(proto.Message)
	if !ok {
		return call, status.Errorf(codes.Internal, "the request is a %T, not a protobuf message", args)
	}
	call.message = message
	if err := ctx.Err(); err != nil {
		return call, status.FromContextError(err).Err()
	}
	m, err := c.client.contracts.resolve(ctx, path)
	if err != nil {
		return call, err
	}
	call.method = m
	if call.payload, err = marshalRequest.Marshal(message); err != nil {
		return call, status.Errorf(codes.Internal, "marshal the request: %v", err)
	}
	if !c.detached {
		call.parent = attemptOf(ctx, c.client)
	}
	call.span = c.client.startSubmitSpan(ctx, m)
	return call, call.setKeys()
}

// setKeys reads the keys that the policy wants and that the caller did not give.
func (call *call) setKeys() error {
	if err := call.setKey(&call.key, call.method.idempotencyKey, "idempotency"); err != nil {
		return err
	}
	return call.setKey(&call.orderingKey, call.method.orderingKey, "ordering")
}

func (call *call) setKey(key **string, path *keyPath, name string) error {
	if *key == nil && path != nil {
		text, err := path.text(call.message.ProtoReflect())
		if err != nil {
			return err
		}
		*key = &text
	}
	if path != nil && **key == "" {
		return keyMissing(call.method.path, name, path.path)
	}
	return nil
}

// submission makes what is queued. It may be made twice, when the broker forgot the method.
func (call *call) submission(ctx context.Context) (*submission, error) {
	sub := &submission{method: call.method.path, payload: call.payload, await: call.await || call.parent != nil}
	sub.wait.parent = call.parent
	if call.key != nil {
		sub.key = *call.key
	}
	if call.orderingKey != nil {
		sub.orderingKey = *call.orderingKey
	}
	if call.handle == nil {
		sub.expires = callerDeadline(ctx, call.parent)
	}
	var err error
	sub.options, err = call.taskOptions(ctx)
	return sub, err
}

// callerDeadline is the deadline that a waiting caller set. The deadline of the attempt in which it runs is none: a child
// whose attempt times out goes on for the next one.
func callerDeadline(ctx context.Context, parent *attempt) time.Time {
	deadline, ok := ctx.Deadline()
	if !ok || (parent != nil && !deadline.Before(parent.deadline)) {
		return time.Time{}
	}
	return deadline
}

// taskOptions is nil when there is nothing to say beyond the request and its keys.
func (call *call) taskOptions(ctx context.Context) (*plaitv1.TaskOptions, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	list := appendTraceContext(ctx, metadatumList(md), call.span)
	if len(list) == 0 && call.plain() && call.parent == nil && call.method.limitKey == nil {
		return nil, nil //nolint:nilnil // no options is a valid answer
	}
	if err := checkMetadata(list); err != nil {
		return nil, err
	}
	options := &plaitv1.TaskOptions{Metadata: list, Priority: call.priority}
	if call.delay != nil {
		options.Delay = durationpb.New(*call.delay)
	}
	if call.deadline != nil {
		options.Deadline = durationpb.New(*call.deadline)
	}
	if call.parent != nil {
		options.Parent = call.parent.flowParent()
		if call.childKey != nil {
			options.Parent.ChildKey = *call.childKey
		}
	}
	if path := call.method.limitKey; path != nil {
		text, err := path.text(call.message.ProtoReflect())
		if err != nil {
			return nil, err
		}
		if text == "" {
			return nil, keyMissing(call.method.path, "limit", path.path)
		}
		options.LimitKey = text
	}
	return options, nil
}

// accepted records that the task is durable.
func (call *call) accepted(task uint64) {
	call.task = task
	setTaskID(call.span, task)
}

// result takes what came of the task.
func (call *call) result(w *wait, reply proto.Message) error {
	if w.failure != nil {
		return call.failed(w.failure)
	}
	if err := proto.Unmarshal(w.payload, reply); err != nil {
		return status.Errorf(codes.Internal, "unmarshal the response of task %s: %v", taskID(call.task), err)
	}
	return nil
}

func (call *call) failed(f *plaitv1.Failure) error {
	call.trailer = trailerOf(f)
	return failureError(f)
}

// trailerOf is the trailing metadata as a gRPC client would see it.
func trailerOf(f *plaitv1.Failure) metadata.MD {
	md := metadatumMap(f.GetTrailers(), 1)
	if len(f.GetDetails()) > 0 {
		md.Set(detailsKey, string(f.GetDetails()))
	}
	return md
}

// finish tells the caller's options and the span how the call ended, and returns err.
func (call *call) finish(err error) error {
	if call.pipelined && err == nil {
		call.handle.span = call.span // Ended with the task's acceptance or result.
	} else {
		endSpan(call.span, err)
	}
	if len(call.options) == 0 {
		return err
	}
	var header metadata.MD
	if call.task != 0 {
		header = metadata.Pairs(keyTaskID, taskID(call.task))
	}
	for _, option := range call.options {
		switch o := option.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = call.trailer
		case grpc.OnFinishCallOption:
			o.OnFinish(err)
		}
	}
	return err
}

// taskID is the text of a task's number: "t" and 16 hexadecimal digits.
func taskID(number uint64) string {
	text := "t0000000000000000"
	digits := strconv.FormatUint(number, 16)
	return text[:len(text)-len(digits)] + digits
}

// taskNumber reads the text of a task's number.
func taskNumber(id string) (uint64, error) {
	if len(id) != 17 || id[0] != 't' {
		return 0, invalid("id", "a task id is \"t\" and 16 hexadecimal digits")
	}
	number, err := strconv.ParseUint(id[1:], 16, 64)
	if err != nil {
		return 0, invalid("id", "a task id is \"t\" and 16 hexadecimal digits")
	}
	return number, nil
}
