package plait

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// framesInFlightMax bounds the frames sent and not yet accepted. While so many are under way the
// next ones fill up. 16 full frames cover 800,000 tasks/s on a disk that takes 5 ms to sync.
const framesInFlightMax = 16

// session is the client's one submit stream, over all its reconnections. Submissions wait in queue,
// go out in numbered frames, and stay in unacked until the broker answers. The queue needs no bound
// of its own: it holds one entry for each blocked caller, and the window of each bulk submission.
type session struct {
	conn  *grpc.ClientConn
	tasks plaitv1.TaskServiceClient
	log   *slog.Logger

	ctx    context.Context // the life of the client, which no caller's context spans
	cancel context.CancelFunc
	done   sync.WaitGroup
	// Whether this stream brought more than a welcome; a broker that breaks every stream at once must
	// not be asked again at once. Of the goroutine that receives.
	answered bool
	// Has a token when the sender has something to look at.
	wake chan struct{}

	mu      sync.Mutex
	started bool
	closed  bool
	id      [16]byte
	queue   queue[*submission]
	// Frames in order; those from cursor on are still to be sent on this stream.
	unacked []*frame
	cursor  int
	// The number of the next frame.
	sequence uint64
	// After back-pressure nothing is submitted before this.
	resumeAt time.Time
	// Who waits for which task.
	waits map[uint64]*wait
	// To be said on the stream.
	awaits  []*wait
	forgets []uint64
	// For each task that was forgotten while frames were in flight, the last of these: a frame up
	// to it may have asked for the same task before the broker read the forget.
	forgotten map[uint64]uint64
	// From the welcome; 0: not known yet.
	payloadBytesMax uint64
	frameTasksMax   int
	// The last trouble, nil while the stream is open.
	trouble error
}

func newSession(conn *grpc.ClientConn, log *slog.Logger) *session {
	//nolint:forbidigo // the session outlives every caller; close ends it
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{
		conn: conn, tasks: plaitv1.NewTaskServiceClient(conn), log: log, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), waits: map[uint64]*wait{}, forgotten: map[uint64]uint64{},
		frameTasksMax: frameTasksMax,
	}
	s.renew()
	return s
}

// renew takes a new identity: frames are numbered from 1 again.
func (s *session) renew() {
	_, _ = rand.Read(s.id[:]) // Never fails: it ends the program instead.
	s.sequence = 1
	for _, f := range s.unacked {
		f.sequence = s.sequence
		s.sequence++
	}
	s.cursor = 0
}

// enqueue queues a submission. It does not wait.
func (s *session) enqueue(sub *submission) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	if limit := s.payloadBytesMax; limit > 0 && uint64(len(sub.payload)) > limit {
		s.mu.Unlock()
		return tooLarge("request", uint64(len(sub.payload)), limit)
	}
	s.queue.push(sub)
	s.start()
	s.mu.Unlock()
	s.poke()
	return nil
}

// await asks for the result of a task that was accepted before.
func (s *session) await(w *wait) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errClosed
	}
	s.addWait(w)
	s.awaits = append(s.awaits, w)
	s.start()
	s.mu.Unlock()
	s.poke()
	return nil
}

// start runs the stream, from the first use on. The caller holds the lock.
func (s *session) start() {
	if s.started {
		return
	}
	s.started = true
	s.done.Go(s.run)
}

func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) addWait(w *wait) {
	w.next = s.waits[w.task]
	s.waits[w.task] = w
}

// awaitAccepted waits until the broker answered a submission and returns its refusal, if it is one.
func (s *session) awaitAccepted(ctx context.Context, sub *submission) error {
	if !sub.accepted.happened() {
		select {
		case <-sub.accepted.wait():
		case <-ctx.Done():
			if s.leave(sub) {
				return waitEnded(ctx, "the acceptance of "+sub.method, s.lastTrouble())
			}
		}
	}
	return sub.err
}

// errLeft is the answer to whoever wants to wait for what the last waiter has left; the result is
// to be asked for anew.
var errLeft = errors.New("left")

// awaitResult waits for a result. sub is set when w belongs to a submission that may not have been
// sent yet.
func (s *session) awaitResult(ctx context.Context, w *wait, sub *submission) error {
	if w.done.happened() {
		return w.err
	}
	if !s.listen(w) {
		return errLeft
	}
	if w.parent != nil {
		w.parent.suspend()
		defer w.parent.resume()
	}
	select {
	case <-w.done.wait():
	case <-ctx.Done():
		if s.stopListening(w, sub) {
			return waitEnded(ctx, "a result", s.lastTrouble())
		}
	}
	return w.err
}

func (s *session) listen(w *wait) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.gone && !w.done.happened() {
		return false
	}
	w.listeners++
	return true
}

// stopListening reports false when the result came just before. The last listener's leaving is told
// to the broker.
func (s *session) stopListening(w *wait, sub *submission) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.listeners--
	if w.done.happened() {
		return false
	}
	if w.listeners > 0 {
		return true
	}
	w.gone = true
	switch {
	case sub == nil || sub.state == stateAnswered:
		s.removeWait(w)
	case sub.state == stateQueued:
		sub.state = stateDropped
	}
	return true
}

// leave says that nobody waits for a submission any more; it is not sent if it was not yet. It
// reports false when it was answered just before.
func (s *session) leave(sub *submission) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch sub.state {
	case stateQueued:
		sub.state = stateDropped
	case stateSent:
		sub.wait.gone = true
	case stateAnswered:
		return false
	case stateDropped:
	}
	return true
}

// leaveResult says that nobody wants the result of a submission that goes on.
func (s *session) leaveResult(sub *submission) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !sub.await || sub.wait.done.happened() || sub.wait.listeners > 0 {
		return
	}
	sub.wait.gone = true
	if sub.state == stateAnswered {
		s.removeWait(&sub.wait)
	}
}

// removeWait drops a wait, and tells the broker when it was the last one for its task. The caller
// holds the lock.
func (s *session) removeWait(w *wait) {
	head, ok := s.waits[w.task]
	if !ok {
		return
	}
	link := &head
	for *link != nil && *link != w {
		link = &(*link).next
	}
	if *link == nil {
		return
	}
	*link = w.next
	if head != nil {
		s.waits[w.task] = head
		return
	}
	delete(s.waits, w.task)
	s.forget(w.task)
}

// forget tells the broker that a result is no longer wanted. The caller holds the lock.
func (s *session) forget(task uint64) {
	s.forgets = append(s.forgets, task)
	if s.cursor > 0 {
		s.forgotten[task] = s.unacked[s.cursor-1].sequence
	}
	s.poke()
}

func (s *session) lastTrouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// close ends the stream and fails whoever waits.
func (s *session) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failAll(errClosed)
}

// failAll fails everything that waits. The caller holds the lock.
func (s *session) failAll(err error) {
	s.failUnacked(err)
	for sub, ok := s.queue.pop(); ok; sub, ok = s.queue.pop() {
		s.answer(sub, err)
	}
	for task, w := range s.waits {
		delete(s.waits, task)
		for ; w != nil; w = w.next {
			w.fail(err)
		}
	}
	s.awaits, s.forgets = nil, nil
}

// failUnacked fails the frames that were sent and takes a new identity, so that numbering starts
// afresh.
func (s *session) failUnacked(err error) {
	for _, f := range s.unacked {
		for _, sub := range f.submissions {
			s.answer(sub, err)
		}
	}
	s.unacked = nil
	s.renew()
}

func (s *session) answer(sub *submission, err error) {
	sub.state = stateAnswered
	sub.fail(err)
}
