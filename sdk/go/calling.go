package plait

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// previousKey is the metadata that says how many attempts were before this one (A6).
const previousKey = "grpc-previous-rpc-attempts"

// calling is one direct call under way. Its context ends with its deadline.
type calling struct {
	conn  *grpc.ClientConn
	path  string
	args  any
	reply any
	// The reply where it is a message, of which every hedge has one of its own; else nil.
	message proto.Message
	options []grpc.CallOption
	guard   *guard
	rules   *callRules
	endMs   int64
	span    trace.Span
}

// ended is an attempt that is over.
type ended struct {
	number int
	err    error
	nowMs  int64
	// What a hedge was answered.
	message proto.Message
	header  metadata.MD
	trailer metadata.MD
	peer    peer.Peer
	// There was no time to send it.
	unsent bool
}

// run makes the attempts and answers the one that decides. Its error is a refusal by us.
func (c *calling) run(ctx context.Context) (*ended, error) {
	first, err := c.guard.enter(ctx)
	if err != nil {
		// Nobody above is to try what would be refused again.
		stopAbove(ctx)
		return nil, err
	}
	if delayMs, ok := c.hedgeDelayMs(); ok {
		return c.hedged(ctx, first, delayMs), nil
	}
	return c.oneByOne(ctx, first), nil
}

func (c *calling) hedgeDelayMs() (int64, bool) {
	c.message, _ = c.reply.(proto.Message)
	if !c.rules.hedge || !c.rules.idempotent || c.rules.maxAttempts < 2 || c.message == nil {
		return 0, false
	}
	if c.rules.hedgeDelayMs > 0 {
		return c.rules.hedgeDelayMs, true
	}
	return c.guard.hedgeDelayMs()
}

func (c *calling) oneByOne(ctx context.Context, place *entry) *ended {
	retry := &retrying{
		budget: c.guard.budget.tokens, backoff: DefaultBackoff(), maxAttempts: c.rules.maxAttempts,
		endMs: c.endMs, idempotent: c.rules.idempotent, never: c.rules.never,
	}
	retry.start()
	last := c.attempt(ctx, place, 1, c.reply)
	for {
		c.guard.budget.Lock()
		next := retry.status(last.nowMs, status.Code(last.err), last.pushbackMs(), rand.Int64N(1_000_000))
		c.guard.budget.Unlock()
		if next.send == 0 {
			if next.stopAbove {
				stopAbove(ctx)
			}
			return last
		}
		if !pauseUntil(ctx, next.atMs) {
			return cancelledOr(ctx, last)
		}
		place, err := c.guard.enter(ctx)
		if err != nil {
			// It was not sent, so what the worker said last stands.
			stopAbove(ctx)
			return last
		}
		again := c.attempt(ctx, place, next.send, c.reply)
		if again.unsent {
			stopAbove(ctx)
			return last
		}
		last = again
	}
}

// attempt sends one and waits for its end.
func (c *calling) attempt(ctx context.Context, place *entry, number int, reply any) *ended {
	e := &ended{number: number}
	if e.err = c.left(ctx); e.err != nil {
		e.unsent, e.nowMs = true, c.endMs
		place.ended(codes.Canceled)
		return e
	}
	if number > 1 {
		ctx = metadata.AppendToOutgoingContext(ctx, previousKey, strconv.Itoa(number-1))
		if c.span != nil {
			c.span.AddEvent("attempt", trace.WithAttributes(attrAttemptNumber.Int64(int64(number))))
		}
	}
	options := append(c.options[:len(c.options):len(c.options)],
		grpc.Header(&e.header), grpc.Trailer(&e.trailer), grpc.Peer(&e.peer))
	e.err = c.conn.Invoke(ctx, c.path, c.args, reply, options...)
	e.nowMs = clockMs(time.Now())
	if ctx.Err() != nil {
		// It was the call's own time that passed, and not the attempt's.
		e.nowMs = max(e.nowMs, c.endMs)
	}
	place.ended(status.Code(e.err))
	return e
}

