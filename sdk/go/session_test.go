package plait

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

func TestSession_ResumesUnacknowledgedFramesInOrder(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	first := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("1")) },
	)
	l, hello := s.welcome(t, 0)
	frameOf(t, l)
	second := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("2")) },
	)
	frameOf(t, l)
	// The first is durable, but the answer is lost; the second never arrived.
	l.stop(t, status.Error(codes.Unavailable, "restarting"))
	l, again := s.welcome(t, 1)
	if !bytes.Equal(hello.GetSession(), again.GetSession()) {
		t.Fatal("the session changed")
	}
	for sequence := uint64(1); sequence <= 2; sequence++ {
		f := frameOf(t, l)
		want, err := proto.Marshal(request(fmt.Sprint(sequence)))
		if err != nil {
			t.Fatal(err)
		}
		if f.GetSequence() != sequence || !bytes.Equal(f.GetTasks().GetPayloads()[0], want) {
			t.Fatalf("frame = %v, want number %d", f, sequence)
		}
		acceptTasks(t, l, sequence, sequence)
	}
	results(t, l, &plaitv1.ResultFrame{
		Tasks: []uint64{2, 1}, Payloads: [][]byte{echoed(t, "2"), echoed(t, "1")},
	})
	wantEcho(t, next(t, first), "1")
	wantEcho(t, next(t, second), "2")
}

func TestSession_AwaitsAcceptedTasksAgainAfterAReconnect(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	call := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("a")) },
	)
	l, _ := s.welcome(t, 0)
	frameOf(t, l)
	acceptTasks(t, l, 1, 7)
	// An answer to something sent afterwards tells that the acceptance was read.
	submit := begin(func() (*Task[testingv1.EchoResponse], error) {
		return Submit(t.Context(), c.Echo, request("b"))
	})
	frameOf(t, l)
	acceptTasks(t, l, 2, 8)
	next(t, submit)
	l.stop(t, status.Error(codes.Canceled, "the broker may say this too"))
	l, _ = s.welcome(t, 2)
	if await := awaitOf(t, l); len(await.GetTasks()) != 1 || await.GetTasks()[0] != 7 {
		t.Fatalf("await = %v", await)
	}
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{7}, Payloads: [][]byte{echoed(t, "a")}})
	wantEcho(t, next(t, call), "a")
}

func TestSession_UnknownToTheBrokerStartsANewOne(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	submit := begin(func() (*Task[testingv1.EchoResponse], error) {
		return Submit(t.Context(), c.Echo, request("a"))
	})
	l, hello := s.welcome(t, 0)
	frameOf(t, l)
	acceptTasks(t, l, 1, 1)
	next(t, submit)
	call := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("b")) },
	)
	if f := frameOf(t, l); f.GetSequence() != 2 {
		t.Fatalf("frame = %v", f)
	}
	l.stop(t, status.Error(codes.Unavailable, "wiped"))
	s.welcome(t, 0) // Wiped: it does not know that 1 was accepted.
	l, renewed := s.welcome(t, 0)
	if bytes.Equal(hello.GetSession(), renewed.GetSession()) {
		t.Fatal("the session is still the same")
	}
	if f := frameOf(t, l); f.GetSequence() != 1 || !f.GetAwait() {
		t.Fatalf("frame = %v", f)
	}
	acceptTasks(t, l, 1, 9)
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{9}, Payloads: [][]byte{echoed(t, "b")}})
	wantEcho(t, next(t, call), "b")
}

func TestSession_BackPressureHoldsBackFromTheRefusedFrameOn(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	var calls []<-chan outcome[*testingv1.EchoResponse]
	l := (*submitLine)(nil)
	for i := range 3 {
		calls = append(calls, begin(func() (*testingv1.EchoResponse, error) {
			return c.Echo(t.Context(), request(fmt.Sprint(i)))
		}))
		if l == nil {
			l, _ = s.welcome(t, 0)
		}
		frameOf(t, l)
	}
	acceptTasks(t, l, 1, 1)
	refused := time.Now()
	for sequence := uint64(2); sequence <= 3; sequence++ {
		accept(t, l, &plaitv1.SequencedAccepted{
			Sequence: sequence, RetryAfter: durationpb.New(50 * time.Millisecond),
		})
	}
	for sequence := uint64(2); sequence <= 3; sequence++ {
		if f := frameOf(t, l); f.GetSequence() != sequence {
			t.Fatalf("frame %d, want %d", f.GetSequence(), sequence)
		}
		acceptTasks(t, l, sequence, sequence)
	}
	if time.Since(refused) < 50*time.Millisecond {
		t.Fatal("the pause was not kept")
	}
	results(t, l, &plaitv1.ResultFrame{
		Tasks: []uint64{
			1,
			2,
			3,
		}, Payloads: [][]byte{echoed(t, "0"), echoed(t, "1"), echoed(t, "2")},
	})
	for i, call := range calls {
		wantEcho(t, next(t, call), fmt.Sprint(i))
	}
}

