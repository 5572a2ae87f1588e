package plait

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// traced is a client, its stub and worker whose spans are recorded.
func traced(
	t *testing.T, s *script,
	echo func(context.Context, *testingv1.EchoRequest) (*testingv1.EchoResponse, error),
) (testingv1.EchoServiceClient, *tracetest.SpanRecorder, trace.Tracer) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	client, err := Connect(t.Context(), WithAddress(s.address), WithTracerProvider(provider),
		WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	w := client.Worker(WithoutSignals())
	runWorker(t, s, w, handlers{echo: echo})
	return testingv1.NewEchoServiceClient(client.Channel()), recorder, provider.Tracer("test")
}

func attributes(span sdktrace.ReadOnlySpan) map[attribute.Key]string {
	found := map[attribute.Key]string{}
	for _, kv := range span.Attributes() {
		found[kv.Key] = kv.Value.String()
	}
	return found
}

func wantAttributes(t *testing.T, span sdktrace.ReadOnlySpan, want map[attribute.Key]string) {
	t.Helper()
	if got := attributes(span); !maps.Equal(got, want) {
		t.Errorf("attributes of %s:\n got %v\nwant %v", span.Name(), got, want)
	}
}

func TestTrace_SubmitAndAttemptAreOneTrace(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	var inner trace.SpanContext
	c, recorder, tracer := traced(t, s,
		func(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			inner = trace.SpanContextFromContext(ctx)
			return nil, status.Error(codes.NotFound, "nothing there")
		})
	worker, _ := s.attached(t, time.Minute)
	ctx, caller := tracer.Start(t.Context(), "caller")
	call := begin(func() (*testingv1.EchoResponse, error) { return c.Echo(ctx, request("a")) })
	l, _ := s.welcome(t, 0)
	md := frameOf(t, l).GetTasks().GetCommon().GetMetadata()
	acceptTasks(t, l, 1, 7)
	f := echoAttempt(t, 1, 7, 70, "a")
	f.Extras = []*plaitv1.AttemptExtra{{Attempt: 2, Metadata: md}}
	assign(t, worker, f)
	failure := outcomesFrom(t, worker).GetFailures()[0]
	results(t, l, &plaitv1.ResultFrame{
		Tasks: []uint64{7}, Payloads: [][]byte{nil}, Failures: []*plaitv1.Failure{failure},
	})
	wantCode(t, next(t, call).err, codes.NotFound, noReason)
	caller.End()
	spans := recorder.Ended()
	if len(spans) != 3 {
		t.Fatalf("%d spans", len(spans))
	}
	attempt, submit := spans[0], spans[1]
	if submit.Name() != "submit testing.v1.EchoService/Echo" ||
		submit.SpanKind() != trace.SpanKindProducer ||
		submit.Parent().SpanID() != caller.SpanContext().SpanID() {
		t.Errorf("submit = %v", submit)
	}
	if attempt.Name() != "attempt testing.v1.EchoService/Echo" ||
		attempt.SpanKind() != trace.SpanKindConsumer ||
		attempt.Parent().SpanID() != submit.SpanContext().SpanID() ||
		!attempt.Parent().IsRemote() ||
		inner.SpanID() != attempt.SpanContext().SpanID() {
		t.Errorf("attempt = %v", attempt)
	}
	for _, span := range spans[:2] {
		want := sdktrace.Status{Code: otelcodes.Error, Description: "nothing there"}
		if span.Status() != want ||
			span.SpanContext().TraceID() != caller.SpanContext().TraceID() {
			t.Errorf("%s: %v, %v", span.Name(), span.Status(), span.SpanContext())
		}
	}
	wantAttributes(t, submit, map[attribute.Key]string{
		"messaging.system": "plait", "messaging.operation.type": "send",
		"messaging.destination.name": "echo",
		"messaging.message.id":       "t0000000000000007",
	})
	wantAttributes(t, attempt, map[attribute.Key]string{
		"messaging.system": "plait", "messaging.operation.type": "process",
		"messaging.destination.name": "echo", "messaging.message.id": "t0000000000000007",
		"plait.attempt.number": "2", "rpc.system.name": "grpc",
		"rpc.method": "testing.v1.EchoService/Echo", "rpc.status_code": "5",
	})
}

func TestTrace_ChildsSubmitIsBelowTheAttempt(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	var c testingv1.EchoServiceClient
	ready := make(chan struct{})
	c, recorder, _ := traced(t, s,
		func(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			<-ready
			one := slices.Values([]*testingv1.EchoRequest{request("child")})
			for response, err := range CallMany(ctx, c.Echo, one) {
				return response, err
			}
			return nil, status.Error(codes.Internal, "no response")
		})
	close(ready)
	worker, _ := s.attached(t, time.Minute)
	assign(t, worker, echoAttempt(t, 1, 7, 70, "flow"))
	l, _ := s.welcome(t, 0)
	frameOf(t, l)
	acceptTasks(t, l, 1, 8)
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{8}, Payloads: [][]byte{echoed(t, "child")}})
	outcomesFrom(t, worker)
	spans := recorder.Ended()
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	child, attempt := spans[0], spans[1]
	if child.Parent().SpanID() != attempt.SpanContext().SpanID() || attempt.Parent().IsValid() {
		t.Fatalf("child %v, attempt %v", child, attempt)
	}
	if child.Status().Code != otelcodes.Unset ||
		attributes(child)["messaging.message.id"] != "t0000000000000008" ||
		attributes(attempt)["rpc.status_code"] != "0" {
		t.Fatalf("child %v, attempt %v", attributes(child), attributes(attempt))
	}
}

func TestConfigureTracing_DoesNothingWithoutAnEndpoint(t *testing.T) {
	t.Setenv(endpointEnv, "")
	shutdown, err := ConfigureTracing(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := shutdown(t.Context()); err != nil || globalTracer() != nil {
		t.Fatalf("err = %v, tracer = %v", err, globalTracer())
	}
}
