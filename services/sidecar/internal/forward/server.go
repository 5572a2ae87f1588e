package forward

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"plait.dev/plait"
	"plait.dev/sidecar/internal/contract"
	"plait.dev/sidecar/internal/gate"
)

// Server is the plain gRPC server, as a handler of attempts calls it.
type Server struct {
	conn grpc.ClientConnInterface
	gate *gate.Gate
	log  *slog.Logger
}

// NewServer makes one.
func NewServer(conn grpc.ClientConnInterface, g *gate.Gate, log *slog.Logger) *Server {
	return &Server{conn, g, log}
}

// Register registers a service's unary methods with a worker, as generated code would.
func (s *Server) Register(worker grpc.ServiceRegistrar, service contract.Service) {
	desc := &grpc.ServiceDesc{ServiceName: service.Name}
	for _, name := range service.Methods {
		path := "/" + service.Name + "/" + name
		desc.Methods = append(desc.Methods, grpc.MethodDesc{
			MethodName: name,
			Handler: func(
				_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor,
			) (any, error) {
				return s.call(ctx, path, decode)
			},
		})
	}
	worker.RegisterService(desc, nil)
}

// call makes the call of one attempt. The context of the attempt has its deadline, and its end
// reaches the server as a cancelled call.
func (s *Server) call(ctx context.Context, path string, decode func(any) error) (any, error) {
	var request, response plait.Payload
	if err := decode(&request); err != nil {
		return nil, err
	}
	pass, err := s.gate.Enter(ctx)
	if err != nil {
		return nil, err
	}
	var trailer metadata.MD
	err = s.conn.Invoke(outgoing(ctx), path, &request, &response,
		grpc.ForceCodecV2(Codec{}), grpc.Trailer(&trailer))
	if pass.Leave(err) {
		s.log.WarnContext(ctx, "the server has no more room; fewer calls at once", "method", path)
	}
	if err != nil {
		// It fails only when a header was sent, which nobody does here.
		_ = grpc.SetTrailer(ctx, trailer)
		return nil, Bare(err, trailer)
	}
	return &response, nil
}

// outgoing passes on what the attempt's handler sees: what was submitted, the four plait- keys, and
// the trace context of the attempt.
func outgoing(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	propagation.TraceContext{}.Inject(ctx, carrier(md))
	return metadata.NewOutgoingContext(ctx, md)
}

// carrier lets trace context be read from, and written to, metadata.
type carrier metadata.MD

// Get is part of propagation.TextMapCarrier.
func (c carrier) Get(key string) string {
	if values := metadata.MD(c).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Set is part of propagation.TextMapCarrier.
func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

// Keys is part of propagation.TextMapCarrier.
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}
