package plait

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// leases are the attempts that the worker holds, over all its streams, and what is to be said of
// them. An attempt is held from its receipt until its outcome is settled, or until it is stopped,
// lost or handed back.
type leases struct {
	// Has a token when the sender has something to look at.
	wake chan struct{}

	mu sync.Mutex
	// The head of the ring of what is held.
	held  attempt
	count int
	// Outcomes to send, and those sent and not settled, by frame.
	outcomes queue[*attempt]
	inFlight []outcomeFrame
	// Number of the last OutcomeFrame of this stream.
	sequence uint64
	// Attempts whose progress is to be sent, that are handed back, and flows that are unloaded.
	progress  []*attempt
	handBack  []*attempt
	suspended []*attempt
	// Number of the last AttemptFrame received, and of the last one told as received.
	received, told uint64
	heartbeatDue   bool
	// The worker takes no more; and it said so on this stream.
	draining, drainSaid bool
	// Largest response in bytes; 0: not known yet.
	payloadBytesMax uint64
}

type outcomeFrame struct {
	sequence uint64
	attempts []*attempt
}

func newLeases() *leases {
	l := &leases{wake: make(chan struct{}, 1)}
	l.held.prev, l.held.next = &l.held, &l.held
	return l
}

func (l *leases) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// receive takes the attempts of a frame. It reports false when the worker is draining: then they go
// back.
func (l *leases) receive(sequence uint64, attempts []*attempt) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.received = sequence
	for _, a := range attempts {
		last := l.held.prev
		a.prev, a.next = last, &l.held
		last.next, l.held.prev = a, a
	}
	l.count += len(attempts)
	if l.draining {
		l.giveBack(attempts)
	}
	return !l.draining
}

// giveBack hands attempts back that were not started. The caller holds the lock.
func (l *leases) giveBack(attempts []*attempt) {
	for _, a := range attempts {
		if a.state.CompareAndSwap(attemptWaiting, attemptDropped) {
			l.handBack = append(l.handBack, a)
			l.drop(a)
		}
	}
}

// drop takes an attempt off the list of what is held. The caller holds the lock.
func (l *leases) drop(a *attempt) {
	if a.next == nil {
		return
	}
	a.prev.next, a.next.prev = a.next, a.prev
	a.prev, a.next = nil, nil
	l.count--
	if l.count == 0 && l.draining {
		l.poke()
	}
}

// ended queues the outcome of an attempt, which its finder has moved to attemptEnded.
func (l *leases) ended(a *attempt) {
	l.mu.Lock()
	l.outcomes.push(a)
	l.mu.Unlock()
	l.poke()
}

// progressed remembers the latest progress of an attempt until it is sent.
func (l *leases) progressed(a *attempt, p *plaitv1.Progress) {
	l.mu.Lock()
	if a.progress == nil {
		l.progress = append(l.progress, a)
	}
	a.progress = p
	l.mu.Unlock()
	l.poke()
}

// stop takes attempts away, and returns them so that their contexts can be ended.
func (l *leases) stop(wanted map[leaseKey]error) map[*attempt]error {
	stopped := make(map[*attempt]error, len(wanted))
	l.mu.Lock()
	defer l.mu.Unlock()
	for a := l.held.next; a != &l.held; {
		next := a.next
		if cause, ok := wanted[leaseKey{a.task, a.token}]; ok {
			a.state.Store(attemptDropped)
			l.drop(a)
			stopped[a] = cause
		}
		a = next
	}
	return stopped
}

type leaseKey struct{ task, token uint64 }

// settled lets go of the outcomes up to a sequence number.
func (l *leases) settled(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for ; n < len(l.inFlight) && l.inFlight[n].sequence <= sequence; n++ {
		for _, a := range l.inFlight[n].attempts {
			a.state.Store(attemptDropped)
			a.response, a.failure = nil, nil
			l.drop(a)
		}
	}
	l.inFlight = append(l.inFlight[:0], l.inFlight[n:]...)
}

// hello lists what is held, for a new stream, and queues the outcomes that were not settled again.
func (l *leases) hello() []*plaitv1.HeldLease {
	l.mu.Lock()
	defer l.mu.Unlock()
	var again queue[*attempt]
	for _, f := range l.inFlight {
		for _, a := range f.attempts {
			again.push(a)
		}
	}
	for a, ok := l.outcomes.pop(); ok; a, ok = l.outcomes.pop() {
		again.push(a)
	}
	l.outcomes, l.inFlight, l.handBack, l.suspended = again, nil, nil, nil
	l.sequence, l.received, l.told, l.drainSaid = 0, 0, 0, false
	held := make([]*plaitv1.HeldLease, 0, l.count)
	for a := l.held.next; a != &l.held; a = a.next {
		held = append(held, &plaitv1.HeldLease{Task: a.task, Token: a.token})
	}
	return held
}

// drain takes no more. Attempts that were not started go back, flows that wait for children are
// unloaded.
func (l *leases) drain(waiting []*attempt) {
	l.mu.Lock()
	l.draining = true
	l.giveBack(waiting)
	var unloaded []*attempt
	for a := l.held.next; a != &l.held; {
		next := a.next
		if l.unload(a) {
			unloaded = append(unloaded, a)
		}
		a = next
	}
	l.mu.Unlock()
	for _, a := range unloaded {
		a.end(context.Canceled)
	}
	l.poke()
}

// unload takes a waiting flow away from its handler; the broker runs it again when a child ends.
// The caller holds the lock.
func (l *leases) unload(a *attempt) bool {
	if !a.waiting() || !a.state.CompareAndSwap(attemptRunning, attemptDropped) {
		return false
	}
	l.suspended = append(l.suspended, a)
	l.drop(a)
	return true
}

