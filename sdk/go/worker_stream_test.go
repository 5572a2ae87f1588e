package plait

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

func TestWorker_BeatsAndNoticesASilentBroker(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startWorker(t, s, same)
	l, _ := s.attached(t, 20*time.Millisecond)
	until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetHeartbeat() != nil })
	select {
	case <-l.ended:
	case <-time.After(patience):
		t.Fatal("a silent broker was kept")
	}
	s.attached(t, time.Minute)
}

func TestWorker_KeepsAStreamWhoseBrokerBeats(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startWorker(t, s, same)
	// Three of these in silence are more than a busy machine makes by itself.
	l, _ := s.attached(t, time.Second)
	for range 7 { // It beats twice an interval: seven of its heartbeats take longer than three.
		until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetHeartbeat() != nil })
		l.say(t, &plaitv1.AttachResponse{Message: &plaitv1.AttachResponse_Heartbeat{
			Heartbeat: &plaitv1.BrokerHeartbeat{},
		}})
	}
}

func TestWorker_ReconnectsWithWhatItHolds(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	hold := make(chan struct{})
	started := make(chan string, 3)
	lost := make(chan error, 1)
	startWorker(
		t,
		s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			started <- string(r.GetPayload())
			switch string(r.GetPayload()) {
			case "kept":
				<-hold
			case "lost":
				<-ctx.Done()
				lost <- ctx.Err()
			}
			return same(ctx, r)
		},
	)
	l, first := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 1, 10, "done"))
	assign(t, l, echoAttempt(t, 2, 2, 20, "kept"))
	assign(t, l, echoAttempt(t, 3, 3, 30, "lost"))
	if f := outcomesFrom(t, l); f.GetTasks()[0] != 1 {
		t.Fatalf("outcomes = %v", f)
	}
	for range 3 {
		next(t, started)
	}
	l.stop(t, status.Error(codes.Canceled, "the broker restarts")) // Task 1 is not settled.
	l, again := s.attached(t, time.Minute, &plaitv1.HeldLease{Task: 3, Token: 30})
	if again.GetWorker() != first.GetWorker() || len(again.GetHeld()) != 3 {
		t.Fatalf("hello = %v", again)
	}
	_ = next(t, lost)
	f := outcomesFrom(t, l)
	if f.GetSequence() != 1 || len(f.GetTasks()) != 1 || f.GetTasks()[0] != 1 ||
		f.GetTokens()[0] != 10 {
		t.Fatalf("the unsettled outcome came again as %v", f)
	}
	close(hold)
	if f = outcomesFrom(t, l); f.GetSequence() != 2 || len(f.GetTasks()) != 1 ||
		f.GetTasks()[0] != 2 {
		t.Fatalf("outcomes = %v", f)
	}
	settle(t, l, 2)
	l.stop(t, status.Error(codes.Unavailable, "again"))
	if _, hello := s.attached(t, time.Minute); len(hello.GetHeld()) != 0 {
		t.Fatalf("hello = %v", hello)
	}
}

func TestWorker_AnnouncesAgainToABrokerThatForgot(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	s.refusals = []error{refusal(codes.Unavailable,
		plaitv1.ErrorReason_ERROR_REASON_SCHEDULER_UNAVAILABLE, "no scheduler", nil)}
	startWorker(t, s, same)
	l := next(t, s.attaches)
	l.stop(t, methodUnknown("/testing.v1.EchoService/Echo"))
	s.attached(t, time.Minute)
	if n := len(s.announcements()); n != 3 {
		t.Fatalf("announced %d times, want 3", n)
	}
}

func TestWorker_RefusedContractEndsRun(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	s.refusals = []error{refusal(codes.InvalidArgument,
		plaitv1.ErrorReason_ERROR_REASON_POLICY_INVALID, "echo.proto: Echo: deadline", nil)}
	w := startWorker(t, s, same)
	wantCode(
		t,
		next(t, w.ran).err,
		codes.InvalidArgument,
		plaitv1.ErrorReason_ERROR_REASON_POLICY_INVALID,
	)
}

func TestWorker_DrainFinishesHandsBackAndEnds(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	hold := make(chan struct{})
	running := make(chan struct{}, 1)
	w := startWorker(
		t,
		s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			running <- struct{}{}
			<-hold
			return same(ctx, r)
		},
		WithConcurrency(1),
	)
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 1, 10, "runs"))
	assign(t, l, echoAttempt(t, 2, 2, 20, "waits"))
	next(t, running)
	until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetAcceptedSequence() == 2 })
	w.worker.Stop()
	until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetDrain() != nil })
	back := until(
		t,
		l,
		func(m *plaitv1.AttachRequest) bool { return m.GetHandBack() != nil },
	).GetHandBack()
	if len(back.GetTasks()) != 1 || back.GetTasks()[0] != 2 || back.GetTokens()[0] != 20 {
		t.Fatalf("handed back %v", back)
	}
	assign(t, l, echoAttempt(t, 3, 3, 30, "came too late"))
	back = until(
		t,
		l,
		func(m *plaitv1.AttachRequest) bool { return m.GetHandBack() != nil },
	).GetHandBack()
	if len(back.GetTasks()) != 1 || back.GetTasks()[0] != 3 {
		t.Fatalf("handed back %v", back)
	}
	close(hold)
	f := outcomesFrom(t, l)
	if f.GetTasks()[0] != 1 {
		t.Fatalf("outcomes = %v", f)
	}
	settle(t, l, f.GetSequence())
	select {
	case <-l.closed:
	case <-time.After(patience):
		t.Fatal("the worker did not close its side")
	}
	l.stop(t, nil)
	if err := next(t, w.ran).err; err != nil {
		t.Fatal(err)
	}
}

func TestWorker_DrainCutsOffWhatOutlivesTheGrace(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	told := make(chan error, 1)
	w := startWorker(
		t,
		s,
		func(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			<-ctx.Done()
			told <- ctx.Err()
			return nil, ctx.Err()
		},
		WithGrace(20*time.Millisecond),
	)
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 1, 10, "long"))
	until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetAcceptedSequence() == 1 })
	w.worker.Stop()
	if err := next(t, w.ran).err; err == nil ||
		!strings.Contains(err.Error(), "1 attempts were cut off") {
		t.Fatalf("err = %v", err)
	}
	_ = next(t, told)
}

func TestWorker_SecondStopDoesNotWaitForHandlers(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	hold := make(chan struct{})
	defer close(hold)
	running := make(chan struct{}, 1)
	w := startWorker(
		t,
		s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			running <- struct{}{}
			<-hold // It does not heed its context.
			return same(ctx, r)
		},
		WithGrace(time.Hour),
	)
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	next(t, running)
	w.worker.Stop()
	until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetDrain() != nil })
	w.worker.Stop()
	w.worker.Stop() // A third one changes nothing.
	err := next(t, w.ran).err
	if err == nil || !strings.Contains(err.Error(), "1 attempts were cut off") {
		t.Fatalf("err = %v", err)
	}
}
