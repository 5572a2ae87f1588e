package plait

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// method is what a submitter knows of a method's policy.
type method struct {
	path string
	// What its submissions name, so that only workers that can take them do.
	route string
	queue string
	// Span name, and the attribute rpc.method.
	spanName string
	// Where the keys are; nil: the policy names none.
	idempotencyKey, orderingKey, limitKey *keyPath
}

// contracts makes methods known to the broker and remembers what it said of them.
type contracts struct {
	conn        *grpc.ClientConn
	service     plaitv1.ContractServiceClient
	descriptors Descriptors
	log         *slog.Logger
	known       sync.RWMutex
	methods     map[string]*method
	// Holds a token while somebody asks: concurrent first calls of a method would all announce it.
	asking chan struct{}
}

func newContracts(conn *grpc.ClientConn, descriptors Descriptors, log *slog.Logger) *contracts {
	return &contracts{
		conn: conn, service: plaitv1.NewContractServiceClient(conn), descriptors: descriptors, log: log,
		methods: map[string]*method{}, asking: make(chan struct{}, 1),
	}
}

// reconnectBackoff is that of docs/protocol.md: full jitter, 50 ms to 2 s.
var reconnectBackoff = Backoff{
	InitialMs: 50, MaxMs: 2000, MultiplierPermille: 2000, JitterHighPermille: 1000,
}

// pauser counts failures in a row and waits between them.
type pauser struct{ failures int }

// wait pauses by the backoff, but no longer than until a lost connection is back, or returns ctx's
// error.
func (p *pauser) wait(ctx context.Context, conn *grpc.ClientConn) error {
	p.failures++
	rnd := rand.Int64N(1_000_000)
	// A wait of nothing would turn a refused connection into a busy loop.
	delay := max(reconnectBackoff.DelayMs(p.failures+1, rnd), 1)
	pause, cancel := context.WithTimeout(ctx, time.Duration(delay)*time.Millisecond)
	defer cancel()
	wasReady := conn.GetState() == connectivity.Ready
	for pause.Err() == nil {
		state := conn.GetState()
		if state == connectivity.Ready && !wasReady {
			break
		}
		conn.Connect()
		conn.WaitForStateChange(pause, state)
	}
	return ctx.Err()
}

func (p *pauser) reset() { p.failures = 0 }

// resolve returns what the broker enforces for a method, announcing its contract first if the
// broker does not know it.
func (c *contracts) resolve(ctx context.Context, path string) (*method, error) {
	if m := c.cached(path); m != nil {
		return m, nil
	}
	select {
	case c.asking <- struct{}{}:
		defer func() { <-c.asking }()
	case <-ctx.Done():
		return nil, waitEnded(ctx, "the contract of "+path, nil)
	}
	if m := c.cached(path); m != nil {
		return m, nil
	}
	var pause pauser
	for {
		m, err := c.ask(ctx, path)
		if err == nil {
			c.remember(path, m)
			return m, nil
		}
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return nil, err
		}
		if pause.wait(ctx, c.conn) != nil {
			return nil, waitEnded(ctx, "the contract of "+path, err)
		}
	}
}

// forget drops what is cached of a method: the broker no longer knows it.
func (c *contracts) forget(path string) { c.remember(path, nil) }

func (c *contracts) cached(path string) *method {
	c.known.RLock()
	defer c.known.RUnlock()
	return c.methods[path]
}

func (c *contracts) remember(path string, m *method) {
	c.known.Lock()
	defer c.known.Unlock()
	c.methods[path] = m
}

func (c *contracts) ask(ctx context.Context, path string) (*method, error) {
	service, _, ok := splitMethod(path)
	if !ok {
		return nil, invalid("method", "is no \"/package.Service/Method\": "+path)
	}
	// Under the contract that this program has, if it has one, so that its tasks go to workers that
	// know what it knows. Else, or while nobody can decide on it, under the one in force.
	var refused error
	if sd, err := serviceDescriptor(c.descriptors, service); err == nil {
		answer, err := c.announce(ctx, sd, false)
		if Reason(err) != plaitv1.ErrorReason_ERROR_REASON_SCHEDULER_UNAVAILABLE {
			return answeredMethod(answer.GetMethods(), path, err)
		}
		refused = err
	}
	question := &plaitv1.ResolveMethodsRequest{Methods: []string{path}}
	answer, err := c.service.ResolveMethods(ctx, question)
	if err == nil && len(answer.GetMethods()) == 0 {
		err = refused
	}
	return answeredMethod(answer.GetMethods(), path, err)
}

func answeredMethod(infos []*plaitv1.MethodInfo, path string, err error) (*method, error) {
	if err != nil {
		return nil, err
	}
	if info := methodInfo(infos, path); info != nil {
		return info, nil
	}
	return nil, methodUnknown(path)
}

// announce tells the broker a service's contract and returns once it may be used.
func (c *contracts) announce(
	ctx context.Context, sd protoreflect.ServiceDescriptor, forWorker bool,
) (*plaitv1.AnnounceContractResponse, error) {
	set, err := descriptorSet(sd)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return c.service.AnnounceContract(ctx, &plaitv1.AnnounceContractRequest{
		DescriptorSet: set, Services: []string{string(sd.FullName())}, ForWorker: forWorker,
	})
}

// announceUntil announces until it is answered for good, for a worker that can do nothing before.
func (c *contracts) announceUntil(
	ctx context.Context, services []string,
) ([]*plaitv1.AnnounceContractResponse, error) {
	var all []*plaitv1.AnnounceContractResponse
	var pause pauser
	for _, service := range services {
		sd, err := serviceDescriptor(c.descriptors, service)
		if err != nil {
			return nil, fmt.Errorf("announce %s: %w", service, methodUnknown("/"+service+"/*"))
		}
		for {
			answer, err := c.announce(ctx, sd, true)
			if err == nil {
				all = append(all, answer)
				break
			}
			if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
				return nil, fmt.Errorf("announce %s: %w", service, err)
			}
			if pause.failures == 0 {
				c.log.WarnContext(ctx, "contract not yet announced",
					"service", service, "error", err)
			}
			if err := pause.wait(ctx, c.conn); err != nil {
				return nil, err
			}
		}
		pause.reset()
	}
	return all, nil
}

func methodInfo(infos []*plaitv1.MethodInfo, path string) *method {
	for _, info := range infos {
		if info.GetMethod() == path {
			return &method{
				path:           path,
				route:          cmp.Or(info.GetRoute(), path),
				queue:          info.GetQueue(),
				spanName:       "submit " + path[1:],
				idempotencyKey: newKeyPath(info.GetIdempotencyKey()),
				orderingKey:    newKeyPath(info.GetOrderingKey()),
				limitKey:       newKeyPath(info.GetLimitKey()),
			}
		}
	}
	return nil
}
