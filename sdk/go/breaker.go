package plait

import "slices"

// BreakerState is where a breaker is.
type BreakerState string

// The states of a breaker, named as in the vectors that all languages share.
const (
	BreakerClosed   BreakerState = "CLOSED"
	BreakerOpen     BreakerState = "OPEN"
	BreakerHalfOpen BreakerState = "HALF_OPEN"
)

// BreakerOutcome is what a breaker is told of a call.
type BreakerOutcome string

// The outcomes of a call. BreakerIgnore counts nothing and gives a probe's permit back.
const (
	BreakerSuccess BreakerOutcome = "success"
	BreakerFailure BreakerOutcome = "failure"
	BreakerIgnore  BreakerOutcome = "ignore"
)

// BreakerConfig are the parameters of a breaker. Times are in milliseconds.
type BreakerConfig struct {
	// The sliding window and the number of buckets it is cut into. Default 10,000 and 10.
	WindowMs, Buckets int64
	// Outcomes in the window before it may open. Default 20.
	MinCalls int64
	// Share of failures that opens it, in permille. Default 500.
	FailurePermille int64
	// The first open time, which doubles with each opening in a row, and its bound. Default 5,000
	// and 60,000.
	OpenMs, OpenMaxMs int64
	// Calls let through while half open. Default 3.
	HalfOpenProbes int64
	// A half-open breaker that has not decided in this time opens again. Default 10,000.
	HalfOpenMaxMs int64
}

// DefaultBreakerConfig are the parameters of SEMANTICS §7.
func DefaultBreakerConfig() BreakerConfig {
	return BreakerConfig{
		WindowMs: 10_000, Buckets: 10, MinCalls: 20, FailurePermille: 500,
		OpenMs: 5_000, OpenMaxMs: 60_000, HalfOpenProbes: 3, HalfOpenMaxMs: 10_000,
	}
}

// Permit is the answer of [Breaker.Acquire].
type Permit struct {
	// Whether the call may be made.
	Allow bool
	// The state after asking.
	State BreakerState
	// To be handed to [Breaker.Report]; meaningful when allowed.
	Generation int64
	// How long until asking may help, in milliseconds; 0 in HALF_OPEN. Meaningful when refused.
	RetryAfterMs int64
}

// Breaker is the circuit breaker of SEMANTICS §7. It is pure: now is an argument, in milliseconds
// of any clock that does not go back; it changes only inside Acquire and Report. It is not safe for
// concurrent use.
type Breaker struct {
	config     BreakerConfig
	state      BreakerState
	generation int64
	// Openings in a row.
	openings  int
	buckets   []breakerBucket
	openUntil int64
	halfOpen  breakerProbes
}

type breakerBucket struct{ index, calls, failures int64 }

type breakerProbes struct{ since, out, good, bad int64 }

// NewBreaker is a closed breaker.
func NewBreaker(config BreakerConfig) *Breaker {
	return &Breaker{config: config, state: BreakerClosed}
}

// Acquire asks to make a call.
func (b *Breaker) Acquire(now int64) Permit {
	b.advance(now)
	switch b.state {
	case BreakerOpen:
		return Permit{State: b.state, RetryAfterMs: b.openUntil - now}
	case BreakerHalfOpen:
		if b.halfOpen.out >= b.config.HalfOpenProbes {
			return Permit{State: b.state}
		}
		b.halfOpen.out++
	case BreakerClosed:
	}
	return Permit{Allow: true, State: b.state, Generation: b.generation}
}

// Report tells how a permitted call ended. A report of another generation than the current one
// changes nothing. counted tells whether it was counted.
func (b *Breaker) Report(
	now, generation int64, outcome BreakerOutcome,
) (state BreakerState, counted bool) {
	b.advance(now)
	if generation != b.generation || b.state == BreakerOpen {
		return b.state, false
	}
	if outcome == BreakerIgnore {
		if b.state == BreakerHalfOpen {
			b.halfOpen.out--
		}
		return b.state, false
	}
	if b.state == BreakerHalfOpen {
		b.countProbe(now, outcome)
	} else {
		b.countCall(now, outcome)
	}
	return b.state, true
}

func (b *Breaker) advance(now int64) {
	switch b.state {
	case BreakerOpen:
		if now >= b.openUntil {
			b.state = BreakerHalfOpen
			b.generation++
			b.halfOpen = breakerProbes{since: now}
		}
	case BreakerHalfOpen:
		// Without this a probe that never reports would wedge the breaker for ever.
		if now >= b.halfOpen.since+b.config.HalfOpenMaxMs {
			b.open(now)
		}
	case BreakerClosed:
	}
}

func (b *Breaker) open(now int64) {
	b.state = BreakerOpen
	b.generation++
	b.openUntil = now + grow(b.config.OpenMs, 2000, b.openings, b.config.OpenMaxMs)
	b.openings++
}

func (b *Breaker) countProbe(now int64, outcome BreakerOutcome) {
	if outcome == BreakerFailure {
		b.halfOpen.bad++
	} else {
		b.halfOpen.good++
	}
	probes := b.config.HalfOpenProbes
	switch {
	case b.halfOpen.bad > 0 && b.halfOpen.bad*1000 >= b.config.FailurePermille*probes:
		b.open(now)
	case b.halfOpen.good+b.halfOpen.bad == probes:
		b.state = BreakerClosed
		b.generation++
		b.openings = 0
		b.buckets = nil
	}
}

func (b *Breaker) countCall(now int64, outcome BreakerOutcome) {
	current := now / (b.config.WindowMs / b.config.Buckets)
	oldest := current - b.config.Buckets + 1
	b.buckets = slices.DeleteFunc(b.buckets, func(x breakerBucket) bool { return x.index < oldest })
	last := len(b.buckets) - 1
	if last < 0 || b.buckets[last].index != current {
		b.buckets = append(b.buckets, breakerBucket{index: current})
		last++
	}
	b.buckets[last].calls++
	if outcome == BreakerFailure {
		b.buckets[last].failures++
	}
	var calls, failures int64
	for _, x := range b.buckets {
		calls += x.calls
		failures += x.failures
	}
	if calls >= b.config.MinCalls && failures*1000 >= b.config.FailurePermille*calls {
		b.open(now)
	}
}
