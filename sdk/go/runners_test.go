package plait

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func attempts(n int) []*attempt {
	list := make([]*attempt, n)
	for i := range list {
		list[i] = &attempt{task: uint64(i)}
	}
	return list
}

func TestRunners_NeverMoreThanTheSlotsAndEveryAttemptOnce(t *testing.T) {
	t.Parallel()
	const n, slots = 20_000, 4
	var running atomic.Int64
	var done sync.WaitGroup
	done.Add(n)
	seen := make([]atomic.Bool, n)
	r := newRunners(slots, func(a *attempt) {
		defer done.Done()
		if n := running.Add(1); n > slots {
			t.Errorf("%d run at once", n)
		}
		if seen[a.task].Swap(true) {
			t.Errorf("attempt %d ran twice", a.task)
		}
		running.Add(-1)
	})
	list := attempts(n)
	for len(list) > 0 {
		k := min(len(list), 97)
		r.add(list[:k])
		list = list[k:]
	}
	done.Wait()
	r.close()
	r.done.Wait()
}

func TestRunners_BlockedHandlersAreJoinedUntilTheSlotsAreUsed(t *testing.T) {
	t.Parallel()
	const slots = 50
	began := make(chan struct{}, slots)
	hold := make(chan struct{})
	r := newRunners(slots, func(*attempt) {
		began <- struct{}{}
		<-hold
	})
	r.add(attempts(slots + 1))
	for range slots {
		next(t, began)
	}
	if running, waiting := r.counts(); running != slots || waiting != 1 {
		t.Fatalf("%d run, %d wait", running, waiting)
	}
	if left := r.drain(); len(left) != 1 {
		t.Fatalf("%d left", len(left))
	}
	close(hold)
	r.close()
	r.done.Wait()
}

func TestRunners_ReleasedSlotRunsAnotherAndMayBeRetaken(t *testing.T) {
	t.Parallel()
	began := make(chan uint64, 2)
	hold := make(chan struct{})
	r := newRunners(1, func(a *attempt) {
		began <- a.task
		<-hold
	})
	r.add(attempts(2))
	if first := next(t, began); first != 0 {
		t.Fatalf("%d began first", first)
	}
	r.release()
	if second := next(t, began); second != 1 {
		t.Fatalf("%d began second", second)
	}
	r.retake()
	if running, _ := r.counts(); running != 2 {
		t.Fatalf("%d run", running)
	}
	close(hold)
	r.close()
	r.done.Wait()
}

func TestRunners_IdleOnesStayUpToTheirBoundAndEndWithTheWorker(t *testing.T) {
	t.Parallel()
	const slots = 3 * idleRunnersMax
	var began sync.WaitGroup
	began.Add(slots)
	r := newRunners(slots, func(*attempt) {
		began.Done()
		began.Wait()
	})
	r.add(attempts(slots))
	eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.idle == idleRunnersMax && r.all == idleRunnersMax
	})
	r.close()
	r.done.Wait()
}

func TestExpiry_EndsInOrderAndSweepsWhatEnded(t *testing.T) {
	t.Parallel()
	var ended []uint64
	e := newExpiry(func(a *attempt) { ended = append(ended, a.task) })
	start := time.Now()
	list := attempts(4 * sweepSizeMin)
	for i, a := range list {
		a.deadline = start.Add(time.Hour - time.Duration(i)*time.Second)
	}
	last := len(list) - 1
	for _, a := range list[3:last] {
		a.state.Store(attemptEnded)
	}
	for i := 0; i < len(list); i += 256 {
		e.add(list[i:min(i+256, len(list))])
	}
	if len(e.heap) > 2*sweepSizeMin {
		t.Fatalf("%d are kept", len(e.heap))
	}
	next := e.expireUntil(list[2].deadline)
	if !next.Equal(list[1].deadline) {
		t.Fatalf("next = %v, want %v", next, list[1].deadline)
	}
	var live []uint64
	for _, task := range ended {
		if list[task].live() {
			live = append(live, task)
		}
	}
	if len(live) != 2 || live[0] != uint64(last) || live[1] != 2 {
		t.Fatalf("ended %v", live)
	}
	if next := e.expireUntil(start.Add(2 * time.Hour)); !next.IsZero() {
		t.Fatalf("next = %v", next)
	}
}

func TestQueue_IsFirstInFirstOutAndShrinks(t *testing.T) {
	t.Parallel()
	var q queue[int]
	want := 0
	for i := range 100_000 {
		q.push(i)
		if i%10 != 0 {
			got, ok := q.pop()
			if !ok || got != want {
				t.Fatalf("popped %d, want %d", got, want)
			}
			want++
		}
	}
	if cap(q.items) > 40_000 {
		t.Fatalf("room for %d, with %d in it", cap(q.items), q.len())
	}
	for got, ok := q.pop(); ok; got, ok = q.pop() {
		if got != want {
			t.Fatalf("popped %d, want %d", got, want)
		}
		want++
	}
	if _, ok := q.peek(); ok || want != 100_000 {
		t.Fatalf("popped %d", want)
	}
}

func TestEvent_WaitersBeforeAndAfter(t *testing.T) {
	t.Parallel()
	var e event
	before := e.wait()
	if e.happened() {
		t.Fatal("it happened by itself")
	}
	e.fire()
	e.fire()
	next(t, begin(func() (struct{}, error) { <-before; <-e.wait(); return struct{}{}, nil }))
	if !e.happened() {
		t.Fatal("it did not happen")
	}
}
