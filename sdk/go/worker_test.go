package plait

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// handlers is a service whose Echo a test supplies.
type handlers struct {
	testingv1.UnimplementedEchoServiceServer
	echo func(context.Context, *testingv1.EchoRequest) (*testingv1.EchoResponse, error)
}

func (h handlers) Echo(
	ctx context.Context,
	r *testingv1.EchoRequest,
) (*testingv1.EchoResponse, error) {
	return h.echo(ctx, r)
}

func same(_ context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
	return &testingv1.EchoResponse{Payload: r.GetPayload()}, nil
}

// working is a worker that runs until the test ends.
type working struct {
	worker *Worker
	client *Client
	ran    <-chan outcome[struct{}]
}

func startWorker(
	t *testing.T, s *script,
	echo func(context.Context, *testingv1.EchoRequest) (*testingv1.EchoResponse, error),
	options ...WorkerOption,
) working {
	t.Helper()
	client := connect(t, s.address)
	w := client.Worker(append([]WorkerOption{WithoutSignals(), WithGrace(patience)}, options...)...)
	return working{worker: w, client: client, ran: runWorker(t, s, w, handlers{echo: echo})}
}

// runWorker runs a worker until the test ends.
func runWorker(t *testing.T, s *script, w *Worker, h handlers) <-chan outcome[struct{}] {
	t.Helper()
	testingv1.RegisterEchoServiceServer(w, h)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	ran := begin(func() (struct{}, error) {
		defer close(ended)
		return struct{}{}, w.Run(ctx)
	})
	t.Cleanup(func() {
		// Neither the broker nor the handlers are waited for: the test is over.
		s.server.Stop()
		cancel()
		w.cutOff()
		<-ended
	})
	return ran
}

func echoAttempt(t *testing.T, sequence, task, token uint64, text string) *plaitv1.AttemptFrame {
	t.Helper()
	payload, err := proto.Marshal(request(text))
	if err != nil {
		t.Fatal(err)
	}
	return &plaitv1.AttemptFrame{
		Sequence: sequence, Tasks: []uint64{task}, Tokens: []uint64{token},
		Payloads: [][]byte{payload}, TimeoutMs: []uint64{60_000},
	}
}

func TestWorker_SaysWhoItIsAndAnswersAttempts(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	w := startWorker(t, s, same, WithName("echo"), WithVersion("v3"), WithConcurrency(7))
	l, hello := s.attached(t, time.Minute)
	if hello.GetWorker() != w.worker.ID() || hello.GetName() != "echo" ||
		hello.GetVersion() != "v3" || hello.GetSlots() != 7 ||
		hello.GetClient() != clientName ||
		hello.GetMethods()[0] != testingv1.EchoService_Echo_FullMethodName {
		t.Fatalf("hello = %v", hello)
	}
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	m := until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetOutcomes() != nil })
	f := m.GetOutcomes()
	if m.GetAcceptedSequence() != 1 || f.GetSequence() != 1 || f.GetTasks()[0] != 7 ||
		f.GetTokens()[0] != 70 ||
		string(f.GetPayloads()[0]) != string(echoed(t, "a")) ||
		len(f.GetFailures()) != 0 {
		t.Fatalf("message = %v", m)
	}
}

func TestWorker_ServesOnlyTheMethodsItIsToldTo(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startWorker(t, s, same, WithMethods("Fail", "Echo"))
	l, hello := s.attached(t, time.Minute)
	want := []string{
		testingv1.EchoService_Echo_FullMethodName, testingv1.EchoService_Fail_FullMethodName,
	}
	if !slices.Equal(hello.GetMethods(), want) {
		t.Fatalf("methods = %v", hello.GetMethods())
	}
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	if f := outcomesFrom(t, l); len(f.GetFailures()) != 0 {
		t.Fatalf("outcomes = %v", f)
	}
}

func TestWorker_SaysWhenItIsAttached(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	working := startWorker(t, s, same)
	// Announced, and not welcomed yet.
	eventually(t, func() bool { return len(s.announcements()) == 1 })
	select {
	case <-working.worker.Attached():
		t.Fatal("attached before the welcome")
	default:
	}
	l, _ := s.attached(t, time.Minute)
	<-working.worker.Attached()
	l.stop(t, status.Error(codes.Unavailable, "broken"))
	s.attached(t, time.Minute)
	<-working.worker.Attached()
}