// flowWaits unloads a flow that begins to wait while the worker drains.
func (l *leases) flowWaits(a *attempt) {
	l.mu.Lock()
	unloaded := l.draining && l.unload(a)
	l.mu.Unlock()
	if unloaded {
		a.end(context.Canceled)
		l.poke()
	}
}

// finished tells whether a draining worker holds nothing and has nothing to say any more.
func (l *leases) finished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draining && l.count == 0 && len(l.handBack) == 0 && len(l.suspended) == 0
}

// nothingHeld tells whether a draining worker may do without a stream: what it would still hand
// back ended with the last one.
func (l *leases) nothingHeld() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draining && l.count == 0
}

// dropAll lets go of everything and returns what was held.
func (l *leases) dropAll() []*attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	var held []*attempt
	for a := l.held.next; a != &l.held; a = l.held.next {
		a.state.Store(attemptDropped)
		l.drop(a)
		held = append(held, a)
	}
	return held
}

func (l *leases) payloadLimit() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.payloadBytesMax
}

func (l *leases) setPayloadLimit(limit uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.payloadBytesMax = limit
}

// beat asks for a heartbeat.
func (l *leases) beat() {
	l.mu.Lock()
	l.heartbeatDue = true
	l.mu.Unlock()
	l.poke()
}

// nextMessage is what to send now; nil: nothing. Every message tells which attempts were received.
func (l *leases) nextMessage(r *runners) *plaitv1.AttachRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &plaitv1.AttachRequest{AcceptedSequence: l.received}
	switch {
	case l.draining && !l.drainSaid:
		l.drainSaid = true
		m.Message = &plaitv1.AttachRequest_Drain{Drain: &plaitv1.WorkerDrain{Reason: "stopping"}}
	case len(l.handBack) > 0:
		m.Message = &plaitv1.AttachRequest_HandBack{HandBack: l.handBackFrame()}
	case len(l.suspended) > 0:
		m.Message = &plaitv1.AttachRequest_Suspend{Suspend: l.suspendFrame()}
	case l.setOutcomes(m):
	case len(l.progress) > 0:
		m.Message = &plaitv1.AttachRequest_Progress{Progress: l.progressFrame()}
	case l.heartbeatDue:
		running, waiting := r.counts()
		m.Message = &plaitv1.AttachRequest_Heartbeat{Heartbeat: &plaitv1.WorkerHeartbeat{
			Running: count32(running), Waiting: count32(waiting),
		}}
	case l.received == l.told:
		return nil
	}
	l.told, l.heartbeatDue = l.received, false
	return m
}

// setOutcomes fills a message with outcomes that wait, if there are any.
func (l *leases) setOutcomes(m *plaitv1.AttachRequest) bool {
	var attempts []*attempt
	bytes := 0
	for {
		a, ok := l.outcomes.peek()
		if !ok || len(attempts) == frameTasksMax || (bytes > 0 && bytes+a.size() > frameBytesMax) {
			break
		}
		l.outcomes.pop()
		if a.state.Load() != attemptEnded {
			continue // Stopped or lost since.
		}
		if attempts == nil {
			attempts = make([]*attempt, 0, min(l.outcomes.len()+1, frameTasksMax))
		}
		attempts = append(attempts, a)
		bytes += a.size()
	}
	if attempts == nil {
		return false
	}
	l.sequence++
	l.inFlight = append(l.inFlight, outcomeFrame{l.sequence, attempts})
	m.Message = &plaitv1.AttachRequest_Outcomes{Outcomes: outcomesOf(l.sequence, attempts)}
	return true
}

// size is about how many bytes the outcome takes in a frame.
func (a *attempt) size() int {
	if a.failure != nil {
		return failureBytes(a.failure)
	}
	return len(a.response)
}

func outcomesOf(sequence uint64, attempts []*attempt) *plaitv1.OutcomeFrame {
	f := &plaitv1.OutcomeFrame{
		Sequence: sequence,
		Tasks:    make([]uint64, len(attempts)),
		Tokens:   make([]uint64, len(attempts)),
		Payloads: make([][]byte, len(attempts)),
	}
	for i, a := range attempts {
		f.Tasks[i], f.Tokens[i], f.Payloads[i] = a.task, a.token, a.response
		if a.failure != nil {
			a.failure.Index = count32(i)
			f.Failures = append(f.Failures, a.failure)
		}
	}
	return f
}

func (l *leases) handBackFrame() *plaitv1.HandBackFrame {
	f := &plaitv1.HandBackFrame{}
	for _, a := range l.handBack {
		f.Tasks, f.Tokens = append(f.Tasks, a.task), append(f.Tokens, a.token)
	}
	l.handBack = nil
	return f
}

func (l *leases) suspendFrame() *plaitv1.SuspendFrame {
	f := &plaitv1.SuspendFrame{}
	for _, a := range l.suspended {
		f.Tasks, f.Tokens = append(f.Tasks, a.task), append(f.Tokens, a.token)
	}
	l.suspended = nil
	return f
}

func (l *leases) progressFrame() *plaitv1.ProgressFrame {
	f := &plaitv1.ProgressFrame{}
	for _, a := range l.progress {
		if a.state.Load() < attemptDropped {
			f.Entries = append(f.Entries, &plaitv1.AttemptProgress{
				Task: a.task, Token: a.token, Progress: a.progress,
			})
		}
		a.progress = nil
	}
	l.progress = nil
	return f
}

// count32 is a count as the wire has it.
func count32(n int) uint32 { return uint32(max(n, 0)) } //nolint:gosec // counts of things in memory

// durationOr is a duration that the broker may have left out.
func durationOr(d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d.AsDuration() <= 0 {
		return otherwise
	}
	return d.AsDuration()
}
