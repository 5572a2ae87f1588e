package plait

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

const someTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// listening is a worker that listens, and a stub for its port.
func listening(
	t *testing.T, s *script,
	echo func(context.Context, *testingv1.EchoRequest) (*testingv1.EchoResponse, error),
	options ...WorkerOption,
) (working, testingv1.EchoServiceClient, *attachLine) {
	t.Helper()
	w := startWorker(t, s, echo, append(options, WithListen("127.0.0.1:0"))...)
	l, hello := s.attached(t, time.Minute)
	if hello.GetEndpoint() == "" || hello.GetEndpoint() != w.worker.Endpoint() {
		t.Fatalf("hello = %v, endpoint = %q", hello, w.worker.Endpoint())
	}
	conn, err := grpc.NewClient(hello.GetEndpoint(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return w, testingv1.NewEchoServiceClient(conn), l
}

func TestListener_ServesWhatTheWorkerServes(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	seen := make(chan trace.SpanContext, 1)
	_, stub, _ := listening(t, s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			seen <- trace.SpanContextFromContext(ctx)
			return same(ctx, r)
		}, WithMethods("Echo"))
	ctx := metadata.AppendToOutgoingContext(t.Context(), traceparent, someTrace)
	answer, err := stub.Echo(ctx, request("a"))
	if err != nil || string(answer.GetPayload()) != "a" {
		t.Fatalf("answer = %v, %v", answer, err)
	}
	if found := <-seen; !strings.Contains(someTrace, found.TraceID().String()) {
		t.Errorf("the handler's trace is %v", found.TraceID())
	}
	_, err = stub.Fail(t.Context(), &testingv1.FailRequest{})
	wantCode(t, err, codes.Unimplemented, 0)
}

func TestListener_AWorkerListensNowhereByDefault(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	w := startWorker(t, s, same)
	if _, hello := s.attached(t, time.Minute); hello.GetEndpoint() != "" || w.worker.Endpoint() != "" {
		t.Fatalf("hello = %v", hello)
	}
}

func TestListener_ListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	for address, why := range map[string]string{
		"0.0.0.0:0": "not on loopback", "192.0.2.1:80": "not on loopback",
		"localhost:0": "not an IP address", "127.0.0.1": "not an IP address",
	} {
		w := connect(t, s.address).Worker(WithoutSignals(), WithListen(address))
		testingv1.RegisterEchoServiceServer(w, handlers{echo: same})
		if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: err = %v", address, err)
		}
	}
}

func TestListener_CallsOverTheSlotsAreRefused(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	begun, over := make(chan struct{}), make(chan struct{})
	_, stub, _ := listening(t, s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			close(begun)
			<-over
			return same(ctx, r)
		}, WithConcurrency(1))
	ctx := t.Context()
	first := begin(func() (*testingv1.EchoResponse, error) { return stub.Echo(ctx, request("a")) })
	<-begun
	_, err := stub.Echo(ctx, request("b"))
	wantCode(t, err, codes.ResourceExhausted, 0)
	close(over)
	if answer := next(t, first); answer.err != nil {
		t.Fatal(answer.err)
	}
}

func TestListener_APanicEndsItsCallAlone(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	_, stub, _ := listening(t, s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			if string(r.GetPayload()) == "bad" {
				panic("as told")
			}
			return same(ctx, r)
		})
	_, err := stub.Echo(t.Context(), request("bad"))
	wantCode(t, err, codes.Unknown, 0)
	if _, err := stub.Echo(t.Context(), request("good")); err != nil {
		t.Fatal(err)
	}
}

func TestListener_CallsUnderWayEndWellWhenTheWorkerStops(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	begun, over := make(chan struct{}), make(chan struct{})
	w, stub, l := listening(t, s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			close(begun)
			<-over
			return same(ctx, r)
		})
	ctx := t.Context()
	call := begin(func() (*testingv1.EchoResponse, error) { return stub.Echo(ctx, request("a")) })
	<-begun
	w.worker.Stop()
	until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetDrain() != nil })
	close(over)
	if answer := next(t, call); answer.err != nil {
		t.Fatal(answer.err)
	}
	if ran := next(t, w.ran); ran.err != nil {
		t.Fatal(ran.err)
	}
}

