package plait

import (
	"context"
	"net"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	testingv1 "plait.dev/plait/gen/testing/v1"
)

// collector takes spans as an OpenTelemetry collector does.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	got chan *tracev1.ResourceSpans
}

func (c *collector) Export(
	_ context.Context, r *collectorv1.ExportTraceServiceRequest,
) (*collectorv1.ExportTraceServiceResponse, error) {
	for _, spans := range r.GetResourceSpans() {
		c.got <- spans
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func TestConfigureTracing_ExportsByOTLPUnderTheServicesName(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{got: make(chan *tracev1.ResourceSpans, 16)}
	server := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(server, c)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	t.Setenv(endpointEnv, "http://"+listener.Addr().String())
	shutdown, err := ConfigureTracing(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer otel.SetTracerProvider(noop.NewTracerProvider())

	s := startScript(t)
	call := begin(func() (*testingv1.EchoResponse, error) {
		return echoClient(t, s).Echo(t.Context(), request("a"))
	})
	l, _ := s.welcome(t, 0)
	if md := frameOf(t, l).GetTasks().GetCommon().GetMetadata(); metadatumValue(md, traceparent) == "" {
		t.Fatalf("metadata = %v", md)
	}
	acceptTasks(t, l, 1, 7)
	results(t, l, answerOf(t, 7, "a"))
	wantEcho(t, next(t, call), "a")
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := next(t, c.got)
	names := map[string]string{}
	for _, kv := range spans.GetResource().GetAttributes() {
		names[kv.GetKey()] = kv.GetValue().GetStringValue()
	}
	span := spans.GetScopeSpans()[0].GetSpans()[0]
	if names["service.name"] != "shop" || span.GetName() != "submit testing.v1.EchoService/Echo" ||
		span.GetKind() != tracev1.Span_SPAN_KIND_PRODUCER {
		t.Fatalf("resource %v, span %v", names, span)
	}
}
