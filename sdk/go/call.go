package plait

import (
	"context"
	"strconv"
	"time"
	"unicode/utf8"

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

// call is one use of a channel: what will be submitted, and what is told to the caller. It lives
// on the stack of Invoke.
type call struct {
	callSettings
	method *method
	// nil when the request came as a Payload.
	message proto.Message
	payload []byte
	// The key that limits group by; "" for none.
	limitKey string
	await    bool
	// The running attempt whose child the task is; nil: none.
	parent *attempt
	span   trace.Span
	// The task's number once it is accepted.
	task    uint64
	trailer metadata.MD
}

// prepare reads everything that a submission needs from the caller's side.
func (call *call) prepare(ctx context.Context, c *Channel, path string, args any) error {
	if err := checkMessage("request", args); err != nil {
		return err
	}
	call.message, _ = args.(proto.Message)
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	m, err := c.client.contracts.resolve(ctx, path)
	if err != nil {
		return err
	}
	call.method = m
	if call.payload, _, err = payloadOf(args, marshalRequest); err != nil {
		return status.Errorf(codes.Internal, "marshal the request: %v", err)
	}
	if !c.detached {
		call.parent = attemptOf(ctx, c.client)
	}
	call.span = c.client.startSubmitSpan(ctx, m)
	return call.readKeys()
}

// readKeys reads the keys that the policy wants and that the caller did not give.
func (call *call) readKeys() (err error) {
	m := call.method
	for _, key := range []string{call.key, call.orderingKey, call.childKey} {
		if !utf8.ValidString(key) {
			return invalid("key", "a key is valid UTF-8")
		}
	}
	call.key, err = call.readKey(call.key, call.hasKey, m.idempotencyKey, "idempotency")
	if err != nil {
		return err
	}
	given, isGiven := call.orderingKey, call.hasOrderingKey
	call.orderingKey, err = call.readKey(given, isGiven, m.orderingKey, "ordering")
	if err != nil {
		return err
	}
	call.limitKey, err = call.readKey("", false, m.limitKey, "limit")
	return err
}

func (call *call) readKey(given string, isGiven bool, path *keyPath, name string) (string, error) {
	if path == nil {
		return given, nil
	}
	if !isGiven {
		text, err := call.keyText(path)
		if err != nil {
			return "", err
		}
		given = text
	}
	if given == "" {
		return "", keyMissing(call.method.path, name, path.path)
	}
	return given, nil
}

func (call *call) keyText(path *keyPath) (string, error) {
	if call.message == nil {
		return path.payloadText(call.payload)
	}
	return path.text(call.message.ProtoReflect())
}

// submission makes what is queued. It may be made twice, when the broker forgot the method.
func (call *call) submission(ctx context.Context) (*submission, error) {
	options, err := call.taskOptions(ctx)
	if err != nil {
		return nil, err
	}
	sub := &submission{
		method: call.method.path, route: call.method.route, payload: call.payload, options: options,
		key: call.key, orderingKey: call.orderingKey, limitKey: call.limitKey,
		await: call.await || call.parent != nil,
	}
	sub.size = len(sub.payload) + len(sub.key) + len(sub.orderingKey) + len(sub.limitKey)
	if options != nil {
		sub.size += metadataBytes(options.GetMetadata()) + len(options.GetParent().GetChildKey())
	}
	sub.wait.parent, sub.wait.soon = call.parent, call.await
	if call.await {
		sub.expires = callerDeadline(ctx, call.parent)
	}
	return sub, nil
}

// callerDeadline is the deadline that a waiting caller set. The deadline of the attempt in which
// it runs is none: a child whose attempt times out goes on for the next one.
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
	plain := len(list) == 0 && call.plain()
	switch {
	case plain && call.parent == nil:
		return nil, nil
	case plain && call.childKey == "":
		return call.parent.childOptions(), nil
	}
	if err := checkMetadata(list); err != nil {
		return nil, err
	}
	options := &plaitv1.TaskOptions{Metadata: list, Parent: call.parent.flowParent()}
	if call.parent != nil {
		options.Parent.ChildKey = call.childKey
	}
	if call.hasPriority {
		options.Priority = proto.Int32(call.priority)
	}
	if call.hasDelay {
		options.Delay = durationpb.New(call.delay)
	}
	if call.hasDeadline {
		options.Deadline = durationpb.New(call.deadline)
	}
	return options, nil
}

// accepted records that the task is durable.
func (call *call) accepted(task uint64) {
	call.task = task
	setTaskID(call.span, task)
}

// result takes what came of the task.
func (call *call) result(w *wait, reply any) error {
	if w.failure != nil {
		call.trailer = trailerOf(w.failure)
		return withTrailer(w.failure)
	}
	return unmarshalResponse(w.payload, reply, call.task)
}

func unmarshalResponse(payload []byte, response any, task uint64) error {
	if err := setPayload(response, payload); err != nil {
		return status.Errorf(codes.Internal, "unmarshal the response of %s: %v", taskID(task), err)
	}
	return nil
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
func (call *call) finish(options []grpc.CallOption, err error) error {
	if call.handle != nil && call.handle.bulk != nil && err == nil {
		call.handle.span = call.span // Ended with the task's acceptance or result.
	} else {
		endSpan(call.span, err)
	}
	for _, option := range options {
		switch o := option.(type) {
		case grpc.HeaderCallOption:
			if call.task != 0 {
				*o.HeaderAddr = metadata.Pairs(keyTaskID, taskID(call.task))
			}
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
	if len(id) == 17 && id[0] == 't' {
		if number, err := strconv.ParseUint(id[1:], 16, 64); err == nil {
			return number, nil
		}
	}
	return 0, invalid("id", "a task id is \"t\" and 16 hexadecimal digits")
}
