package plait

import (
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// defaultSignals drain a worker; a second one ends it at once.
var defaultSignals = []os.Signal{syscall.SIGTERM, os.Interrupt}

// WorkerOption changes what [Client.Worker] makes by default.
type WorkerOption func(*Worker)

// WithConcurrency says how many handlers may run at once; a flow that waits for its children does
// not count. Default 256, at least 1.
func WithConcurrency(slots int) WorkerOption {
	return func(w *Worker) { w.slots = max(slots, 1) }
}

// WithName names the worker for people, such as "ledger". Default: an id made of the host's name
// and random digits.
func WithName(name string) WorkerOption { return func(w *Worker) { w.name = name } }

// WithVersion says which version of the user's program runs. Default "".
func WithVersion(version string) WorkerOption { return func(w *Worker) { w.version = version } }

// WithGrace bounds how long a worker that drains waits for its handlers. Default 30 s.
func WithGrace(grace time.Duration) WorkerOption { return func(w *Worker) { w.grace = grace } }

// WithListen says where the worker's methods can be called directly as well, such as "127.0.0.1:0": an
// IP address of loopback and a port, 0 for any. Default: nowhere. As many calls at once as handlers of
// tasks; more are refused with RESOURCE_EXHAUSTED.
func WithListen(address string) WorkerOption { return func(w *Worker) { w.listen = address } }

// WithUnaryInterceptor adds an interceptor around every handler; the first one added is outermost.
func WithUnaryInterceptor(interceptor grpc.UnaryServerInterceptor) WorkerOption {
	return func(w *Worker) { w.interceptors = append(w.interceptors, interceptor) }
}

// WithMethods serves only these methods of the registered services, such as "Charge". Default: all, and
// a method that is left to the generated Unimplemented server fails its tasks with UNIMPLEMENTED.
func WithMethods(names ...string) WorkerOption {
	return func(w *Worker) { w.only = append(w.only, names...) }
}

// WithoutSignals leaves SIGTERM and SIGINT to the program; the end of Run's context and Stop still
// drain.
func WithoutSignals() WorkerOption { return func(w *Worker) { w.signals = nil } }
