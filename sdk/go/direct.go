package plait

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// DirectChannel is a grpc.ClientConnInterface: hand it to the generated NewXClient function. A call
// through it goes straight to a live worker that listens: no queue, and no record of it.
//
// Workers are found as xds:///package.Service at the scheduler, which leaves out those that fail; calls
// go on while the scheduler is away. Every call has a deadline, for all of its attempts: that of its
// context less a margin for the hop, default 30 s, at most 300 s and the policy's attempt_timeout. What
// fails is tried again, given a rest and bounded as the contract says, or a [DirectOption] does.
// UNAVAILABLE where nobody serves the method, and with BREAKER_OPEN while it is given a rest;
// RESOURCE_EXHAUSTED with QUEUE_FULL where too many calls wait; FAILED_PRECONDITION in a program without
// the package plait.dev/plait/xds.
type DirectChannel struct {
	client  *Client
	options []DirectOption
	guards  *guards

	mu sync.Mutex
	// What holds for the methods that were called.
	rules map[string]*callRules
}

var _ grpc.ClientConnInterface = (*DirectChannel)(nil)

// Direct is what a generated stub takes for calls that are no tasks. The program imports
// plait.dev/plait/xds for it. Channels share what they count, but for options that say otherwise.
func (c *Client) Direct(options ...DirectOption) *DirectChannel {
	d := &DirectChannel{
		client: c, options: options, guards: c.guards, rules: map[string]*callRules{},
	}
	for _, each := range options {
		if _, own := each.(channelOption); own {
			d.guards = newGuards()
		}
	}
	return d
}

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
	common := d.rulesOf(path)
	rules, passed, wanted := common.forCall(options)
	ctx, cancel, err := withDeadline(ctx, rules.timeoutMs)
	if err != nil {
		return wanted.finish(&ended{err: err})
	}
	defer cancel()
	ctx, span := d.client.startCallSpan(ctx, path)
	c := &calling{
		path: path, args: args, reply: reply, options: passed, guard: d.guards.of(path, common),
		rules: rules, span: span,
	}
	found, err := d.invoke(withTrace(ctx), c)
	if err != nil {
		found = &ended{err: err}
	}
	endCallSpan(span, found.err)
	return wanted.finish(found)
}

func (d *DirectChannel) invoke(ctx context.Context, c *calling) (*ended, error) {
	service, _, _ := strings.Cut(strings.TrimPrefix(c.path, "/"), "/")
	conn, release, err := d.client.callees.find(ctx, service)
	if err != nil {
		return nil, err
	}
	defer release()
	c.conn = conn
	deadline, _ := ctx.Deadline()
	c.endMs = clockMs(deadline)
	return c.run(ctx)
}

// rulesOf is what holds for a method's calls, without what is said of one call.
func (d *DirectChannel) rulesOf(path string) *callRules {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := d.rules[path]
	if found == nil {
		found = rulesOf(d.client.descriptors, path)
		for _, each := range d.options {
			each.applyDirect(found)
		}
		d.rules[path] = found
	}
	return found
}

// wantedOfCall is what a caller wants to be told of the attempt that decides.
type wantedOfCall struct {
	header, trailer []*metadata.MD
	peer            []*peer.Peer
	onFinish        []func(error)
}

// forCall takes the options of one call apart: ours change the rules, what is to be told is told once,
// and gRPC gets the others with each attempt.
func (r *callRules) forCall(
	options []grpc.CallOption,
) (rules *callRules, passed []grpc.CallOption, wanted wantedOfCall) {
	rules = r
	for _, option := range options {
		switch o := option.(type) {
		case DirectCallOption:
			own := *rules
			rules = &own
			o.apply(rules)
		case grpc.HeaderCallOption:
			wanted.header = append(wanted.header, o.HeaderAddr)
		case grpc.TrailerCallOption:
			wanted.trailer = append(wanted.trailer, o.TrailerAddr)
		case grpc.PeerCallOption:
			wanted.peer = append(wanted.peer, o.PeerAddr)
		case grpc.OnFinishCallOption:
			wanted.onFinish = append(wanted.onFinish, o.OnFinish)
		default:
			passed = append(passed, option)
		}
	}
	return rules, passed, wanted
}

// finish tells, and answers the call's error.
func (w *wantedOfCall) finish(found *ended) error {
	for _, each := range w.header {
		*each = found.header
	}
	for _, each := range w.trailer {
		*each = found.trailer
	}
	for _, each := range w.peer {
		*each = found.peer
	}
	for _, each := range w.onFinish {
		each(found.err)
	}
	return found.err
}

// withDeadline gives a call its deadline, no later than its policy's. Its error is DEADLINE_EXCEEDED,
// for one that is not worth sending.
func withDeadline(
	ctx context.Context, longestMs int64,
) (context.Context, context.CancelFunc, error) {
	var left *int64
	if deadline, ok := ctx.Deadline(); ok {
		ms := time.Until(deadline).Milliseconds()
		left = &ms
	}
	timeoutMs, ok := DefaultDeadlinePolicy().TimeoutMs(left, &longestMs)
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
