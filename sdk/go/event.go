package plait

import "sync/atomic"

// event is something that happens once. The zero value has not happened. A channel is made only for
// a waiter that comes before the event, which is rare where thousands of tasks are pipelined.
type event struct{ ch atomic.Pointer[chan struct{}] }

var fired = func() *chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return &ch
}()

// fire makes it happen; only the first call does. What the caller wrote before is visible after the
// wait.
func (e *event) fire() {
	if ch := e.ch.Swap(fired); ch != nil && ch != fired {
		close(*ch)
	}
}

func (e *event) happened() bool { return e.ch.Load() == fired }

// wait is closed once it has happened.
func (e *event) wait() <-chan struct{} {
	if ch := e.ch.Load(); ch != nil {
		return *ch
	}
	ch := make(chan struct{})
	if e.ch.CompareAndSwap(nil, &ch) {
		return ch
	}
	return *e.ch.Load()
}
