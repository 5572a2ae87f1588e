package plait

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// Channel is a grpc.ClientConnInterface: hand it to the generated NewXClient function. A call
// through it is submitted as a durable task and waits for its result. The caller's deadline, if
// any, bounds the wait and becomes the task's deadline; the caller's cancellation ends the wait and
// leaves the task to go on.
//
// A call made with the context of a running attempt is a child of that attempt's task: see
// docs/protocol.md §5.
type Channel struct {
	client   *Client
	detached bool
}

var _ grpc.ClientConnInterface = (*Channel)(nil)

// ChannelOption changes what [Client.Channel] makes by default.
type ChannelOption func(*Channel)

// Detached makes a channel whose calls are ordinary tasks also inside a handler, never children of
// its flow.
func Detached() ChannelOption { return func(c *Channel) { c.detached = true } }

// NewStream refuses: a durable task has one request and one response. Its error is UNIMPLEMENTED.
func (c *Channel) NewStream(
	_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return nil, status.Errorf(codes.Unimplemented,
		"%s is a streaming method; a durable task has one request and one response", method)
}

// Invoke is called by the generated stub.
func (c *Channel) Invoke(
	ctx context.Context, path string, args, reply any, options ...grpc.CallOption,
) error {
	var call call
	call.take(options)
	if call.scheduled != nil {
		return c.schedule(ctx, call.scheduled, path, args)
	}
	err := call.prepare(ctx, c, path, args)
	switch {
	case err != nil:
	case call.handle != nil:
		err = c.submit(ctx, &call)
	default:
		err = c.callAndWait(ctx, &call, reply)
	}
	return call.finish(options, err)
}

// submit fills the caller's handle. Unless it belongs to a bulk submission, it returns once the
// task is accepted.
func (c *Channel) submit(ctx context.Context, call *call) error {
	h := call.handle
	h.client, h.parent = c.client, call.parent
	if h.bulk != nil {
		call.await = h.bulk.await
	}
	return c.untilKnown(ctx, call, func(sub *submission) error {
		h.submission = sub
		if h.bulk != nil && !h.bulk.again {
			return nil
		}
		if err := c.client.session.awaitAccepted(ctx, sub); err != nil {
			return err
		}
		call.accepted(sub.wait.task)
		return nil
	})
}

func (c *Channel) callAndWait(ctx context.Context, call *call, reply any) error {
	if err := checkMessage("response", reply); err != nil {
		return err
	}
	call.await = true
	return c.untilKnown(ctx, call, func(sub *submission) error {
		err := c.client.session.awaitResult(ctx, &sub.wait, sub)
		if sub.accepted.happened() && sub.err == nil {
			call.accepted(sub.wait.task)
		}
		if err != nil {
			return err
		}
		return call.result(&sub.wait, reply)
	})
}

// untilKnown submits, and does so once more when the broker has forgotten the method, because its
// data was wiped.
func (c *Channel) untilKnown(
	ctx context.Context, call *call, outcome func(*submission) error,
) error {
	for again := false; ; again = true {
		sub, err := call.submission(ctx)
		if err != nil {
			return err
		}
		if err := c.client.session.enqueue(sub); err != nil {
			return err
		}
		err = outcome(sub)
		if again || !refusedUnknown(sub) {
			return err
		}
		c.client.contracts.forget(call.method.path)
		if call.method, err = c.client.contracts.resolve(ctx, call.method.path); err != nil {
			return err
		}
	}
}

// refusedUnknown tells a submission that was refused because the broker does not know the method.
func refusedUnknown(sub *submission) bool {
	return sub.accepted.happened() && sub.err != nil &&
		Reason(sub.err) == plaitv1.ErrorReason_ERROR_REASON_METHOD_UNKNOWN
}
