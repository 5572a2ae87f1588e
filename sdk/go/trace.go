package plait

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// The names of spans' attributes, the same in every language (docs/protocol.md §7).
const (
	attrMessagingSystem      = attribute.Key("messaging.system")
	attrMessagingOperation   = attribute.Key("messaging.operation.type")
	attrMessagingDestination = attribute.Key("messaging.destination.name")
	attrMessagingMessageID   = attribute.Key("messaging.message.id")
	attrAttemptNumber        = attribute.Key("plait.attempt.number")
	attrRPCSystem            = attribute.Key("rpc.system.name")
	attrRPCMethod            = attribute.Key("rpc.method")
	attrRPCStatusCode        = attribute.Key("rpc.status_code")
)

const (
	instrumentation = "plait"
	endpointEnv     = "OTEL_EXPORTER_OTLP_ENDPOINT"
	traceparent     = "traceparent"
	tracestate      = "tracestate"
)

// ConfigureTracing exports spans by OTLP over gRPC, as the standard OTEL_* variables say, under a
// service's name. Without OTEL_EXPORTER_OTLP_ENDPOINT it does nothing: trace context is still
// passed on, no span is made. shutdown exports what is left; it is never nil.
func ConfigureTracing(
	ctx context.Context, serviceName string,
) (shutdown func(context.Context) error, err error) {
	none := func(context.Context) error { return nil }
	if os.Getenv(endpointEnv) == "" {
		return none, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return none, fmt.Errorf("configure tracing: %w", err)
	}
	// The environment comes last: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over the
	// program.
	described, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", serviceName)),
		resource.WithFromEnv())
	if err != nil {
		return none, fmt.Errorf("configure tracing: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}

// tracing is the verdict on the global tracer provider that was seen last: its tracer, or nil when
// it makes no spans.
type tracing struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
}

var lastTracing atomic.Pointer[tracing]

// globalTracer is nil while the program has set no tracer provider, so that an untraced task costs
// nothing.
func globalTracer() trace.Tracer {
	provider := otel.GetTracerProvider()
	if last := lastTracing.Load(); last != nil && last.provider == provider {
		return last.tracer
	}
	verdict := &tracing{provider: provider}
	kind := reflect.TypeOf(provider)
	switch kind.String() {
	case "*global.tracerProvider", "noop.TracerProvider":
		// The placeholder that stands until a program sets one. It is replaced, not changed, when
		// it does.
	default:
		verdict.tracer = tracerOf(provider)
	}
	if kind.Comparable() {
		lastTracing.Store(verdict)
	}
	return verdict.tracer
}

func tracerOf(provider trace.TracerProvider) trace.Tracer {
	return provider.Tracer(instrumentation, trace.WithInstrumentationVersion(Version))
}

// tracer is the client's own, else the global one; nil when nothing traces.
func (c *Client) tracer() trace.Tracer {
	if c.ownTracer != nil {
		return c.ownTracer
	}
	return globalTracer()
}

// startSubmitSpan starts the span of a submission; nil when nothing traces.
func (c *Client) startSubmitSpan(ctx context.Context, m *method) trace.Span {
	t := c.tracer()
	if t == nil {
		return nil
	}
	_, span := t.Start(ctx, m.spanName, trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(
			attrMessagingSystem.String("plait"),
			attrMessagingOperation.String("send"),
			attrMessagingDestination.String(m.queue),
		))
	return span
}

func setTaskID(span trace.Span, task uint64) {
	if span != nil && span.IsRecording() {
		span.SetAttributes(attrMessagingMessageID.String(taskID(task)))
	}
}

// startAttemptSpan starts the span of an attempt; nil when nothing traces.
func startAttemptSpan(ctx context.Context, a *attempt) trace.Span {
	t := a.worker.client.tracer()
	if t == nil {
		return nil
	}
	_, span := t.Start(ctx, a.method.spanName, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(
			attrMessagingSystem.String("plait"),
			attrMessagingOperation.String("process"),
			attrMessagingDestination.String(a.method.queue),
			attrMessagingMessageID.String(taskID(a.task)),
			attrAttemptNumber.Int64(int64(a.number())),
			attrRPCSystem.String("grpc"),
			attrRPCMethod.String(a.method.path[1:]),
		))
	return span
}

// endAttemptSpan ends the span of an attempt with its handler's outcome.
func endAttemptSpan(span trace.Span, failure *plaitv1.Failure) {
	if span == nil {
		return
	}
	span.SetAttributes(attrRPCStatusCode.Int64(int64(failure.GetCode())))
	if failure != nil {
		span.SetStatus(otelcodes.Error, failure.GetMessage())
	}
	span.End()
}

// startCallSpan starts the span of a direct call, on the caller's side; nil when nothing traces.
func (c *Client) startCallSpan(ctx context.Context, path string) (context.Context, trace.Span) {
	return c.startRPCSpan(ctx, path, trace.SpanKindClient)
}

// startServedSpan starts the span of a direct call, on the worker's side; nil when nothing traces.
func (c *Client) startServedSpan(ctx context.Context, path string) (context.Context, trace.Span) {
	return c.startRPCSpan(ctx, path, trace.SpanKindServer)
}

func (c *Client) startRPCSpan(
	ctx context.Context, path string, kind trace.SpanKind,
) (context.Context, trace.Span) {
	t := c.tracer()
	if t == nil {
		return ctx, nil
	}
	name := strings.TrimPrefix(path, "/")
	return t.Start(ctx, name, trace.WithSpanKind(kind),
		trace.WithAttributes(attrRPCSystem.String("grpc"), attrRPCMethod.String(name)))
}

// endCallSpan ends the span of a direct call with its outcome.
func endCallSpan(span trace.Span, err error) {
	if span != nil {
		span.SetAttributes(attrRPCStatusCode.Int64(int64(status.Code(err))))
	}
	endSpan(span, err)
}

func endSpan(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(otelcodes.Error, status.Convert(err).Message())
	}
	span.End()
}

// appendTraceContext adds the W3C trace context of the span, or of the caller when nothing traces.
func appendTraceContext(
	ctx context.Context, list []*plaitv1.Metadatum, span trace.Span,
) []*plaitv1.Metadatum {
	spanContext := trace.SpanContextFromContext(ctx)
	if span != nil {
		spanContext = span.SpanContext()
	}
	if !spanContext.IsValid() {
		return list
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpanContext(ctx, spanContext), carrier)
	kept := list[:0]
	for _, m := range list {
		if m.GetKey() != traceparent && m.GetKey() != tracestate {
			kept = append(kept, m)
		}
	}
	for _, key := range []string{traceparent, tracestate} {
		if value := carrier[key]; value != "" {
			kept = append(kept, &plaitv1.Metadatum{Key: key, Value: []byte(value)})
		}
	}
	return kept
}

// remoteSpanContext is the trace context that travelled with a task.
func remoteSpanContext(ctx context.Context, list []*plaitv1.Metadatum) trace.SpanContext {
	parent := metadatumValue(list, traceparent)
	if parent == "" {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{
		traceparent: parent, tracestate: metadatumValue(list, tracestate),
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(ctx, carrier))
}
