package plait

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// startFlow is a worker whose handler "flow" has a stub of the same client.
func startFlow(
	t *testing.T, s *script, flow func(context.Context, testingv1.EchoServiceClient) error,
	options ...WorkerOption,
) working {
	t.Helper()
	var c testingv1.EchoServiceClient
	ready := make(chan struct{})
	w := startWorker(
		t,
		s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			if string(r.GetPayload()) != "flow" {
				return same(ctx, r)
			}
			<-ready
			return &testingv1.EchoResponse{}, flow(ctx, c)
		},
		options...)
	c = testingv1.NewEchoServiceClient(w.client.Channel())
	close(ready)
	return w
}

func TestFlow_ChildNamesItsParentAndWantsItsResult(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startFlow(t, s, func(ctx context.Context, c testingv1.EchoServiceClient) error {
		task, err := Submit(ctx, c.Echo, request("child"), WithChildKey("first"))
		if err != nil {
			return err
		}
		_, err = task.Result(ctx)
		return err
	})
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "flow"))
	sl, _ := s.welcome(t, 0)
	f := frameOf(t, sl)
	options := f.GetTasks().GetCommon()
	if p := options.GetParent(); p.GetTask() != 7 || p.GetToken() != 70 ||
		p.GetChildKey() != "first" {
		t.Fatalf("parent = %v", p)
	}
	if !f.GetAwait() || options.GetDeadline() != nil || f.GetTasks().GetOptions() != nil {
		t.Fatalf("frame = %v", f)
	}
	acceptTasks(t, sl, 1, 8)
	results(t, sl, &plaitv1.ResultFrame{Tasks: []uint64{8}, Payloads: [][]byte{echoed(t, "child")}})
	if f := outcomesFrom(t, l); len(f.GetFailures()) != 0 {
		t.Fatalf("outcomes = %v", f)
	}
}

func TestFlow_DeadlineOfTheHandlersOwnIsTheChilds(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startFlow(t, s, func(ctx context.Context, c testingv1.EchoServiceClient) error {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		_, err := c.Echo(ctx, request("child"))
		return err
	})
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "flow")) // It has a minute.
	sl, _ := s.welcome(t, 0)
	options := frameOf(t, sl).GetTasks().GetOptions()[0].GetOptions()
	if left := options.GetDeadline().AsDuration(); left <= 0 || left > 30*time.Second {
		t.Fatalf("deadline = %v", left)
	}
	if options.GetParent().GetTask() != 7 {
		t.Fatalf("parent = %v", options.GetParent())
	}
}

func TestFlow_DetachedChannelMakesAnOrdinaryTask(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	detached := make(chan testingv1.EchoServiceClient, 1)
	w := startFlow(t, s, func(ctx context.Context, _ testingv1.EchoServiceClient) error {
		_, err := Submit(ctx, (<-detached).Echo, request("other"))
		return err
	})
	detached <- testingv1.NewEchoServiceClient(w.client.Channel(Detached()))
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "flow"))
	sl, _ := s.welcome(t, 0)
	if f := frameOf(t, sl); f.GetAwait() || f.GetTasks().GetCommon().GetParent() != nil {
		t.Fatalf("frame = %v", f)
	}
	acceptTasks(t, sl, 1, 8)
	outcomesFrom(t, l)
}

func TestFlow_GivesItsSlotBackWhileItWaits(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startFlow(t, s, func(ctx context.Context, c testingv1.EchoServiceClient) error {
		_, err := c.Echo(ctx, request("child"))
		return err
	}, WithConcurrency(1))
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "flow"))
	sl, _ := s.welcome(t, 0)
	frameOf(t, sl)
	acceptTasks(t, sl, 1, 8)
	// The only slot is the flow's; its child runs in it.
	assign(t, l, echoAttempt(t, 2, 8, 80, "child"))
	if f := outcomesFrom(t, l); f.GetTasks()[0] != 8 {
		t.Fatalf("outcomes = %v", f)
	}
	results(t, sl, &plaitv1.ResultFrame{Tasks: []uint64{8}, Payloads: [][]byte{echoed(t, "child")}})
	if f := outcomesFrom(t, l); f.GetTasks()[0] != 7 || len(f.GetFailures()) != 0 {
		t.Fatalf("outcomes = %v", f)
	}
}

