package plait

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// attemptKey finds the *attempt in a context.
type attemptKey struct{}

// keyProbe is a context that remembers the key it was asked for.
type keyProbe struct {
	context.Context
	key any
}

func (p *keyProbe) Value(key any) any {
	p.key = key
	return nil
}

// keyOf is the context key that a function asks for. gRPC and OpenTelemetry keep theirs private,
// but a context of our own that answers them spares a wrapper, and the value itself, for each thing
// that a handler may ask for and mostly does not.
func keyOf(ask func(context.Context)) any {
	probe := &keyProbe{}
	ask(probe)
	return probe.key
}

// The keys that gRPC and OpenTelemetry look up.
var (
	incomingKey = keyOf(func(ctx context.Context) { _, _ = metadata.FromIncomingContext(ctx) })
	streamKey   = keyOf(func(ctx context.Context) { grpc.ServerTransportStreamFromContext(ctx) })
	peerKey     = keyOf(func(ctx context.Context) { _, _ = peer.FromContext(ctx) })
	spanKey     = keyOf(func(ctx context.Context) { _ = trace.SpanFromContext(ctx) })
)

var (
	_ context.Context            = (*attempt)(nil)
	_ grpc.ServerTransportStream = (*attempt)(nil)
)

// Deadline is part of context.Context.
func (a *attempt) Deadline() (time.Time, bool) { return a.deadline, !a.deadline.IsZero() }

// Done is part of context.Context.
func (a *attempt) Done() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.done = make(chan struct{})
		if a.err != nil {
			close(a.done)
		}
	}
	return a.done
}

// Err is part of context.Context.
func (a *attempt) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Value is part of context.Context.
func (a *attempt) Value(key any) any {
	if _, ok := key.(attemptKey); ok {
		return a
	}
	switch key {
	case incomingKey:
		return a.incoming()
	case streamKey:
		return a
	case peerKey:
		return a.worker.peer
	case spanKey:
		return a.currentSpan()
	}
	return a.worker.base.Value(key)
}

// currentSpan is the attempt's span, else the one of the submitter as a remote one, so that trace
// context is passed on.
func (a *attempt) currentSpan() trace.Span {
	if a.span != nil {
		return a.span
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.remote == nil {
		remote := remoteSpanContext(a.worker.base, a.extra.GetMetadata())
		a.remote = trace.SpanFromContext(trace.ContextWithRemoteSpanContext(a.worker.base, remote))
	}
	return a.remote
}

// afterEnd is a function to call once the context ended.
type afterEnd struct{ call func() }

// AfterFunc makes the standard library derive contexts without a goroutine for each.
func (a *attempt) AfterFunc(f func()) (stop func() bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		go f()
		return func() bool { return false }
	}
	entry := &afterEnd{call: f}
	if a.after == nil {
		a.after = map[*afterEnd]struct{}{}
	}
	a.after[entry] = struct{}{}
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		_, registered := a.after[entry]
		delete(a.after, entry)
		return registered
	}
}

// end ends the context; only the first call does.
func (a *attempt) end(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
	a.err = err
	if a.done != nil {
		close(a.done)
	}
	for entry := range a.after {
		go entry.call()
	}
	a.after = nil
}

// Method is part of grpc.ServerTransportStream.
func (a *attempt) Method() string { return a.method.path }

// SetHeader is part of grpc.ServerTransportStream. A task has no header to send: the caller may be
// gone, and an outcome carries trailers only, with a failure. It is accepted so that handlers and
// interceptors work as under any gRPC server.
func (a *attempt) SetHeader(metadata.MD) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.headerSent {
		return status.Error(codes.Internal, "the header was sent already")
	}
	return nil
}

// SendHeader is part of grpc.ServerTransportStream; see SetHeader.
func (a *attempt) SendHeader(metadata.MD) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.headerSent {
		return status.Error(codes.Internal, "the header was sent already")
	}
	a.headerSent = true
	return nil
}

// SetTrailer is part of grpc.ServerTransportStream. The trailer reaches the caller with a failure.
func (a *attempt) SetTrailer(md metadata.MD) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trailer = metadata.Join(a.trailer, md)
	return nil
}
