package plait

// This file holds the machines of SEMANTICS §5 and §6 for calls. They are pure: time and randomness
// are arguments, numbers are whole. Tasks are not retried here; the broker does that.

// Backoff says how long to wait before an attempt of a call.
type Backoff struct {
	// Bound of the wait before the second attempt, in milliseconds. Default 100.
	InitialMs int64
	// Bound of every wait, in milliseconds. Default 5000.
	MaxMs int64
	// Growth of the bound from one attempt to the next, in permille. Default 2000.
	MultiplierPermille int64
	// The jitter band: the wait is between these shares of the bound, in permille. Default 0 and
	// 1000, full jitter.
	JitterLowPermille, JitterHighPermille int64
}

// DefaultBackoff is the backoff of a call.
func DefaultBackoff() Backoff {
	return Backoff{InitialMs: 100, MaxMs: 5000, MultiplierPermille: 2000, JitterHighPermille: 1000}
}

// DelayMs is the wait before an attempt, in milliseconds. Attempt 2 is the first retry; rndPPM is a
// random number of 0 to 999,999.
func (b Backoff) DelayMs(attempt int, rndPPM int64) int64 {
	wait := grow(b.InitialMs, b.MultiplierPermille, attempt-2, b.MaxMs)
	factorPPM := b.JitterLowPermille*1000 + rndPPM*(b.JitterHighPermille-b.JitterLowPermille)/1000
	return wait * factorPPM / 1_000_000
}

// PushbackDelayMs is the wait that a server asked for, which wins over the backoff and has no
// jitter. -1 means: do not retry.
func PushbackDelayMs(pushbackMs int64) int64 { return max(-1, pushbackMs) }

// grow multiplies start by the factor `steps` times, floored and capped at each step, so that 64
// bits are enough.
func grow(start, factorPermille int64, steps int, limit int64) int64 {
	value := min(start, limit)
	for range steps {
		if value >= limit {
			break
		}
		value = min(value*factorPermille/1000, limit)
	}
	return value
}

// RetryBudget bounds the retries of calls to one target, as gRPC proposal A6 does. It is not safe
// for concurrent use.
type RetryBudget struct {
	capMilli, refillMilli, tokensMilli int64
}

// NewRetryBudget is a full budget of maxTokens (default of SEMANTICS: 10) that gets
// tokenRatioPermille (default: 100) thousandths of a token back for a success.
func NewRetryBudget(maxTokens, tokenRatioPermille int64) *RetryBudget {
	full := maxTokens * 1000
	return &RetryBudget{capMilli: full, refillMilli: tokenRatioPermille, tokensMilli: full}
}

// MayRetry tells whether a retry or a hedge may be sent: while more than half of the tokens are
// there. Asking costs nothing.
func (b *RetryBudget) MayRetry() bool { return b.tokensMilli > b.capMilli/2 }

// Failure takes a token, for a failure with a retryable code or a pushback that says stop.
func (b *RetryBudget) Failure() { b.tokensMilli = max(0, b.tokensMilli-1000) }

// Success gives a share of a token back.
func (b *RetryBudget) Success() { b.tokensMilli = min(b.capMilli, b.tokensMilli+b.refillMilli) }

// TokensMilli is what is left, in thousandths of a token.
func (b *RetryBudget) TokensMilli() int64 { return b.tokensMilli }
