package plait

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

const (
	defaultConcurrency = 256
	defaultGrace       = 30 * time.Second
)

// Worker serves methods to the broker. It is a grpc.ServiceRegistrar: register generated services
// on it, then Run it.
//
// A handler's context has the attempt's deadline, ends when the task is cancelled, its time is over
// or its lease is lost, and holds what was submitted as incoming metadata, with plait-task-id,
// plait-attempt, plait-fencing-token and plait-idempotency-key. [AttemptFrom] has the same in Go. A
// handler's error reaches the caller with its details; an error that is no gRPC status is UNKNOWN
// with its text, and so is a panic, which is logged with its stack and does not end the process.
// Whether an attempt is run again is for the method's policy.
type Worker struct {
	client       *Client
	log          *slog.Logger
	id           string
	name         string
	version      string
	slots        int
	grace        time.Duration
	signals      []os.Signal
	interceptors []grpc.UnaryServerInterceptor
	only         []string
	methods      []*servedMethod
	services     []string
	// What the broker calls what it serves, and the method of each; and digests of what it announced.
	routes    []string
	routed    []*servedMethod
	contracts []string
	// What the listener serves, and where it is to listen; "": nowhere.
	registrations []registration
	listen        string
	// Where it listens, and whether that is still announced.
	endpointMu sync.Mutex
	endpoint   string
	withdrawn  bool

	leases  *leases
	runners *runners
	expiry  *expiry
	peer    *peer.Peer
	flags   flagBoard
	started atomic.Bool
	// Whether this stream brought more than a welcome. Of the goroutine that receives.
	answered bool
	// Closed by the first and the second Stop.
	stop, stopNow         chan struct{}
	stopOnce, stopNowOnce sync.Once
	// Closed by the first welcome.
	attached     chan struct{}
	attachedOnce sync.Once
	// Set by Run: the values of its context, for every handler, and the interceptors as one.
	base        context.Context // handed to handlers
	interceptor grpc.UnaryServerInterceptor
}

var _ grpc.ServiceRegistrar = (*Worker)(nil)

// servedMethod is a method that the worker serves.
type servedMethod struct {
	path     string
	spanName string
	queue    string
	service  any
	handler  grpc.MethodHandler
}

// brokerAddress is the peer that handlers see.
type brokerAddress string

func (brokerAddress) Network() string  { return "tcp" }
func (a brokerAddress) String() string { return string(a) }

// Worker makes a worker.
func (c *Client) Worker(options ...WorkerOption) *Worker {
	w := &Worker{
		client: c, log: c.log, id: workerID(), slots: defaultConcurrency, grace: defaultGrace,
		signals: defaultSignals, leases: newLeases(), stop: make(chan struct{}),
		stopNow:  make(chan struct{}),
		attached: make(chan struct{}),
		peer:     &peer.Peer{Addr: brokerAddress(c.address)},
	}
	for _, option := range options {
		option(w)
	}
	w.runners = newRunners(w.slots, w.handle)
	w.expiry = newExpiry(w.expire)
	return w
}

// workerID is new for each worker: the host's name for people, and 64 random bits. A process with a supervisor has its
// name in the place of the host's, by which the supervisor knows which of its processes a worker is.
func workerID() string {
	host := os.Getenv("PLAIT_PROCESS")
	if host == "" {
		host = hostname()
	}
	name := make([]byte, 0, 64)
	for _, c := range []byte(host) {
		if len(name) < 40 && (c == '.' || c == '-' || c == '_' || c >= '0' && c <= '9' ||
			c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			name = append(name, c)
		}
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // Never fails: it ends the program instead.
	return string(name) + ":" + hex.EncodeToString(random[:])
}

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// RegisterService is called by the generated RegisterXServer function. Like a gRPC server's, it
// ends the program's start, by a panic, when it cannot serve what it is given: a service with a
// streaming method, an implementation of another service, the same service twice, or a worker that
// runs already.
func (w *Worker) RegisterService(desc *grpc.ServiceDesc, service any) {
	if err := w.register(desc, service); err != nil {
		panic("plait: register " + desc.ServiceName + ": " + err.Error())
	}
}

func (w *Worker) register(desc *grpc.ServiceDesc, service any) error {
	if w.started.Load() {
		return errors.New("the worker runs already")
	}
	if slices.Contains(w.services, desc.ServiceName) {
		return errors.New("it is registered already")
	}
	for _, stream := range desc.Streams {
		return fmt.Errorf("method %s is streaming; a durable task has one request and one response",
			stream.StreamName)
	}
	if desc.HandlerType != nil {
		want := reflect.TypeOf(desc.HandlerType).Elem()
		if service == nil || !reflect.TypeOf(service).Implements(want) {
			return fmt.Errorf("%T does not implement %s", service, want)
		}
	}
	w.services = append(w.services, desc.ServiceName)
	w.registrations = append(w.registrations, registration{desc, service})
	for _, m := range desc.Methods {
		if len(w.only) > 0 && !slices.Contains(w.only, m.MethodName) {
			continue
		}
		path := desc.ServiceName + "/" + m.MethodName
		w.methods = append(w.methods, &servedMethod{
			path: "/" + path, spanName: "attempt " + path, service: service, handler: m.Handler,
		})
	}
	return nil
}

// ID is the worker's id, new for each worker: what a task's record names.
func (w *Worker) ID() string { return w.id }

// Endpoint is where its methods can be called directly, host:port: once it is attached, for one that
// listens; else "".
func (w *Worker) Endpoint() string {
	w.endpointMu.Lock()
	defer w.endpointMu.Unlock()
	return w.endpoint
}

func (w *Worker) setEndpoint(endpoint string) {
	w.endpointMu.Lock()
	defer w.endpointMu.Unlock()
	w.endpoint = endpoint
}

// withdraw announces the endpoint no more, should the worker attach again while it drains.
func (w *Worker) withdraw() {
	w.endpointMu.Lock()
	defer w.endpointMu.Unlock()
	w.withdrawn = true
}

// announced is the endpoint as the broker is to know it.
func (w *Worker) announced() string {
	w.endpointMu.Lock()
	defer w.endpointMu.Unlock()
	if w.withdrawn {
		return ""
	}
	return w.endpoint
}

// Stop drains the worker, as SIGTERM does: it takes no more attempts, and Run returns when those
// that run are done. A second call means now.
func (w *Worker) Stop() {
	first := false
	w.stopOnce.Do(func() {
		first = true
		close(w.stop)
	})
	if !first {
		w.stopNowOnce.Do(func() { close(w.stopNow) })
	}
}

// Attached is closed when the worker is attached for the first time: its methods are known, and
// tasks may come.
func (w *Worker) Attached() <-chan struct{} { return w.attached }

// chain makes one interceptor of all, the first one outermost; nil for none.
func chain(interceptors []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	if len(interceptors) == 0 {
		return nil
	}
	if len(interceptors) == 1 {
		return interceptors[0]
	}
	first, rest := interceptors[0], chain(interceptors[1:])
	return func(
		ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
	) (any, error) {
		return first(ctx, req, info, func(ctx context.Context, req any) (any, error) {
			return rest(ctx, req, info, handler)
		})
	}
}