// left is an error where no time worth sending is left.
func (c *calling) left(ctx context.Context) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	if c.endMs-clockMs(time.Now()) < DefaultDeadlinePolicy().MinUsefulMs {
		return status.Error(codes.DeadlineExceeded, "too little time is left for an attempt")
	}
	return nil
}

// pushbackMs is how long the worker says to wait; negative: do not try again; nil: it says nothing.
// The longer of a trailer and a RetryInfo.
func (e *ended) pushbackMs() *int64 {
	var found *int64
	for _, text := range e.trailer.Get(pushbackKey) {
		ms, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return new(int64(-1))
		}
		found = longer(found, int64(ms))
	}
	if delay, ok := RetryAfter(e.err); ok {
		found = longer(found, max(0, delay.Milliseconds()))
	}
	if found == nil && e.err != nil && len(e.header) > 0 {
		// The answer had begun, and may have been acted on.
		return new(int64(-1))
	}
	return found
}

func longer(one *int64, other int64) *int64 {
	if one != nil && *one > other {
		return one
	}
	return &other
}

// hedged makes attempts beside each other.
func (c *calling) hedged(ctx context.Context, first *entry, delayMs int64) *ended {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	// The request is the caller's again when this returns.
	defer running.Wait()
	defer cancel()
	h := &hedging{
		budget: c.guard.budget.tokens, maxAttempts: hedgedAttempts, delayMs: delayMs, endMs: c.endMs,
		never: c.rules.never,
	}
	over := make(chan *ended, hedgedAttempts)
	done := map[int]*ended{}
	spawn := func(number int, place *entry) {
		reply := c.message.ProtoReflect().New().Interface()
		running.Go(func() {
			e := c.attempt(ctx, place, number, reply)
			e.message = reply
			over <- e
		})
	}
	move := h.start(clockMs(time.Now()))
	spawn(1, first)
	for move.end == nil {
		timer := time.NewTimer(time.Until(clock.Add(time.Duration(move.wakeMs) * time.Millisecond)))
		var e *ended
		select {
		case e = <-over:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		c.guard.budget.Lock()
		move = h.told(ctx, e)
		c.guard.budget.Unlock()
		if e != nil {
			done[e.number] = e
		}
		if move.send == 0 {
			continue
		}
		if place := c.guard.enterNow(); place != nil {
			spawn(move.send, place)
		} else {
			move = h.refused(move.send)
		}
	}
	if move.end.stopAbove {
		stopAbove(ctx)
	}
	e := done[move.end.attempt]
	if e == nil {
		return cancelledOr(ctx, &ended{
			err: status.Error(codes.DeadlineExceeded, context.DeadlineExceeded.Error()),
		})
	}
	if e.err == nil {
		proto.Reset(c.message)
		proto.Merge(c.message, e.message)
	}
	return e
}

// cancelledOr is CANCELLED where the caller gave up, else as it ended.
func cancelledOr(ctx context.Context, other *ended) *ended {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &ended{err: status.FromContextError(ctx.Err()).Err()}
	}
	return other
}

// told says what there is to say: that an attempt ended, or how late it is.
func (h *hedging) told(ctx context.Context, e *ended) hedgeMove {
	switch {
	case e == nil && ctx.Err() != nil:
		return h.wake(h.endMs)
	case e == nil:
		return h.wake(clockMs(time.Now()))
	case e.unsent:
		return h.refused(e.number)
	default:
		return h.status(e.nowMs, e.number, status.Code(e.err), e.pushbackMs())
	}
}

// pauseUntil waits, and tells whether ctx still lasts then.
func pauseUntil(ctx context.Context, atMs int64) bool {
	timer := time.NewTimer(time.Until(clock.Add(time.Duration(atMs) * time.Millisecond)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
