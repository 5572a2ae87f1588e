package forward

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"plait.dev/plait"
	"plait.dev/sidecar/internal/contract"
)

// Front takes plain unary calls and makes each a durable one: the client's deadline, metadata and
// trace become the task's, and the client gets the task's answer or failure.
type Front struct {
	channel grpc.ClientConnInterface
	methods map[string]bool
	left    map[string]bool
}

// NewFront makes a front for the methods of a contract.
func NewFront(channel grpc.ClientConnInterface, c *contract.Contract) *Front {
	f := &Front{channel: channel, methods: map[string]bool{}, left: map[string]bool{}}
	for _, service := range c.Services {
		for _, method := range service.Methods {
			f.methods["/"+service.Name+"/"+method] = true
		}
	}
	for _, path := range c.LeftOut {
		f.left["/"+path] = true
	}
	return f
}

// Handle is a handler for grpc.UnknownServiceHandler, of a server whose codec is [Codec].
func (f *Front) Handle(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	switch {
	case f.left[path]:
		return status.Errorf(codes.Unimplemented,
			"%s is a streaming method; a durable task has one request and one response", path)
	case !f.methods[path]:
		return status.Errorf(codes.Unimplemented, "the sidecar does not know the method %s", path)
	}
	var request, response plait.Payload
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	ctx, cancel := inTime(stream.Context())
	defer cancel()
	var header, trailer metadata.MD
	err := f.channel.Invoke(incoming(ctx), path, &request, &response,
		grpc.Header(&header), grpc.Trailer(&trailer))
	if len(header) > 0 {
		if err := stream.SetHeader(header); err != nil {
			return err
		}
	}
	if err != nil {
		stream.SetTrailer(trailer)
		return Bare(err, trailer)
	}
	return stream.SendMsg(&response)
}

// inTime ends a call so long before its client's deadline that the answer is there in time: at that
// deadline the server of grpc-go resets the stream, which a client whose timer is a little behind
// takes for a call that somebody cancelled. It costs a twentieth of the time, 50 ms at most.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	lead := min(time.Until(deadline)/20, 50*time.Millisecond)
	return context.WithDeadline(ctx, deadline.Add(-lead))
}

// incoming makes what the client sent what is submitted. Keys of gRPC and of Plait itself are left
// out by the channel.
func incoming(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	ctx = propagation.TraceContext{}.Extract(ctx, carrier(md))
	return metadata.NewOutgoingContext(ctx, md)
}
