package plait

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// Attempt is the running attempt of a task, for its handler.
type Attempt struct{ run *attempt }

// AttemptFrom finds the attempt that a handler runs in, by the handler's context or one derived
// from it. It is not ok outside of a handler, and under a plain gRPC server.
func AttemptFrom(ctx context.Context) (Attempt, bool) {
	run, ok := ctx.Value(attemptKey{}).(*attempt)
	return Attempt{run: run}, ok
}

// Number is the attempt's number, from 1.
func (a Attempt) Number() int { return a.run.number() }

// TaskID is the task's id: "t" and 16 hexadecimal digits.
func (a Attempt) TaskID() string { return taskID(a.run.task) }

// IdempotencyKey is the same for every attempt of the task: its idempotency key, or its id where it
// has none.
func (a Attempt) IdempotencyKey() string { return a.run.idempotencyKey() }

// OrderingKey is the task's ordering key; "" for none.
func (a Attempt) OrderingKey() string { return a.run.extra.GetOrderingKey() }

// FencingToken grows with every attempt of the task. A store that remembers the highest token it
// saw can refuse the writes of an attempt that was given up.
func (a Attempt) FencingToken() uint64 { return a.run.token }

// Progress tells the broker how far the handler is: the share done, 0 to 1, and a line for people.
// It does not wait; of reports that follow each other quickly, the latest is sent.
func (a Attempt) Progress(fraction float64, message string) {
	a.run.worker.leases.progressed(a.run, &plaitv1.Progress{
		Fraction: fraction, Message: wireText(message, progressBytesMax),
	})
}

// progressBytesMax is the longest line for people; the rest is cut off.
const progressBytesMax = 1 << 10

// attemptState is where an attempt is, in the worker.
type attemptState = uint32

const (
	// Received; waits for a slot.
	attemptWaiting attemptState = iota
	// In its handler.
	attemptRunning
	// It has an outcome that is not settled yet. Its handler may still run, when its time is over.
	attemptEnded
	// Nothing more is said of it: settled, stopped, lost or handed back.
	attemptDropped
)

// attempt is one attempt in this worker, and the handler's context and server stream at the same
// time: a context of its own kind costs no timer, no goroutine, and no allocation for values that
// the handler never asks for.
type attempt struct {
	worker  *Worker
	method  *servedMethod
	task    uint64
	token   uint64
	payload []byte
	// Rare facts; nil: none.
	extra *plaitv1.AttemptExtra
	// Zero: none.
	deadline time.Time
	// Set before the handler runs; nil when nothing traces.
	span trace.Span
	// The feature flags when the handler begins.
	flags flagRules

	// Whoever moves it to attemptEnded owns response and failure.
	state    atomic.Uint32
	response []byte
	failure  *plaitv1.Failure

	// Guarded by leases: neighbours in the list of what is held, and progress not sent yet.
	prev, next *attempt
	progress   *plaitv1.Progress

	mu sync.Mutex
	// The context: why it ended, who waits for that.
	err    error
	done   chan struct{}
	after  map[*afterEnd]struct{}
	md     metadata.MD
	remote trace.Span
	// The server stream.
	headerSent bool
	trailer    metadata.MD
	// The flow: how many callers wait for children, and whether the handler has returned.
	waits      int
	finished   bool
	plainChild *plaitv1.TaskOptions
	// Feature flags that the handler has read so far.
	flagsRead []*plaitv1.FlagRule
}

func (a *attempt) number() int { return max(int(a.extra.GetAttempt()), 1) }

func (a *attempt) idempotencyKey() string {
	if key := a.extra.GetIdempotencyKey(); key != "" {
		return key
	}
	return taskID(a.task)
}

// key orders attempts; 0 for none. Tokens of different tasks are different.
func (a *attempt) key() uint64 {
	if a == nil {
		return 0
	}
	return a.token
}

// flowParent names the attempt as the parent of a child; nil for none.
func (a *attempt) flowParent() *plaitv1.FlowParent {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.flowParentLocked()
}

// flowParentLocked is flowParent for a caller that holds the lock.
func (a *attempt) flowParentLocked() *plaitv1.FlowParent {
	return &plaitv1.FlowParent{Task: a.task, Token: a.token, Flags: slices.Clone(a.flagsRead)}
}

// childOptions are those of a child that its caller said nothing about. All such children of an
// attempt share them, so that a frame of them carries them once.
func (a *attempt) childOptions() *plaitv1.TaskOptions {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.plainChild == nil {
		a.plainChild = &plaitv1.TaskOptions{Parent: a.flowParentLocked()}
	}
	return a.plainChild
}

// attemptOf is the running attempt of a context, if it belongs to this client; nil otherwise.
func attemptOf(ctx context.Context, c *Client) *attempt {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok && a.worker.client == c {
		return a
	}
	return nil
}

// suspend gives the slot back while a caller in the handler waits for a child.
func (a *attempt) suspend() {
	a.mu.Lock()
	first := !a.finished && a.waits == 0
	a.waits++
	a.mu.Unlock()
	if first {
		a.worker.runners.release()
		a.worker.leases.flowWaits(a)
	}
}

// resume takes the slot again. It does not wait for one: the flow goes on at once.
func (a *attempt) resume() {
	a.mu.Lock()
	a.waits--
	last := !a.finished && a.waits == 0
	a.mu.Unlock()
	if last {
		a.worker.runners.retake()
	}
}

// finish says that the handler has returned; a goroutine that it left behind may wait on, but has no
// slot to give back. It returns the handler's trailer.
func (a *attempt) finish() metadata.MD {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.finished = true
	if a.waits > 0 {
		a.worker.runners.retake()
	}
	return a.trailer
}

func (a *attempt) waiting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waits > 0
}

// incoming is the metadata that the handler sees.
func (a *attempt) incoming() metadata.MD {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.md == nil {
		a.md = metadatumMap(a.extra.GetMetadata(), 4)
		a.md[keyTaskID] = []string{taskID(a.task)}
		a.md[keyAttempt] = []string{strconv.Itoa(a.number())}
		a.md[keyFencingToken] = []string{strconv.FormatUint(a.token, 10)}
		a.md[keyIdempotencyKey] = []string{a.idempotencyKey()}
	}
	return a.md
}
