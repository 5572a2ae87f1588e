package plait

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// expiry ends attempts whose time is over, with one timer for the whole worker. Attempts that ended
// before are not looked for: they are skipped when their time comes, and swept out when they are
// more than half of the heap, so that an attempt costs a push that rarely sifts.
type expiry struct {
	expire func(*attempt)

	mu   sync.Mutex
	heap expiryHeap
	// The size that calls for the next sweep.
	sweepAt int
	// Has a token when the earliest deadline changed.
	wake chan struct{}
}

const sweepSizeMin = 1024

func newExpiry(expire func(*attempt)) *expiry {
	return &expiry{expire: expire, sweepAt: sweepSizeMin, wake: make(chan struct{}, 1)}
}

// add watches attempts.
func (e *expiry) add(attempts []*attempt) {
	e.mu.Lock()
	var first *attempt
	if len(e.heap) > 0 {
		first = e.heap[0]
	}
	for _, a := range attempts {
		if !a.deadline.IsZero() {
			heap.Push(&e.heap, a)
		}
	}
	if len(e.heap) >= e.sweepAt {
		e.sweep()
	}
	changed := len(e.heap) > 0 && e.heap[0] != first
	e.mu.Unlock()
	if changed {
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

// sweep drops attempts that ended. The caller holds the lock.
func (e *expiry) sweep() {
	kept := e.heap[:0]
	for _, a := range e.heap {
		if a.live() {
			kept = append(kept, a)
		}
	}
	clear(e.heap[len(kept):])
	e.heap = kept
	heap.Init(&e.heap)
	e.sweepAt = max(2*len(kept), sweepSizeMin)
}

// run ends attempts in time until ctx ends.
func (e *expiry) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := e.expireUntil(time.Now())
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-timer.C:
		case <-e.wake:
		case <-ctx.Done():
			return
		}
	}
}

// expireUntil ends what is due and returns when the next one is; zero: none.
func (e *expiry) expireUntil(now time.Time) time.Time {
	var due []*attempt
	var next time.Time
	e.mu.Lock()
	for len(e.heap) > 0 {
		a := e.heap[0]
		if a.live() && a.deadline.After(now) {
			next = a.deadline
			break
		}
		heap.Pop(&e.heap)
		due = append(due, a)
	}
	e.mu.Unlock()
	for _, a := range due {
		e.expire(a)
	}
	return next
}

// live tells whether the attempt may still need its deadline.
func (a *attempt) live() bool { return a.state.Load() < attemptEnded }

type expiryHeap []*attempt

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].deadline.Before(h[j].deadline) }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is part of heap.Interface.
func (h *expiryHeap) Push(x any) {
	if a, ok := x.(*attempt); ok {
		*h = append(*h, a)
	}
}

// Pop is part of heap.Interface.
func (h *expiryHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
