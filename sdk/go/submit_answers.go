package plait

import (
	"bytes"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

func (s *session) receiveLoop(stream submitStream) error {
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		s.answered = true
		switch m := answer.GetMessage().(type) {
		case *plaitv1.SubmitStreamResponse_Accepted:
			s.accepted(m.Accepted)
		case *plaitv1.SubmitStreamResponse_Results:
			s.results(m.Results)
		default:
			// A message of a newer broker is ignored (newer brokers may say more).
		}
	}
}

// accepted answers the submissions of a frame, or holds back all frames from it on.
func (s *session) accepted(a *plaitv1.SequencedAccepted) {
	s.mu.Lock()
	index := slices.IndexFunc(s.unacked[:s.cursor], func(f *frame) bool {
		return f.sequence == a.GetSequence()
	})
	if index < 0 {
		s.mu.Unlock() // Answered before, on a broken stream; or held back meanwhile.
		return
	}
	if a.GetRetryAfter() != nil {
		s.cursor = index
		s.resumeAt = time.Now().Add(a.GetRetryAfter().AsDuration())
		s.mu.Unlock()
		s.poke()
		return
	}
	f := s.unacked[index]
	s.unacked = append(s.unacked[:index], s.unacked[index+1:]...)
	s.cursor--
	s.answerFrame(f, a.GetAccepted())
	more := s.queue.len() > 0 || s.cursor < len(s.unacked) || len(s.awaits)+len(s.forgets) > 0
	s.mu.Unlock()
	if more {
		s.poke()
	}
	for _, sub := range f.submissions {
		sub.accepted.fire()
		if sub.err != nil {
			sub.wait.fail(sub.err)
		}
	}
}

// answerFrame records what became of each submission of a frame. The caller holds the lock and
// fires afterwards.
func (s *session) answerFrame(f *frame, a *plaitv1.AcceptedFrame) {
	for i, sub := range f.submissions {
		sub.state = stateAnswered
		sub.payload = nil
		if i < len(a.GetTasks()) {
			sub.wait.task = a.GetTasks()[i]
		}
	}
	for _, r := range a.GetRefusals() {
		if int(r.GetIndex()) < len(f.submissions) {
			f.submissions[r.GetIndex()].err = status.ErrorProto(r.GetStatus())
		}
	}
	for _, sub := range f.submissions {
		switch {
		case sub.wait.task == 0 && sub.err == nil:
			sub.err = status.Error(codes.Internal, "the broker neither took nor refused the task")
		case sub.err != nil || !sub.await:
		case sub.wait.gone:
			s.forget(sub.wait.task)
		default:
			s.addWait(&sub.wait)
		}
	}
	s.awaitForgotten(f, a.GetExisting())
}

// awaitForgotten asks again for results that the broker was told to forget after the frame was
// sent.
func (s *session) awaitForgotten(f *frame, existing []uint32) {
	for _, i := range existing {
		if int(i) >= len(f.submissions) {
			continue
		}
		w := &f.submissions[i].wait
		last, forgotten := s.forgotten[w.task]
		if forgotten && f.await && last >= f.sequence && !w.gone {
			s.awaits = append(s.awaits, w)
		}
	}
	for task, last := range s.forgotten {
		if len(s.unacked) == 0 || last < s.unacked[0].sequence {
			delete(s.forgotten, task)
		}
	}
}

// results hands results to whoever waits for them.
func (s *session) results(r *plaitv1.ResultFrame) {
	var failures map[uint32]*plaitv1.Failure
	if len(r.GetFailures()) > 0 {
		failures = make(map[uint32]*plaitv1.Failure, len(r.GetFailures()))
		for _, failure := range r.GetFailures() {
			failures[failure.GetIndex()] = failure
		}
	}
	waits := make([]*wait, len(r.GetTasks()))
	s.mu.Lock()
	for i, task := range r.GetTasks() {
		w := s.waits[task]
		if w == nil {
			continue
		}
		waits[i] = w
		delete(s.waits, task)
		for ; w != nil; w = w.next {
			w.soon = w.soon || w.listeners > 0
		}
	}
	s.mu.Unlock()
	for i, w := range waits {
		for w != nil {
			next := w.next // Whoever waits may take w apart once it is done.
			w.failure = failures[count32(i)]
			if i < len(r.GetPayloads()) {
				w.take(r.GetPayloads()[i])
			}
			w.done.fire()
			w = next
		}
	}
}

// take keeps a payload. One that nobody waits for now is copied, or it would keep its whole frame.
func (w *wait) take(payload []byte) {
	if !w.soon {
		payload = bytes.Clone(payload)
	}
	w.payload = payload
}
