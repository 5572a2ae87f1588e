package plait

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// withdrawal is the time between the word that a worker goes and the end of its port. Callers are
// told within some 50 ms of the word; those that were not meet a port that says goodbye, and call
// somebody else.
const withdrawal = time.Second

// registration is a service as the program registered it.
type registration struct {
	desc    *grpc.ServiceDesc
	service any
}

// listener is the port of a worker where its methods are called directly: an ordinary gRPC server.
type listener struct {
	worker *Worker
	// nil for a worker that listens nowhere.
	server *grpc.Server
	// A call holds an element while it runs.
	slots chan struct{}
	// Closed by cut.
	now     chan struct{}
	nowOnce sync.Once
}

// openListener opens the worker's port; for a worker that listens nowhere it does nothing.
func (w *Worker) openListener() (*listener, error) {
	if w.listen == "" {
		return &listener{}, nil
	}
	address, err := netip.ParseAddrPort(w.listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: not an IP address and a port: %w", w.listen, err)
	}
	if !address.Addr().IsLoopback() {
		return nil, fmt.Errorf(
			"listen on %s: not on loopback; there is no transport security yet", w.listen)
	}
	port, err := (&net.ListenConfig{}).Listen(w.base, "tcp", w.listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", w.listen, err)
	}
	l := &listener{
		worker: w, slots: make(chan struct{}, w.slots), now: make(chan struct{}),
	}
	l.server = grpc.NewServer(grpc.UnaryInterceptor(l.intercept), grpc.MaxRecvMsgSize(64<<20))
	for _, each := range w.registrations {
		l.server.RegisterService(each.served(w.only), each.service)
	}
	w.setEndpoint(port.Addr().String())
	go func() {
		if err := l.server.Serve(port); err != nil {
			w.log.Error("the port of direct calls is closed", "worker", w.id, "error", err)
		}
	}()
	return l, nil
}

// served is the description without the methods that the worker does not serve.
func (r registration) served(only []string) *grpc.ServiceDesc {
	if len(only) == 0 {
		return r.desc
	}
	desc := *r.desc
	desc.Methods = slices.DeleteFunc(slices.Clone(desc.Methods), func(m grpc.MethodDesc) bool {
		return !slices.Contains(only, m.MethodName)
	})
	return &desc
}

// leave withdraws the endpoint and goes on for a moment, since callers are only being told, then
// ends with the calls under way. What is returned is closed when it has ended.
func (l *listener) leave() <-chan struct{} {
	gone := make(chan struct{})
	if l.server == nil {
		close(gone)
		return gone
	}
	go func() {
		defer close(gone)
		told := time.NewTimer(withdrawal)
		defer told.Stop()
		select {
		case <-told.C:
		case <-l.now:
		}
		l.server.GracefulStop()
	}()
	return gone
}

// cut ends it now.
func (l *listener) cut() {
	if l.server == nil {
		return
	}
	l.nowOnce.Do(func() { close(l.now) })
	l.server.Stop()
}

// intercept gives a handler what it has when it runs for a task: the caller's trace, the feature
// flags, the worker's interceptors, and a panic that ends the call alone. Calls over the worker's slots are refused with
// RESOURCE_EXHAUSTED.
func (l *listener) intercept(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (answer any, err error) {
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	default:
		return nil, status.Errorf(codes.ResourceExhausted,
			"%d calls are under way, which is all that this worker takes", cap(l.slots))
	}
	w := l.worker
	ctx, span := w.client.startServedSpan(withIncomingTrace(ctx), info.FullMethod)
	defer func() { endCallSpan(span, err) }()
	ctx = context.WithValue(ctx, flagsKey{}, w.flags.now())
	ctx, made := withMark(ctx)
	defer func() { made.tell(ctx, err) }()
	defer func() {
		if cause := recover(); cause != nil {
			w.log.ErrorContext(ctx, "handler panicked",
				"method", info.FullMethod, "panic", cause, "stack", string(debug.Stack()))
			answer, err = nil, status.Errorf(codes.Unknown, "the handler panicked: %v", cause)
		}
	}()
	if w.interceptor != nil {
		return w.interceptor(ctx, req, info, handler)
	}
	return handler(ctx, req)
}

// withIncomingTrace continues the caller's trace.
func withIncomingTrace(ctx context.Context) context.Context {
	in, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return ctx
	}
	carrier := propagation.MapCarrier{}
	for _, key := range []string{traceparent, tracestate} {
		if values := in.Get(key); len(values) > 0 {
			carrier[key] = values[0]
		}
	}
	return propagation.TraceContext{}.Extract(ctx, carrier)
}
