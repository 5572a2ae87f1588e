package target

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// askAgain is between two questions to a server whose health service fails.
const askAgain = time.Second

// Watch tells report whether the server serves, whenever that may have changed, until ctx ends. A
// server with grpc.health.v1 is asked for its overall health; any other serves while it is
// connected. The reason is for people.
func Watch(ctx context.Context, conn *grpc.ClientConn, report func(serving bool, reason string)) {
	for ctx.Err() == nil {
		state := conn.GetState()
		if state != connectivity.Ready {
			report(false, "the server is not connected")
			conn.Connect()
			conn.WaitForStateChange(ctx, state)
			continue
		}
		watchReady(ctx, conn, report)
	}
}

// watchReady follows the health of a connected server until it is not connected any more, or until
// its health service failed, which is worth another question after a while.
func watchReady(
	ctx context.Context, conn *grpc.ClientConn, report func(serving bool, reason string),
) {
	ready, cancel := whileReady(ctx, conn)
	defer cancel()
	stream, err := healthpb.NewHealthClient(conn).Watch(ready, &healthpb.HealthCheckRequest{})
	for err == nil {
		var answer *healthpb.HealthCheckResponse
		if answer, err = stream.Recv(); err != nil {
			break
		}
		switch health := answer.GetStatus(); health {
		case healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_SERVICE_UNKNOWN:
			// A server that does not know its overall health has only that of its services.
			report(true, "")
		default:
			report(false, "the server's health is "+health.String())
		}
	}
	switch code := status.Code(err); {
	case ready.Err() != nil:
	case code == codes.Unimplemented:
		report(true, "")
		<-ready.Done()
	case code == codes.Unavailable:
		// The connection is about to be seen as lost.
		wait(ready, askAgain)
	default:
		// A server that keeps its health to itself serves for all we know.
		report(true, "")
		wait(ready, askAgain)
	}
}

// whileReady is a context that ends when the connection leaves the state READY.
func whileReady(ctx context.Context, conn *grpc.ClientConn) (context.Context, context.CancelFunc) {
	ready, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		conn.WaitForStateChange(ready, connectivity.Ready)
	}()
	return ready, cancel
}

func wait(ctx context.Context, duration time.Duration) {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
