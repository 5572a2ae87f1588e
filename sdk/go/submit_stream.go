package plait

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

type submitStream = plaitv1.TaskService_SubmitStreamClient

// awaitTasksMax bounds the tasks in one AwaitFrame.
const awaitTasksMax = 1024

// errRenewed ends a stream whose broker does not know the session any more.
var errRenewed = errors.New("the broker does not know this session; starting a new one")

// run keeps the stream open until the client is closed.
func (s *session) run() {
	var pause pauser
	for s.ctx.Err() == nil {
		opened, err := s.serve()
		if s.ctx.Err() != nil {
			return
		}
		if s.answered {
			pause.reset()
			s.answered = false
		}
		s.broke(err, opened, pause.failures == 0)
		if permanent(err) && !s.waitForWork() {
			return
		}
		if pause.wait(s.ctx, s.conn) != nil {
			return
		}
	}
}

// waitForWork keeps a client that the broker refuses from asking again without a reason.
func (s *session) waitForWork() bool {
	select {
	case <-s.wake:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// serve opens a stream and serves it until it breaks. opened tells whether the broker welcomed it.
func (s *session) serve() (opened bool, err error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stream, err := s.open(ctx)
	if err != nil {
		return false, err
	}
	sent := make(chan error, 1)
	go func() {
		err := s.sendLoop(ctx, stream)
		// A send that fails ends the receiving too, which knows the reason.
		cancel()
		sent <- err
	}()
	err = s.receiveLoop(stream)
	cancel()
	if sendErr := <-sent; sendErr != nil {
		err = sendErr
	}
	return true, err
}

func (s *session) open(ctx context.Context) (submitStream, error) {
	stream, err := s.tasks.SubmitStream(ctx, grpc.ForceCodecV2(streamCodec))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	hello := &plaitv1.SessionHello{Session: append([]byte(nil), s.id[:]...), Client: clientName}
	s.mu.Unlock()
	// An error of Send is only io.EOF; Recv has the reason.
	_ = stream.Send(&plaitv1.SubmitStreamRequest{
		Message: &plaitv1.SubmitStreamRequest_Hello{Hello: hello},
	})
	answer, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	welcome := answer.GetWelcome()
	if welcome == nil {
		return nil, status.Error(codes.Internal, "the broker's first message is no welcome")
	}
	return stream, s.welcomed(welcome)
}

// welcomed takes up where the last stream broke: everything that was not answered is sent again,
// and results that are still wanted are asked for again.
func (s *session) welcomed(welcome *plaitv1.SessionWelcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.payloadBytesMax = welcome.GetPayloadBytesMax()
	if n := int(welcome.GetFrameTasksMax()); n > 0 {
		s.frameTasksMax = min(n, frameTasksMax)
	}
	first := s.sequence
	if len(s.unacked) > 0 {
		first = s.unacked[0].sequence
	}
	if last := welcome.GetLastSequence(); last+1 < first || last >= s.sequence {
		s.renew()
		return errRenewed
	}
	s.cursor, s.resumeAt, s.trouble = 0, time.Time{}, nil
	s.forgets = nil
	clear(s.forgotten)
	s.awaits = s.awaits[:0]
	for _, w := range s.waits {
		s.awaits = append(s.awaits, w)
	}
	// One AwaitFrame speaks for one flow: those of a flow stand together.
	slices.SortFunc(s.awaits, func(a, b *wait) int {
		return cmp.Or(cmp.Compare(a.parent.key(), b.parent.key()), cmp.Compare(a.task, b.task))
	})
	return nil
}

// broke records why the stream is down. After an answer that a reconnect cannot change, whoever it
// concerns is told.
func (s *session) broke(err error, opened, first bool) {
	s.mu.Lock()
	s.trouble = err
	if permanent(err) {
		if opened {
			// A frame that the broker cannot accept would break every stream; what else waits goes
			// on.
			s.failUnacked(err)
		} else {
			s.failAll(err)
		}
	}
	s.mu.Unlock()
	if first && !errors.Is(err, errRenewed) {
		s.log.WarnContext(s.ctx, "submit stream broken; reconnecting", "error", err)
	}
}

// sendLoop sends what waits until the stream ends. It never lingers: what gathers while one message
// is sent goes into the next.
func (s *session) sendLoop(ctx context.Context, stream submitStream) error {
	for {
		// Lets callers that are ready to submit do so first, so that frames fill up; returns at
		// once when there are none.
		runtime.Gosched()
		message, pause := s.nextMessage(time.Now())
		if message != nil {
			if err := stream.Send(message); err != nil {
				return sendTrouble(err)
			}
			continue
		}
		if !s.waitToSend(ctx, pause) {
			return nil // The stream ended; the receiver has the reason.
		}
	}
}

// sendTrouble is nil when the stream broke, whose reason the receiver has. A message that cannot be
// marshalled never will be, whichever stream it is sent on.
func sendTrouble(err error) error {
	if status.Code(err) == codes.Internal {
		return status.Errorf(codes.InvalidArgument, "marshal a frame: %v", err)
	}
	return nil
}

// waitToSend waits for something to send, at most a pause if there is one. It reports false when the
// stream ended.
func (s *session) waitToSend(ctx context.Context, pause time.Duration) bool {
	var resume <-chan time.Time
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		resume = timer.C
	}
	select {
	case <-s.wake:
	case <-resume:
	case <-ctx.Done():
		return false
	}
	return true
}

// nextMessage is what to send now, or nil and how long nothing may be submitted; 0: until something
// changes.
func (s *session) nextMessage(now time.Time) (*plaitv1.SubmitStreamRequest, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.awaits) > 0 || len(s.forgets) > 0 {
		return s.awaitMessage(), 0
	}
	if pause := s.resumeAt.Sub(now); pause > 0 {
		return nil, pause
	}
	if s.cursor == len(s.unacked) {
		if len(s.unacked) >= framesInFlightMax {
			return nil, 0
		}
		f := s.nextFrame(now)
		if f == nil {
			return nil, 0
		}
		s.unacked = append(s.unacked, f)
	}
	f := s.unacked[s.cursor]
	s.cursor++
	return f.message(now), 0
}

