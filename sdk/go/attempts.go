package plait

import (
	"slices"

	"google.golang.org/grpc/codes"
)

// This file holds the attempts of one direct call as pure machines: one after the other, or beside
// each other. Time is in milliseconds of any clock that does not go back. They are not safe for
// concurrent use, and share a budget.

const (
	// hedgedAttempts are those of a call that is hedged, the first included.
	hedgedAttempts = 2
	// The delay before a hedge: of so many latest calls the 95 % by which they were answered.
	hedgeSamples, hedgeSamplesMin = 100, 20
	hedgePermille, hedgeDelayMin  = 950, 10
)

// retrying is a call of one attempt after the other.
type retrying struct {
	budget      *RetryBudget
	backoff     Backoff
	maxAttempts int
	endMs       int64
	idempotent  bool
	never       codeSet

	attempt int
	// Attempts since the backoff began.
	step int
}

// nextAttempt is what comes after an attempt.
type nextAttempt struct {
	// The number of the next attempt; 0: it ends.
	send int
	// When to send it.
	atMs int64
	// Of an end: it was a failure to retry, and nobody above is to.
	stopAbove bool
}

func (r *retrying) start() { r.attempt, r.step = 1, 1 }

// status says what comes after the attempt that ended like this.
func (r *retrying) status(nowMs int64, code codes.Code, pushbackMs *int64, rndPPM int64) nextAttempt {
	found := verdictOf(code, r.idempotent, pushbackMs, r.never)
	r.budget.pay(code, found)
	end := nextAttempt{stopAbove: found.costs}
	if !found.retry || r.attempt >= r.maxAttempts || !r.budget.MayRetry() {
		return end
	}
	var wait int64
	if pushbackMs != nil {
		r.step, wait = 1, PushbackDelayMs(*pushbackMs)
	} else {
		r.step++
		wait = r.backoff.DelayMs(r.step, rndPPM)
	}
	if wait >= r.endMs-nowMs {
		return end
	}
	r.attempt++
	return nextAttempt{send: r.attempt, atMs: nowMs + wait}
}

// hedging is a call whose attempts are beside each other. Only for methods that may be done twice.
type hedging struct {
	budget      *RetryBudget
	maxAttempts int
	delayMs     int64
	endMs       int64
	never       codeSet

	sent int
	open []int
	// When the next one is sent; meaningful with its flag.
	nextMs  int64
	planned bool
	stopped bool
	ended   bool
	last    hedgeEnd
}

// hedgeEnd is how a hedged call ends.
type hedgeEnd struct {
	// The attempt whose status it has; 0: none, since the deadline passed.
	attempt   int
	code      codes.Code
	stopAbove bool
}

// hedgeMove is what to do now.
type hedgeMove struct {
	// The attempt to send; 0: none.
	send int
	// When to call wake; meaningful while it has not ended.
	wakeMs int64
	cancel []int
	end    *hedgeEnd
	over   bool
}

// start is the first attempt.
func (h *hedging) start(nowMs int64) hedgeMove {
	h.last = hedgeEnd{code: codes.DeadlineExceeded, stopAbove: true}
	return h.sendOne(nowMs)
}

// wake says how late it is.
func (h *hedging) wake(nowMs int64) hedgeMove {
	switch {
	case h.ended:
	case nowMs >= h.endMs:
		return h.finish(hedgeEnd{code: codes.DeadlineExceeded, stopAbove: true})
	case h.planned && nowMs >= h.nextMs:
		return h.another(nowMs)
	}
	return h.move(0)
}

// refused says that an attempt after the first could not be sent; no other one is.
func (h *hedging) refused(attempt int) hedgeMove {
	if !h.isOpen(attempt) {
		return h.move(0)
	}
	h.close(attempt)
	return h.noMore()
}

// status says that an attempt ended. What comes of one that was cancelled changes nothing.
func (h *hedging) status(nowMs int64, attempt int, code codes.Code, pushbackMs *int64) hedgeMove {
	if !h.isOpen(attempt) {
		return h.move(0)
	}
	h.close(attempt)
	found := verdictOf(code, true, pushbackMs, h.never)
	h.budget.pay(code, found)
	stop := pushbackMs != nil && *pushbackMs < 0
	// Without the pushback it would have been sent again; so those under way go on.
	merelyStopped := stop && isCandidate(code) && !h.never[code]
	if !found.retry && !merelyStopped {
		return h.finish(hedgeEnd{attempt, code, found.costs})
	}
	h.last = hedgeEnd{attempt, code, true}
	switch {
	case stop:
		h.stopped, h.planned = true, false
	case pushbackMs != nil:
		h.plan(nowMs + *pushbackMs)
	case !h.stopped && h.sent < h.maxAttempts:
		return h.another(nowMs)
	}
	if len(h.open) > 0 || h.planned {
		return h.move(0)
	}
	return h.finish(h.last)
}

func (h *hedging) isOpen(attempt int) bool { return slices.Contains(h.open, attempt) }

func (h *hedging) close(attempt int) {
	h.open = slices.DeleteFunc(h.open, func(each int) bool { return each == attempt })
}

// another sends the next one where there is time and the budget has it; a refusal is for good.
func (h *hedging) another(nowMs int64) hedgeMove {
	if nowMs < h.endMs && h.budget.MayRetry() {
		return h.sendOne(nowMs)
	}
	return h.noMore()
}

func (h *hedging) noMore() hedgeMove {
	h.stopped, h.planned = true, false
	if len(h.open) > 0 {
		return h.move(0)
	}
	return h.finish(h.last)
}

func (h *hedging) sendOne(nowMs int64) hedgeMove {
	h.sent++
	h.open = append(h.open, h.sent)
	h.plan(nowMs + h.delayMs)
	return h.move(h.sent)
}

func (h *hedging) plan(atMs int64) {
	h.planned = h.sent < h.maxAttempts && !h.stopped && atMs < h.endMs
	h.nextMs = atMs
}

func (h *hedging) finish(end hedgeEnd) hedgeMove {
	cancel := h.open
	h.open, h.planned, h.ended = nil, false, true
	return hedgeMove{cancel: cancel, end: &end, over: true}
}

func (h *hedging) move(send int) hedgeMove {
	wake := h.endMs
	if h.planned {
		wake = h.nextMs
	}
	return hedgeMove{send: send, wakeMs: wake, over: h.ended}
}

// hedgeDelay knows by when most of a method's latest calls were answered.
type hedgeDelay struct {
	samples, samplesMin int
	permille, delayMin  int64
	latest              []int64
}

func newHedgeDelay() *hedgeDelay {
	return &hedgeDelay{
		samples: hedgeSamples, samplesMin: hedgeSamplesMin, permille: hedgePermille,
		delayMin: hedgeDelayMin,
	}
}

// add takes the time of a call that was answered, in milliseconds.
func (d *hedgeDelay) add(latencyMs int64) {
	if len(d.latest) == d.samples {
		d.latest = slices.Delete(d.latest, 0, 1)
	}
	d.latest = append(d.latest, latencyMs)
}

// delayMs is how long to wait before a hedge. It is not ok while too little is known.
func (d *hedgeDelay) delayMs() (ms int64, ok bool) {
	count := int64(len(d.latest))
	if count < int64(d.samplesMin) {
		return 0, false
	}
	rank := (count*d.permille + 999) / 1000
	return max(d.delayMin, slices.Sorted(slices.Values(d.latest))[rank-1]), true
}