func TestSession_FillsFramesToTheirBound(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	client := connect(t, s.address)
	c := testingv1.NewEchoServiceClient(client.Channel())
	// Nothing is read before all are queued: the welcome waits.
	l := next(t, func() <-chan *submitLine {
		_, err := client.contracts.resolve(t.Context(), testingv1.EchoService_Echo_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		for range 600 {
			bulk := &callOption{kind: asHandle, handle: &handle{bulk: &bulkMode{}}}
			if _, err := c.Echo(t.Context(), request("x"), bulk); err != nil {
				t.Fatal(err)
			}
		}
		return s.submits
	}())
	l.read(t)
	l.say(t, &plaitv1.SubmitStreamResponse{Message: &plaitv1.SubmitStreamResponse_Welcome{
		Welcome: &plaitv1.SessionWelcome{FrameTasksMax: 1000, PayloadBytesMax: 1 << 20},
	}})
	for _, want := range []int{256, 256, 88} {
		if f := frameOf(t, l); len(f.GetTasks().GetPayloads()) != want {
			t.Fatalf("a frame of %d, want %d", len(f.GetTasks().GetPayloads()), want)
		}
	}
}

func TestSession_CancelledWaitIsForgottenAndTheTaskGoesOn(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	call := begin(func() (*testingv1.EchoResponse, error) { return c.Echo(ctx, request("a")) })
	l, _ := s.welcome(t, 0)
	frameOf(t, l)
	cancel()
	wantCode(t, next(t, call).err, codes.Canceled, noReason)
	acceptTasks(t, l, 1, 7)
	if await := awaitOf(t, l); len(await.GetForget()) != 1 || await.GetForget()[0] != 7 {
		t.Fatalf("await = %v", await)
	}
}

func TestSession_ForgottenTaskThatIsWantedAgainIsAwaited(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	first := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(ctx, request("a"), WithKey("k")) },
	)
	l, _ := s.welcome(t, 0)
	frameOf(t, l)
	second := begin(func() (*testingv1.EchoResponse, error) {
		return c.Echo(t.Context(), request("a"), WithKey("k"))
	})
	frameOf(t, l)
	acceptTasks(t, l, 1, 7)
	cancel()
	next(t, first)
	if await := awaitOf(t, l); await.GetForget()[0] != 7 {
		t.Fatalf("await = %v", await)
	}
	// The second frame asked for the same task before the broker read the forget.
	accept(t, l, &plaitv1.SequencedAccepted{
		Sequence: 2, Accepted: &plaitv1.AcceptedFrame{Tasks: []uint64{7}, Existing: []uint32{0}},
	})
	if await := awaitOf(t, l); len(await.GetTasks()) != 1 || await.GetTasks()[0] != 7 {
		t.Fatalf("await = %v", await)
	}
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{7}, Payloads: [][]byte{echoed(t, "a")}})
	wantEcho(t, next(t, second), "a")
}

func TestSession_AbandonedBeforeItWasSentIsNeverSent(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	client := connect(t, s.address)
	c := testingv1.NewEchoServiceClient(client.Channel())
	ctx, cancel := context.WithCancel(t.Context())
	gone := begin(func() (*testingv1.EchoResponse, error) { return c.Echo(ctx, request("gone")) })
	l := next(t, s.submits) // No welcome yet, so nothing is sent.
	cancel()
	next(t, gone)
	stays := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("stays")) },
	)
	l.read(t)
	l.say(t, &plaitv1.SubmitStreamResponse{Message: &plaitv1.SubmitStreamResponse_Welcome{
		Welcome: &plaitv1.SessionWelcome{},
	}})
	f := frameOf(t, l)
	want, err := proto.Marshal(request("stays"))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.GetTasks().GetPayloads()) != 1 || !bytes.Equal(f.GetTasks().GetPayloads()[0], want) {
		t.Fatalf("frame = %v", f)
	}
	acceptTasks(t, l, 1, 1)
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{1}, Payloads: [][]byte{echoed(t, "stays")}})
	wantEcho(t, next(t, stays), "stays")
}

func TestSession_RefusedForGoodTellsItsCallers(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	call := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("a")) },
	)
	l := next(t, s.submits)
	l.stop(t, status.Error(codes.PermissionDenied, "not you"))
	wantCode(t, next(t, call).err, codes.PermissionDenied, noReason)
	// The next caller makes it ask again.
	call = begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("b")) },
	)
	l, _ = s.welcome(t, 0)
	acceptTasks(t, l, frameOf(t, l).GetSequence(), 1)
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{1}, Payloads: [][]byte{echoed(t, "b")}})
	wantEcho(t, next(t, call), "b")
}

func TestSession_FrameThatTheBrokerCannotAcceptFailsAloneAndOnce(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	call := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("a")) },
	)
	l, _ := s.welcome(t, 0)
	frameOf(t, l)
	l.stop(t, status.Error(codes.InvalidArgument, "broken frame"))
	wantCode(t, next(t, call).err, codes.InvalidArgument, noReason)
}

func TestSession_PayloadOverTheLimitIsRefusedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	call := begin(func() (*testingv1.EchoResponse, error) {
		return c.Echo(t.Context(), &testingv1.EchoRequest{Payload: make([]byte, 2<<20)})
	})
	s.welcome(t, 0)
	wantCode(
		t,
		next(t, call).err,
		codes.InvalidArgument,
		plaitv1.ErrorReason_ERROR_REASON_TOO_LARGE,
	)
}

func TestSession_WaitNamesTheTroubleWithTheBroker(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	client := connect(t, s.address)
	c := testingv1.NewEchoServiceClient(client.Channel())
	call := begin(
		func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("a")) },
	)
	l, _ := s.welcome(t, 0)
	acceptTasks(t, l, frameOf(t, l).GetSequence(), 1)
	s.server.Stop()
	eventually(t, func() bool { return client.session.lastTrouble() != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Submit(ctx, c.Echo, request("b"))
	wantCode(t, err, codes.DeadlineExceeded, noReason)
	if !bytes.Contains([]byte(err.Error()), []byte("last trouble with the broker")) {
		t.Fatalf("err = %v", err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, next(t, call).err, codes.Canceled, noReason)
	_, err = c.Echo(t.Context(), request("c"))
	wantCode(t, err, codes.Canceled, noReason)
}
