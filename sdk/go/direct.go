package plait

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// DirectChannel is a grpc.ClientConnInterface: hand it to the generated NewXClient function. A call
// through it goes straight to a live worker that listens: no queue, and no record of it.
//
// Workers are found as xds:///package.Service at the scheduler, with the contract's retries, limits,
// ejection and longest time; calls go on while the scheduler is away. Every call has a deadline: that of
// its context less a margin for the hop, default 30 s, at most 300 s. UNAVAILABLE where nobody serves
// the method; FAILED_PRECONDITION in a program without the package plait.dev/plait/xds.
type DirectChannel struct {
	client *Client
}

var _ grpc.ClientConnInterface = (*DirectChannel)(nil)

// Direct is what a generated stub takes for calls that are no tasks. The program imports
// plait.dev/plait/xds for it.
func (c *Client) Direct() *DirectChannel { return &DirectChannel{client: c} }

// NewStream refuses, as a durable channel does, so that a service can be used under both. Its error
// is UNIMPLEMENTED.
func (d *DirectChannel) NewStream(
	_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return nil, status.Errorf(codes.Unimplemented,
		"%s is a streaming method; a worker serves methods of one request and one response", method)
}

// Invoke is called by the generated stub.
func (d *DirectChannel) Invoke(
	ctx context.Context, path string, args, reply any, options ...grpc.CallOption,
) error {
	ctx, cancel, err := withDeadline(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	ctx, span := d.client.startCallSpan(ctx, path)
	err = d.invoke(withTrace(ctx), path, args, reply, options)
	endCallSpan(span, err)
	return err
}

func (d *DirectChannel) invoke(
	ctx context.Context, path string, args, reply any, options []grpc.CallOption,
) error {
	service, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	conn, release, err := d.client.callees.find(ctx, service)
	if err != nil {
		return err
	}
	defer release()
	return conn.Invoke(ctx, path, args, reply, options...)
}

// withDeadline gives a call its deadline. Its error is DEADLINE_EXCEEDED, for one that is not worth
// sending.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc, error) {
	var left *int64
	if deadline, ok := ctx.Deadline(); ok {
		ms := time.Until(deadline).Milliseconds()
		left = &ms
	}
	timeoutMs, ok := DefaultDeadlinePolicy().TimeoutMs(left, nil)
	if !ok {
		return nil, nil, status.Error(codes.DeadlineExceeded, "too little time is left for a call")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(timeoutMs)*time.Millisecond)
	return ctx, cancel, nil
}

// withTrace adds the context's trace to what is sent, unless the caller has said one.
func withTrace(ctx context.Context) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	if out, ok := metadata.FromOutgoingContext(ctx); ok && len(out.Get(traceparent)) > 0 {
		return ctx
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	pairs := make([]string, 0, 2*len(carrier))
	for key, value := range carrier {
		pairs = append(pairs, key, value)
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}
