// Package gate decides whether a call may go to the server now: it serves, its breaker is not open,
// and it has room. It makes no call and starts no goroutine; the clock is an argument.
package gate

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"plait.dev/plait"
)

// Mode says how much may go to the server.
type Mode int

// The modes. While Probing, a breaker that was open lets a few calls through.
const (
	Paused Mode = iota
	Probing
	Open
)

const (
	// patience is how long a call that was begun waits for a server that is away. A server that is
	// restarted is back in that time, and so no attempt is spent on it.
	patience = 10 * time.Second
	// look is how often a call that waits looks at the breaker, whose states end by time alone.
	look = 100 * time.Millisecond
)

// Gate is safe for concurrent use.
type Gate struct {
	now func() int64 // milliseconds that never go back

	mu      sync.Mutex
	breaker *plait.Breaker
	probes  int
	// What is known of the breaker without asking it for a permit.
	state     plait.BreakerState
	openUntil int64
	// What the server's health says, and why.
	serving bool
	reason  string
	room    room
	// Closed, and made anew, with every change that lets a call go on or stops all.
	changed chan struct{}
}

// New makes a gate that is closed until the server is known to serve. At most concurrency calls go
// through it at once.
func New(config plait.BreakerConfig, concurrency int, now func() int64) *Gate {
	return &Gate{
		now: now, breaker: plait.NewBreaker(config), probes: int(config.HalfOpenProbes),
		state: plait.BreakerClosed, reason: "the server is not connected",
		room: newRoom(concurrency), changed: make(chan struct{}),
	}
}

// Probes is how many calls go through at once while Probing.
func (g *Gate) Probes() int { return g.probes }

// Serving tells the gate what is known of the server's health. The reason is for people.
func (g *Gate) Serving(serving bool, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.serving != serving || g.reason != reason {
		g.serving, g.reason = serving, reason
		g.announce()
	}
}

// Mode is how much may go through now, why, and a channel that is closed when it may be another. An
// open breaker ends by time: then retry is how long to wait at most; otherwise it is 0.
func (g *Gate) Mode() (mode Mode, reason string, changed <-chan struct{}, retry time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := g.openUntil - g.now()
	switch {
	case !g.serving:
		return Paused, g.reason, g.changed, 0
	case g.state == plait.BreakerOpen && left > 0:
		return Paused, "its breaker is open: too many calls were UNAVAILABLE", g.changed, millis(left)
	case g.state != plait.BreakerClosed:
		return Probing, "its breaker is half open", g.changed, 0
	default:
		return Open, "", g.changed, 0
	}
}

// Pass is a call's permission.
type Pass struct {
	gate       *Gate
	generation int64
	among      int // Calls at once when it was given, with its own.
}

// Enter waits until the call may go to the server: for room as long as ctx lasts, for a server that
// is away at most 10 s. Its error is UNAVAILABLE with a RetryInfo, or ctx's.
func (g *Gate) Enter(ctx context.Context) (*Pass, error) {
	waited := time.NewTimer(patience)
	defer waited.Stop()
	for {
		pass, changed, err := g.try()
		if pass != nil {
			return pass, nil
		}
		over := waited.C
		if err == nil {
			over = nil // It waits for room, which others give back.
		}
		again := time.NewTimer(look)
		select {
		case <-changed:
		case <-again.C:
		case <-over:
			return nil, err
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		again.Stop()
	}
}

// try gives a pass, or says what to wait for; err is what is wrong with the server, nil when there
// is only no room.
func (g *Gate) try() (pass *Pass, changed <-chan struct{}, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.serving {
		return nil, g.changed, g.unavailable(0)
	}
	if !g.room.free() {
		return nil, g.changed, nil
	}
	permit := g.breaker.Acquire(g.now())
	g.observe(permit.State)
	if !permit.Allow {
		return nil, g.changed, g.unavailable(permit.RetryAfterMs)
	}
	return &Pass{gate: g, generation: permit.Generation, among: g.room.take()}, nil, nil
}

// Leave gives the pass back with the outcome of the call. overloaded is true when the server said
// for the first time since all was well that it has no room.
func (p *Pass) Leave(err error) (overloaded bool) {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	code := status.Code(err)
	overloaded = g.room.give(p.among, code == codes.ResourceExhausted)
	state, _ := g.breaker.Report(g.now(), p.generation, outcomeOf(code))
	g.observe(state)
	g.announce()
	return overloaded
}

// outcomeOf is what the breaker is told. It stands for the server, not for a method, so only what
// tells that the server itself does not answer is a failure; a method's own errors and deadlines are
// for the broker's breakers.
func outcomeOf(code codes.Code) plait.BreakerOutcome {
	switch code {
	case codes.Unavailable:
		return plait.BreakerFailure
	case codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted:
		return plait.BreakerIgnore
	default:
		return plait.BreakerSuccess
	}
}

// observe remembers the breaker's state. The caller holds the lock.
func (g *Gate) observe(state plait.BreakerState) {
	if state == g.state {
		return
	}
	g.state = state
	if state == plait.BreakerOpen {
		// An open breaker says how long, and gives no permit.
		now := g.now()
		g.openUntil = now + g.breaker.Acquire(now).RetryAfterMs
	}
	g.announce()
}

// announce wakes those who wait. The caller holds the lock.
func (g *Gate) announce() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// unavailable is why a call cannot go on. The caller holds the lock.
func (g *Gate) unavailable(retryMs int64) error {
	reason, facts := "BREAKER_OPEN", map[string]string{"retry_ms": strconv.FormatInt(retryMs, 10)}
	text := "the sidecar's breaker for its server is open"
	if !g.serving {
		reason, facts = "", nil
		text = fmt.Sprintf("the sidecar's server does not serve: %s", g.reason)
	}
	refused := status.New(codes.Unavailable, text)
	if reason == "" {
		return refused.Err()
	}
	detailed, err := refused.WithDetails(
		&errdetails.ErrorInfo{Domain: "plait", Reason: reason, Metadata: facts},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(max(millis(retryMs), look))},
	)
	if err != nil {
		return refused.Err()
	}
	return detailed.Err()
}

func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