func TestFlow_WaitEndsWhenTheAttemptIsStopped(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	told := make(chan error, 1)
	startFlow(t, s, func(ctx context.Context, c testingv1.EchoServiceClient) error {
		_, err := c.Echo(ctx, request("child"))
		told <- err
		return err
	})
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "flow"))
	sl, _ := s.welcome(t, 0)
	frameOf(t, sl)
	acceptTasks(t, sl, 1, 8)
	l.say(t, &plaitv1.AttachResponse{Message: &plaitv1.AttachResponse_Stop{Stop: &plaitv1.StopFrame{
		Entries: []*plaitv1.StoppedAttempt{
			{Task: 7, Token: 70, Reason: plaitv1.StopReason_STOP_REASON_EXPIRED},
		},
	}}})
	wantCode(t, next(t, told), codes.DeadlineExceeded, noReason)
	if await := awaitOf(t, sl); !slices.Equal(await.GetForget(), []uint64{8}) {
		t.Fatalf("await = %v", await)
	}
}

func TestFlow_AwaitsAgainAsTheFlowThatWaits(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startFlow(t, s, func(ctx context.Context, c testingv1.EchoServiceClient) error {
		_, err := c.Echo(ctx, request("child"))
		return err
	})
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "flow"))
	sl, _ := s.welcome(t, 0)
	frameOf(t, sl)
	acceptTasks(t, sl, 1, 8)
	results(t, sl, &plaitv1.ResultFrame{Tasks: []uint64{99}}) // For nobody; it is ignored.
	sl.stop(t, status.Error(codes.Unavailable, "restarting"))
	sl, _ = s.welcome(t, 1)
	// Whether the acceptance was read before the stream broke or not, the result is asked for again
	// for the flow.
	m := sl.read(t)
	if f := m.GetSubmit(); f != nil {
		if f.GetTasks().GetCommon().GetParent().GetTask() != 7 {
			t.Fatalf("frame = %v", f)
		}
		acceptTasks(t, sl, 1, 8)
	} else if p := m.GetAwait().GetParent(); p.GetTask() != 7 || p.GetToken() != 70 {
		t.Fatalf("message = %v", m)
	}
	results(t, sl, &plaitv1.ResultFrame{Tasks: []uint64{8}, Payloads: [][]byte{echoed(t, "child")}})
	if f := outcomesFrom(t, l); f.GetTasks()[0] != 7 || len(f.GetFailures()) != 0 {
		t.Fatalf("outcomes = %v", f)
	}
}

func TestFlow_DrainUnloadsAWaitingFlow(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	told := make(chan error, 1)
	w := startFlow(t, s, func(ctx context.Context, c testingv1.EchoServiceClient) error {
		_, err := c.Echo(ctx, request("child"))
		told <- err
		return err
	})
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "flow"))
	sl, _ := s.welcome(t, 0)
	frameOf(t, sl)
	acceptTasks(t, sl, 1, 8)
	w.worker.Stop()
	m := until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetSuspend() != nil })
	if f := m.GetSuspend(); !slices.Equal(f.GetTasks(), []uint64{7}) ||
		!slices.Equal(f.GetTokens(), []uint64{70}) {
		t.Fatalf("suspended %v", f)
	}
	wantCode(t, next(t, told), codes.Canceled, noReason)
	l.stop(t, nil)
	if err := next(t, w.ran).err; err != nil {
		t.Fatal(err)
	}
}

func TestFlow_TraceContextIsPassedOnWithoutATracer(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	s := startScript(t)
	startFlow(t, s, func(ctx context.Context, c testingv1.EchoServiceClient) error {
		if sc := trace.SpanContextFromContext(ctx); !sc.IsRemote() ||
			sc.SpanID().String() != "b7ad6b7169203331" {
			return errors.New("the handler's span context is " + sc.SpanID().String())
		}
		_, err := c.Echo(ctx, request("child"))
		return err
	})
	l, _ := s.attached(t, time.Minute)
	f := echoAttempt(t, 1, 7, 70, "flow")
	f.Extras = []*plaitv1.AttemptExtra{{Metadata: []*plaitv1.Metadatum{
		{Key: "traceparent", Value: []byte(parent)}, {Key: "tracestate", Value: []byte("a=b")},
	}}}
	assign(t, l, f)
	sl, _ := s.welcome(t, 0)
	md := frameOf(t, sl).GetTasks().GetCommon().GetMetadata()
	if metadatumValue(md, "traceparent") != parent || metadatumValue(md, "tracestate") != "a=b" {
		t.Fatalf("metadata = %v", md)
	}
	acceptTasks(t, sl, 1, 8)
	results(t, sl, &plaitv1.ResultFrame{Tasks: []uint64{8}, Payloads: [][]byte{echoed(t, "child")}})
	if f := outcomesFrom(t, l); len(f.GetFailures()) != 0 {
		t.Fatalf("outcomes = %v", f)
	}
}
