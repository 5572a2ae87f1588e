package plait

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/reflect/protoregistry"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// Version is that of this SDK.
const Version = "0.1.0"

const (
	clientName     = "plait-go/" + Version
	addressEnv     = "PLAIT_ADDRESS"
	defaultAddress = "127.0.0.1:7420"
)

// Client is a program's access to Plait. It is safe for concurrent use; a program needs one.
type Client struct {
	address string
	dial    []grpc.DialOption
	log     *slog.Logger
	// nil: the global one.
	ownTracer   trace.Tracer
	descriptors Descriptors

	conn      *grpc.ClientConn
	tasks     plaitv1.TaskServiceClient
	contracts *contracts
	session   *session
	callees   *callees
	guards    *guards
}

// ClientOption changes what [Connect] does by default.
type ClientOption func(*Client)

// WithAddress says where the broker listens: host:port, unix:/path, or a gRPC target. Default:
// PLAIT_ADDRESS, else 127.0.0.1:7420.
func WithAddress(address string) ClientOption { return func(c *Client) { c.address = address } }

// WithDialOptions adds options to the gRPC connections, such as transport credentials. Default:
// plaintext.
func WithDialOptions(options ...grpc.DialOption) ClientOption {
	return func(c *Client) { c.dial = append(c.dial, options...) }
}

// WithLogger says where the client and its workers log. Default: slog.Default().
func WithLogger(log *slog.Logger) ClientOption { return func(c *Client) { c.log = log } }

// WithTracerProvider says who makes the client's and its workers' spans. Default: the global
// provider of OpenTelemetry, once the program has set one, as [ConfigureTracing] does.
func WithTracerProvider(provider trace.TracerProvider) ClientOption {
	return func(c *Client) { c.ownTracer = tracerOf(provider) }
}

// WithDescriptors says what the services are made of that the program serves or calls without being
// linked with their generated code, by [Payload]. Default: the files that the program is linked with.
func WithDescriptors(descriptors Descriptors) ClientOption {
	return func(c *Client) { c.descriptors = descriptors }
}

// Connect makes a client. It does not wait for the broker: calls do, each within its own deadline,
// and a broker that restarts is reconnected to. ctx bounds nothing but Connect itself. The caller
// closes the client.
func Connect(ctx context.Context, options ...ClientOption) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &Client{
		address: os.Getenv(addressEnv), log: slog.Default(), descriptors: protoregistry.GlobalFiles,
	}
	if c.address == "" {
		c.address = defaultAddress
	}
	for _, option := range options {
		option(c)
	}
	conn, err := c.dialBroker()
	if err != nil {
		return nil, err
	}
	c.conn = conn
	c.tasks = plaitv1.NewTaskServiceClient(conn)
	c.contracts = newContracts(conn, c.descriptors, c.log)
	c.session = newSession(conn, c.log)
	c.callees = newCallees(conn, c.log)
	c.guards = newGuards()
	return c, nil
}

// dialBroker makes a connection. A worker has one of its own, so that its frames and the client's
// do not queue behind each other.
func (c *Client) dialBroker() (*grpc.ClientConn, error) { return c.dialTo(c.address) }

func (c *Client) dialTo(address string) (*grpc.ClientConn, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// One layer retries, and it is not gRPC (SEMANTICS §1).
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// Large enough for a network with 10 ms of round trip; loopback does not care (LIMITS §2).
		grpc.WithInitialWindowSize(4 << 20),
		grpc.WithInitialConnWindowSize(8 << 20),
		grpc.WithReadBufferSize(128 << 10),
		grpc.WithWriteBufferSize(128 << 10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
		// Full jitter of 50 ms to 2 s, as docs/protocol.md asks: gRPC draws from delay*(1-jitter)
		// to delay*(1+jitter).
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 25 * time.Millisecond, Multiplier: 2, Jitter: 1, MaxDelay: time.Second,
			},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A peer that vanished without a FIN is noticed within 30 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 20 * time.Second, Timeout: 10 * time.Second,
		}),
	}, c.dial...)
	target := address
	if !strings.HasPrefix(target, "unix:") && !strings.Contains(target, "://") {
		target = "passthrough:///" + target
	}
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}

// Close ends the client. Calls that wait get CANCELLED; their tasks go on. Workers are not stopped
// by it.
func (c *Client) Close() error {
	c.callees.close()
	c.session.close()
	return c.conn.Close()
}

// Channel is what a generated stub takes: calls through it are durable tasks.
func (c *Client) Channel(options ...ChannelOption) *Channel {
	ch := &Channel{client: c}
	for _, option := range options {
		option(ch)
	}
	return ch
}
