package sidecar

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"plait.dev/sidecar/internal/forward"
)

// front is the listener for plain calls; the zero value listens nowhere.
type front struct {
	server  *grpc.Server
	health  *health.Server
	address string
}

// listen opens the listener. Its health says NOT_SERVING while it drains.
func listen(ctx context.Context, address string, handler *forward.Front) (*front, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for plain calls: %w", err)
	}
	f := &front{
		server: grpc.NewServer(grpc.ForceServerCodecV2(codec{}),
			grpc.UnknownServiceHandler(handler.Handle)),
		health: health.NewServer(), address: listener.Addr().String(),
	}
	healthpb.RegisterHealthServer(f.server, f.health)
	go func() {
		// It ends with stop; a listener that breaks shows to its callers.
		_ = f.server.Serve(listener)
	}()
	return f, nil
}

// stop waits for the calls that run, at most the grace. Those that are cut off then go on as tasks.
func (f *front) stop(grace time.Duration) {
	if f.server == nil {
		return
	}
	f.health.Shutdown()
	cut := time.AfterFunc(grace, f.server.Stop)
	defer cut.Stop()
	f.server.GracefulStop()
}
