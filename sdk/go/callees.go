package plait

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	controlv1 "plait.dev/plait/gen/plait/control/v1"
	"plait.dev/plait/internal/resolvers"
)

const (
	// schedulerKey is where the scheduler says where it listens.
	schedulerKey = "scheduler/address"
	// lookEvery bounds how long calls go on by a scheduler that another one has taken over from.
	lookEvery = 5 * time.Second
	// lookTimeout bounds a look-up beside the calls, which go on without it.
	lookTimeout = 5 * time.Second
)

// callees are the connections of direct calls, one a service, opened when they are first needed.
type callees struct {
	keys controlv1.KeyValueServiceClient
	log  *slog.Logger

	mu       sync.Mutex
	closed   bool
	address  string
	lookedAt time.Time
	looking  bool
	conns    map[string]*callee
}

// callee is a service's connection and the calls that use it.
type callee struct {
	conn  *grpc.ClientConn
	calls sync.WaitGroup
}

func newCallees(broker grpc.ClientConnInterface, log *slog.Logger) *callees {
	return &callees{
		keys: controlv1.NewKeyValueServiceClient(broker), log: log, conns: map[string]*callee{},
	}
}

// find returns the connection of a service; release is to be called when the call is over. The
// first call waits for the broker. Its error is UNAVAILABLE where no scheduler runs.
func (c *callees) find(
	ctx context.Context, service string,
) (conn *grpc.ClientConn, release func(), err error) {
	if resolvers.Get() == nil {
		return nil, nil, status.Error(codes.FailedPrecondition,
			`direct calls need the package plait.dev/plait/xds: import _ "plait.dev/plait/xds"`)
	}
	if !c.isKnown() {
		address, err := c.ask(ctx)
		if err != nil {
			return nil, nil, err
		}
		c.use(address)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, status.Error(codes.Canceled, "the client is closed")
	}
	if !c.looking && time.Since(c.lookedAt) > lookEvery {
		c.looking = true
		go c.look(context.WithoutCancel(ctx))
	}
	found := c.conns[service]
	if found == nil {
		conn, err := dialService(service, c.address)
		if err != nil {
			return nil, nil, err
		}
		found = &callee{conn: conn}
		c.conns[service] = found
	}
	found.calls.Add(1)
	return found.conn, found.calls.Done, nil
}

func (c *callees) isKnown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.address != ""
}

// look asks for the scheduler once more. What is known serves on where there is no answer.
func (c *callees) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	address, err := c.ask(ctx)
	if err == nil {
		c.use(address)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looking, c.lookedAt = false, time.Now()
}

func (c *callees) ask(ctx context.Context) (string, error) {
	answer, err := c.keys.GetEntry(ctx, &controlv1.GetEntryRequest{Key: schedulerKey},
		grpc.WaitForReady(true))
	if err != nil {
		return "", err
	}
	if answer.GetEntry() == nil {
		return "", status.Error(codes.Unavailable, "no scheduler runs")
	}
	return string(answer.GetEntry().GetValue()), nil
}

// use has later calls ask the scheduler at an address. Those under way end where they are.
func (c *callees) use(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookedAt = time.Now()
	if address == c.address {
		return
	}
	c.address = address
	for service, old := range c.conns {
		delete(c.conns, service)
		go func() {
			old.calls.Wait()
			c.closeConn(old)
		}()
	}
}

// close ends everything; calls under way get CANCELLED.
func (c *callees) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, each := range c.conns {
		c.closeConn(each)
	}
}

func (c *callees) closeConn(one *callee) {
	if err := one.conn.Close(); err != nil {
		c.log.Warn("close a connection of direct calls", "error", err)
	}
}

// dialService makes the connection of a service, whose workers a scheduler knows.
func dialService(service, scheduler string) (*grpc.ClientConn, error) {
	bootstrap, err := json.Marshal(map[string]any{
		"xds_servers": []any{map[string]any{
			"server_uri":      scheduler,
			"channel_creds":   []any{map[string]any{"type": "insecure"}},
			"server_features": []string{"xds_v3"},
		}},
		"node": map[string]any{
			"id":       fmt.Sprintf("%s %d", clientName, os.Getpid()),
			"locality": map[string]any{"region": "plait", "zone": "mesh"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("write the bootstrap: %w", err)
	}
	resolver, err := resolvers.Get()(bootstrap)
	if err != nil {
		return nil, fmt.Errorf("find workers at %s: %w", scheduler, err)
	}
	conn, err := grpc.NewClient("xds:///"+service,
		grpc.WithResolvers(resolver),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// One layer retries, and it is not gRPC (SEMANTICS §1), but for calls that were never sent.
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 25 * time.Millisecond, Multiplier: 2, Jitter: 1, MaxDelay: time.Second,
			},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 20 * time.Second, Timeout: 10 * time.Second,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", service, err)
	}
	return conn, nil
}
