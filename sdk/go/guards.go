package plait

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// This file holds what stands before the attempts of direct calls, with the clock and the locks that
// the machines lack: a limiter, a breaker and a hedge's delay for each method, a retry budget for each
// service.

// waitMsMin is what a refused call is told to wait at least.
const waitMsMin = 10

// clock begins when the program does.
var clock = time.Now()

func clockMs(at time.Time) int64 { return at.Sub(clock).Milliseconds() }

// guards are those of all methods that a channel calls.
type guards struct {
	mu      sync.Mutex
	methods map[string]*guard
	budgets map[string]*sharedBudget
}

// sharedBudget is that of a service, whose methods pay from it.
type sharedBudget struct {
	sync.Mutex
	tokens *RetryBudget
}

func newGuards() *guards {
	return &guards{methods: map[string]*guard{}, budgets: map[string]*sharedBudget{}}
}

// of is the method's guard, made by these rules at its first call.
func (g *guards) of(path string, rules *callRules) *guard {
	g.mu.Lock()
	defer g.mu.Unlock()
	if found := g.methods[path]; found != nil {
		return found
	}
	service := path[:strings.LastIndexByte(path, '/')+1]
	budget := g.budgets[service]
	if budget == nil {
		budget = &sharedBudget{tokens: NewRetryBudget(rules.budgetTokens, budgetRatioPermille)}
		g.budgets[service] = budget
	}
	made := &guard{path: path, budget: budget, delay: newHedgeDelay()}
	if rules.breaker != nil {
		made.breaker = NewBreaker(*rules.breaker)
	}
	if rules.limiter != nil {
		made.limiter = newCallLimiter(*rules.limiter)
	}
	g.methods[path] = made
	return made
}

// guard is that of one method.
type guard struct {
	path   string
	budget *sharedBudget

	mu sync.Mutex
	// nil: none.
	breaker *Breaker
	limiter *callLimiter
	delay   *hedgeDelay
	// Those who wait for a place, in order; as many as the limiter counts. Each is closed when its
	// attempt may be sent.
	line []chan struct{}
}

// entry is a place for one attempt. It is ended once.
type entry struct {
	guard      *guard
	generation int64
	began      time.Time
}

// enter takes a place, and waits for one as long as ctx lasts. Its error is what the call gets where
// this was its first attempt.
func (g *guard) enter(ctx context.Context) (*entry, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limiter != nil {
		switch g.limiter.acquire() {
		case admitRefuse:
			return nil, g.lineFull()
		case admitWait:
			if err := g.wait(ctx); err != nil {
				return nil, err
			}
		case admitNow:
		}
	}
	return g.throughBreaker()
}

// enterNow takes a place, if there is one; else it answers nil.
func (g *guard) enterNow() *entry {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limiter != nil {
		switch g.limiter.acquire() {
		case admitWait:
			g.limiter.leave()
			return nil
		case admitRefuse:
			return nil
		case admitNow:
		}
	}
	found, err := g.throughBreaker()
	if err != nil {
		return nil
	}
	return found
}

// ended says that the attempt is over; Canceled: nobody waits for it any more.
func (e *entry) ended(code codes.Code) {
	g, took := e.guard, time.Since(e.began)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.breaker != nil {
		g.breaker.Report(clockMs(time.Now()), e.generation, forBreaker(code))
	}
	if code == codes.OK {
		g.delay.add(took.Milliseconds())
	}
	g.release(took.Microseconds(), forLimiter(code))
}

// hedgeDelayMs is how long a call takes before it is hedged. It is not ok while too little is known.
func (g *guard) hedgeDelayMs() (ms int64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.delay.delayMs()
}

func (g *guard) throughBreaker() (*entry, error) {
	made := &entry{guard: g, began: time.Now()}
	if g.breaker == nil {
		return made, nil
	}
	permit := g.breaker.Acquire(clockMs(made.began))
	if !permit.Allow {
		g.release(0, limiterIgnore)
		return nil, g.breakerOpen(permit.RetryAfterMs)
	}
	made.generation = permit.Generation
	return made, nil
}

func (g *guard) release(rttUs int64, outcome limiterOutcome) {
	if g.limiter == nil {
		return
	}
	for range g.limiter.release(clockMs(time.Now()), rttUs, outcome) {
		close(g.line[0])
		g.line = slices.Delete(g.line, 0, 1)
	}
}

// wait waits in the line, without the lock, which is held again when it returns.
func (g *guard) wait(ctx context.Context) error {
	place := make(chan struct{})
	g.line = append(g.line, place)
	g.mu.Unlock()
	select {
	case <-place:
	case <-ctx.Done():
	}
	g.mu.Lock()
	if ctx.Err() == nil {
		return nil
	}
	if i := slices.Index(g.line, place); i >= 0 {
		g.line = slices.Delete(g.line, i, i+1)
		g.limiter.leave()
	} else {
		g.release(0, limiterIgnore)
	}
	return status.FromContextError(ctx.Err()).Err()
}

func (g *guard) breakerOpen(leftMs int64) error {
	return refusal(codes.Unavailable, plaitv1.ErrorReason_ERROR_REASON_BREAKER_OPEN,
		g.path+" failed too often and is given a rest", map[string]string{"method": g.path},
		retryInfo(leftMs))
}

func (g *guard) lineFull() error {
	limit, waiting := g.limiter.gradient.limit(), g.limiter.waiting
	return refusal(codes.ResourceExhausted, plaitv1.ErrorReason_ERROR_REASON_QUEUE_FULL,
		fmt.Sprintf("%d calls of %s may be under way, and %d wait already", limit, g.path, waiting),
		map[string]string{
			"method": g.path, "limit": strconv.FormatInt(limit, 10),
			"waiting": strconv.FormatInt(waiting, 10),
		}, retryInfo(int64(g.limiter.gradient.longUs)/1000))
}

func retryInfo(ms int64) *errdetails.RetryInfo {
	delay := time.Duration(max(waitMsMin, ms)) * time.Millisecond
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)}
}