func TestWorker_AcknowledgesAttemptsThatTakeLong(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startWorker(
		t,
		s,
		func(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	)
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	if m := l.read(t); m.GetAcceptedSequence() != 1 || m.GetMessage() != nil {
		t.Fatalf("message = %v, want a bare acknowledgement", m)
	}
}

func TestWorker_HandlerSeesWhatAGRPCServerWouldShow(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	seen := make(chan metadata.MD, 1)
	startWorker(
		t,
		s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left > time.Minute || left < 50*time.Second {
				t.Errorf("deadline = %v, %v", deadline, ok)
			}
			if p, ok := peer.FromContext(ctx); !ok || p.Addr.String() != s.address {
				t.Errorf("peer = %v", p)
			}
			if method, _ := grpc.Method(ctx); method != testingv1.EchoService_Echo_FullMethodName {
				t.Errorf("method = %q", method)
			}
			a, ok := AttemptFrom(ctx)
			if !ok || a.Number() != 3 || a.TaskID() != "t0000000000000007" ||
				a.IdempotencyKey() != "key" || a.OrderingKey() != "order" ||
				a.FencingToken() != 70 {
				t.Errorf("attempt = %v", a)
			}
			if err := errors.Join(grpc.SetHeader(ctx, nil), grpc.SendHeader(ctx, nil)); err != nil {
				t.Errorf("header: %v", err)
			}
			seen <- md
			return same(ctx, r)
		},
	)
	l, _ := s.attached(t, time.Minute)
	f := echoAttempt(t, 1, 7, 70, "a")
	f.Extras = []*plaitv1.AttemptExtra{{
		Attempt: 3, IdempotencyKey: "key", OrderingKey: "order",
		Metadata: []*plaitv1.Metadatum{{Key: "x-tenant", Value: []byte("blue")}},
	}}
	assign(t, l, f)
	outcomesFrom(t, l)
	md := next(t, seen)
	want := map[string]string{
		"x-tenant": "blue", keyTaskID: "t0000000000000007", keyAttempt: "3", keyFencingToken: "70",
		keyIdempotencyKey: "key",
	}
	for key, value := range want {
		if got := md.Get(key); len(got) != 1 || got[0] != value {
			t.Errorf("%s = %v, want %q", key, got, value)
		}
	}
	if len(md) != len(want) {
		t.Errorf("metadata = %v", md)
	}
}

func TestWorker_FailureKeepsStatusDetailsAndTrailers(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	st, err := status.New(
		codes.Aborted,
		"later",
	).WithDetails(
		&errdetails.ErrorInfo{Reason: "BUSY", Domain: "shop"},
	)
	if err != nil {
		t.Fatal(err)
	}
	startWorker(
		t,
		s,
		func(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("x-why", "busy", "grpc-status", "0"))
			return nil, st.Err()
		},
	)
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	f := outcomesFrom(t, l)
	failure := f.GetFailures()[0]
	details, err := proto.Marshal(st.Proto())
	if err != nil {
		t.Fatal(err)
	}
	if failure.GetCode() != uint32(codes.Aborted) || failure.GetMessage() != "later" ||
		string(failure.GetDetails()) != string(details) || len(failure.GetTrailers()) != 1 ||
		failure.GetTrailers()[0].GetKey() != "x-why" || len(f.GetPayloads()[0]) != 0 {
		t.Fatalf("failure = %v", failure)
	}
}

func TestWorker_UncaughtErrorsAreUnknownAndThePanicsTextIsKept(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handler func() error
		code    codes.Code
		message string
	}{
		"error": {func() error { return errors.New("plain") }, codes.Unknown, "plain"},
		"deadline": {
			func() error { return context.DeadlineExceeded }, codes.DeadlineExceeded, "exceeded",
		},
		"panic":     {func() error { panic("boom") }, codes.Unknown, "panic: boom"},
		"goexit":    {func() error { runtime.Goexit(); return nil }, codes.Unknown, "ended its"},
		"too large": {func() error { return nil }, codes.InvalidArgument, "the response has"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startScript(t)
			startWorker(
				t,
				s,
				func(context.Context, *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
					return &testingv1.EchoResponse{Payload: make([]byte, 2<<20)}, c.handler()
				},
				WithConcurrency(1),
			)
			l, _ := s.attached(t, time.Minute)
			// Twice: the slot and the process live on.
			for i := uint64(1); i <= 2; i++ {
				assign(t, l, echoAttempt(t, i, i, i, "a"))
				failure := outcomesFrom(t, l).GetFailures()[0]
				if failure.GetCode() != uint32(c.code) ||
					!strings.Contains(failure.GetMessage(), c.message) {
					t.Fatalf("failure = %v, want %v %q", failure, c.code, c.message)
				}
			}
		})
	}
}

func TestWorker_AttemptWhoseTimeIsOverFailsThoughItsHandlerGoesOn(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	goOn := make(chan struct{})
	told := make(chan error, 1)
	startWorker(
		t,
		s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			<-ctx.Done()
			told <- ctx.Err()
			<-goOn
			return same(ctx, r)
		},
	)
	l, _ := s.attached(t, time.Minute)
	f := echoAttempt(t, 1, 7, 70, "a")
	f.TimeoutMs[0] = 20
	assign(t, l, f)
	failure := outcomesFrom(t, l).GetFailures()[0]
	wantCode(
		t,
		failureError(failure),
		codes.DeadlineExceeded,
		plaitv1.ErrorReason_ERROR_REASON_ATTEMPT_TIMED_OUT,
	)
	if err := next(t, told); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the handler was told %v", err)
	}
	close(goOn)
}