func TestListener_ADrainingWorkerThatAttachesAgainIsNotAnnounced(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	begun := make(chan struct{})
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	w, _, l := listening(t, s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			close(begun)
			<-over
			return same(ctx, r)
		})
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	<-begun
	w.worker.Stop()
	until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetDrain() != nil })
	l.stop(t, status.Error(codes.Unavailable, "broken"))
	if _, hello := s.attached(t, time.Minute); hello.GetEndpoint() != "" {
		t.Fatalf("hello = %v", hello)
	}
}

func TestListener_ASecondStopMeansNow(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	begun := make(chan struct{})
	w, stub, _ := listening(t, s,
		func(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			close(begun)
			<-ctx.Done()
			return nil, ctx.Err()
		})
	ctx := t.Context()
	call := begin(func() (*testingv1.EchoResponse, error) { return stub.Echo(ctx, request("a")) })
	<-begun
	w.worker.Stop()
	w.worker.Stop()
	if answer := next(t, call); answer.err == nil {
		t.Fatal("the call ended well")
	}
	next(t, w.ran)
}

func TestDirect_NeedsThePackageXDS(t *testing.T) {
	t.Parallel()
	stub := testingv1.NewEchoServiceClient(connect(t, "127.0.0.1:1").Direct())
	_, err := stub.Echo(t.Context(), request("a"))
	wantCode(t, err, codes.FailedPrecondition, 0)
	if !strings.Contains(err.Error(), "plait.dev/plait/xds") {
		t.Errorf("err = %v", err)
	}
}

func TestDirect_WithoutTimeNothingIsSent(t *testing.T) {
	t.Parallel()
	stub := testingv1.NewEchoServiceClient(connect(t, "127.0.0.1:1").Direct())
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := stub.Echo(ctx, request("a"))
	wantCode(t, err, codes.DeadlineExceeded, 0)
}

func TestDirect_EveryCallHasADeadline(t *testing.T) {
	t.Parallel()
	for _, given := range []time.Duration{0, 10 * time.Second, time.Hour} {
		ctx := t.Context()
		want := 30 * time.Second
		if given > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, given)
			defer cancel()
			want = min(given, 300*time.Second)
		}
		ctx, cancel, err := withDeadline(ctx, 300_000)
		if err != nil {
			t.Fatal(err)
		}
		defer cancel()
		deadline, _ := ctx.Deadline()
		if left := time.Until(deadline); left > want || left < want-5*time.Second {
			t.Errorf("with %v a call has %v", given, left)
		}
	}
}

func TestDirect_TheCallerSTraceWins(t *testing.T) {
	t.Parallel()
	ctx := withIncomingTrace(metadata.NewIncomingContext(t.Context(),
		metadata.Pairs(traceparent, someTrace)))
	out, _ := metadata.FromOutgoingContext(withTrace(ctx))
	if got := out.Get(traceparent); len(got) != 1 || got[0] != someTrace {
		t.Errorf("sent %v", got)
	}
	said := metadata.AppendToOutgoingContext(ctx, traceparent, "another")
	out, _ = metadata.FromOutgoingContext(withTrace(said))
	if got := out.Get(traceparent); len(got) != 1 || got[0] != "another" {
		t.Errorf("sent %v", got)
	}
}

func TestDirect_RefusesStreams(t *testing.T) {
	t.Parallel()
	direct := connect(t, "127.0.0.1:1").Direct()
	_, err := direct.NewStream(t.Context(), &grpc.StreamDesc{}, "/s.S/M")
	wantCode(t, err, codes.Unimplemented, 0)
}
