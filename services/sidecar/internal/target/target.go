// Package target is the plain gRPC server that the sidecar stands beside: how it is reached, and
// whether it serves now. It never retries a call.
package target

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// responseBytesMax is far over what the broker takes, so that it is the broker who refuses.
	responseBytesMax = 64 << 20
	// A server beside us is found soon after it came up: from 50 ms to 1 s between two tries.
	reconnectFirst = 50 * time.Millisecond
	reconnectSlow  = time.Second
)

// Dial makes a connection, which is opened with the first use.
func Dial(address string) (*grpc.ClientConn, error) {
	name := address
	if !strings.HasPrefix(name, "unix:") && !strings.Contains(name, "://") {
		name = "passthrough:///" + name
	}
	conn, err := grpc.NewClient(name,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// One layer retries, and it is the broker.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// A connection that fell asleep would look like a server that is gone.
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(responseBytesMax)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: reconnectFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectSlow,
			},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("reach the server at %s: %w", address, err)
	}
	return conn, nil
}