func TestWorker_AttemptWhoseTimeIsOverNeverStarts(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	hold := make(chan struct{})
	var mu sync.Mutex
	var ran []string
	startWorker(
		t,
		s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			mu.Lock()
			ran = append(ran, string(r.GetPayload()))
			mu.Unlock()
			<-hold
			return same(ctx, r)
		},
		WithConcurrency(1),
	)
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 1, 1, "first"))
	late := echoAttempt(t, 2, 2, 2, "late")
	late.TimeoutMs[0] = 20
	assign(t, l, late)
	if f := outcomesFrom(t, l); f.GetTasks()[0] != 2 {
		t.Fatalf("outcome = %v", f)
	}
	close(hold)
	if f := outcomesFrom(t, l); f.GetTasks()[0] != 1 {
		t.Fatalf("outcome = %v", f)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ran) != 1 {
		t.Fatalf("ran %v", ran)
	}
}

func TestWorker_StoppedHandlerIsToldAndSendsNothing(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	told := make(chan error, 1)
	running := make(chan struct{}, 1)
	startWorker(
		t,
		s,
		func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			if string(r.GetPayload()) == "stop" {
				// A derived context is told too.
				derived, cancel := context.WithCancel(ctx)
				defer cancel()
				running <- struct{}{}
				<-derived.Done()
				told <- derived.Err()
			}
			return same(ctx, r)
		},
	)
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "stop"))
	next(t, running)
	stop := func(token uint64) {
		l.say(
			t,
			&plaitv1.AttachResponse{Message: &plaitv1.AttachResponse_Stop{Stop: &plaitv1.StopFrame{
				Entries: []*plaitv1.StoppedAttempt{
					{Task: 7, Token: token, Reason: plaitv1.StopReason_STOP_REASON_CANCELLED},
				},
			}}},
		)
	}
	stop(69) // Another token is another attempt.
	stop(70)
	if err := next(t, told); !errors.Is(err, context.Canceled) {
		t.Fatalf("told %v", err)
	}
	assign(t, l, echoAttempt(t, 2, 8, 80, "a"))
	if f := outcomesFrom(t, l); len(f.GetTasks()) != 1 || f.GetTasks()[0] != 8 {
		t.Fatalf("outcomes = %v", f)
	}
}

func TestWorker_ReportsTheLatestProgress(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	startWorker(
		t,
		s,
		func(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			a, _ := AttemptFrom(ctx)
			a.Progress(0.5, "half")
			<-ctx.Done()
			return nil, ctx.Err()
		},
	)
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	m := until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetProgress() != nil })
	e := m.GetProgress().GetEntries()[0]
	if e.GetTask() != 7 || e.GetToken() != 70 || e.GetProgress().GetFraction() != 0.5 ||
		e.GetProgress().GetMessage() != "half" {
		t.Fatalf("progress = %v", e)
	}
}

func TestWorker_InterceptorsAreAroundEveryHandlerInTheirOrder(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	add := func(text string) WorkerOption {
		return WithUnaryInterceptor(func(
			ctx context.Context, r any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
		) (any, error) {
			response, err := handler(ctx, r)
			if echo, ok := response.(*testingv1.EchoResponse); ok {
				echo.Payload = append(echo.Payload, text...)
			}
			return response, err
		})
	}
	startWorker(t, s, same, add("1"), add("2"), add("3"))
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	if f := outcomesFrom(t, l); string(f.GetPayloads()[0]) != string(echoed(t, "a321")) {
		t.Fatalf("outcomes = %v", f)
	}
}

func TestWorker_RunTakesWhatItNeeds(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	client := connect(t, s.address)
	if err := client.Worker().Run(t.Context()); err == nil {
		t.Fatal("a worker without services ran")
	}
	w := startWorker(t, s, same)
	s.attached(t, time.Minute)
	if err := w.worker.Run(t.Context()); err == nil {
		t.Fatal("a worker ran twice")
	}
}

func TestRegister_RefusesWhatCannotBeServed(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	streaming := &grpc.ServiceDesc{
		ServiceName: "a.B", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Tail"}},
	}
	for name, c := range map[string]struct {
		desc    *grpc.ServiceDesc
		service any
		want    string
	}{
		"streaming": {streaming, handlers{}, "method Tail is streaming"},
		"another":   {&testingv1.EchoService_ServiceDesc, struct{}{}, "does not implement"},
		"twice":     {&testingv1.EchoService_ServiceDesc, handlers{}, "registered already"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := connect(t, s.address).Worker()
			if name == "twice" {
				testingv1.RegisterEchoServiceServer(w, handlers{})
			}
			defer func() {
				if text, _ := recover().(string); !strings.Contains(text, c.want) {
					t.Fatalf("panic %q, want %q", text, c.want)
				}
			}()
			w.RegisterService(c.desc, c.service)
		})
	}
}