// awaitMessage takes awaits of one flow, or of none, and forgets. The caller holds the lock.
func (s *session) awaitMessage() *plaitv1.SubmitStreamRequest {
	forgets := min(len(s.forgets), awaitTasksMax)
	await := &plaitv1.AwaitFrame{Forget: slices.Clone(s.forgets[:forgets])}
	s.forgets = append(s.forgets[:0], s.forgets[forgets:]...)
	n := 0
	for n < len(s.awaits) && n < awaitTasksMax && s.awaits[n].parent == s.awaits[0].parent {
		if w := s.awaits[n]; !w.gone {
			await.Tasks = append(await.Tasks, w.task)
		}
		n++
	}
	if n > 0 {
		await.Parent = s.awaits[0].parent.flowParent()
		s.awaits = append(s.awaits[:0], s.awaits[n:]...)
	}
	return &plaitv1.SubmitStreamRequest{Message: &plaitv1.SubmitStreamRequest_Await{Await: await}}
}

// nextFrame takes what waits, in order, as far as it agrees about wanting results. The caller holds
// the lock.
func (s *session) nextFrame(now time.Time) *frame {
	var f *frame
	bytes := 0
	for {
		sub, ok := s.queue.peek()
		if !ok || (f != nil && (len(f.submissions) == s.frameTasksMax || sub.await != f.await ||
			bytes+sub.size > frameBytesMax)) {
			break
		}
		s.queue.pop()
		if !s.sendable(sub, now) {
			continue
		}
		if f == nil {
			f = &frame{sequence: s.sequence, await: sub.await}
			s.sequence++
		}
		sub.state = stateSent
		f.submissions = append(f.submissions, sub)
		bytes += sub.size
	}
	return f
}

func (s *session) sendable(sub *submission, now time.Time) bool {
	switch {
	case sub.state == stateDropped:
		return false
	case !sub.expires.IsZero() && !sub.expires.After(now):
		s.answer(sub, status.Error(codes.DeadlineExceeded,
			"the deadline passed before the task could be submitted"))
		return false
	case s.payloadBytesMax > 0 && uint64(len(sub.payload)) > s.payloadBytesMax:
		s.answer(sub, tooLarge("request", uint64(len(sub.payload)), s.payloadBytesMax))
		return false
	}
	return true
}

// optionsAt are the options as they are sent at a time.
func (sub *submission) optionsAt(now time.Time) *plaitv1.TaskOptions {
	if sub.expires.IsZero() {
		return sub.options
	}
	left := max(sub.expires.Sub(now), time.Millisecond)
	options := &plaitv1.TaskOptions{Deadline: durationpb.New(left)}
	if o := sub.options; o != nil {
		options.Delay, options.Priority, options.Metadata = o.Delay, o.Priority, o.Metadata
		options.Parent = o.Parent
		if o.Deadline != nil && o.Deadline.AsDuration() < left {
			options.Deadline = o.Deadline
		}
	}
	return options
}
