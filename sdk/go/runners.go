package plait

import "sync"

// idleRunnersMax bounds the goroutines that stay when there is nothing to run; further ones end.
const idleRunnersMax = 64

// runners are the goroutines that run handlers: at most as many at once as there are slots, flows
// that wait for children not counted. A runner that takes an attempt wakes at most one other, and
// only while none is waking already: so handlers that never block are run one after the other by as
// many goroutines as there are processors, and handlers that block are joined by new ones until the
// slots are used.
type runners struct {
	run func(*attempt)

	mu    sync.Mutex
	work  sync.Cond
	queue queue[*attempt]
	slots int
	// Handlers that hold a slot now.
	busy int
	// Goroutines: all, those that wait for work, and whether one of them was woken and has not
	// looked yet.
	all, idle int
	waking    bool
	closed    bool
	done      sync.WaitGroup
}

func newRunners(slots int, run func(*attempt)) *runners {
	r := &runners{slots: slots, run: run}
	r.work.L = &r.mu
	return r
}

// add queues attempts.
func (r *runners) add(attempts []*attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range attempts {
		r.queue.push(a)
	}
	r.wake()
}

// wake brings one more runner if there is work and room for it. The caller holds the lock.
func (r *runners) wake() {
	if r.waking || r.queue.len() == 0 || r.busy >= r.slots || r.closed {
		return
	}
	r.waking = true
	if r.idle > 0 {
		r.work.Signal()
		return
	}
	r.all++
	r.done.Go(r.loop)
}

func (r *runners) loop() {
	r.mu.Lock()
	defer func() {
		r.all--
		r.wake() // For a handler that ended its goroutine.
		r.mu.Unlock()
	}()
	r.waking = false
	for {
		if a, ok := r.take(); ok {
			r.wake()
			r.runOne(a)
			continue
		}
		if r.closed || r.idle >= idleRunnersMax {
			return
		}
		r.idle++
		r.work.Wait()
		r.idle--
		r.waking = false
	}
}

// take takes an attempt and a slot for it. The caller holds the lock.
func (r *runners) take() (*attempt, bool) {
	if r.busy >= r.slots {
		return nil, false
	}
	a, ok := r.queue.pop()
	if ok {
		r.busy++
	}
	return a, ok
}

// runOne runs a handler without the lock. The lock is held again afterwards, also when the handler
// ended its goroutine.
func (r *runners) runOne(a *attempt) {
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.busy--
	}()
	r.run(a)
}

// release gives a slot back while its flow waits for children.
func (r *runners) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy--
	r.wake()
}

// retake takes a slot for a flow that goes on, even if none is free.
func (r *runners) retake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy++
}

// drain empties the queue and returns what was in it.
func (r *runners) drain() []*attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	var rest []*attempt
	for a, ok := r.queue.pop(); ok; a, ok = r.queue.pop() {
		rest = append(rest, a)
	}
	return rest
}

// counts are the attempts in handlers and those that wait for a slot.
func (r *runners) counts() (running, waiting int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.busy, r.queue.len()
}

// close ends the idle runners; the others end with their handlers.
func (r *runners) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.work.Broadcast()
}
