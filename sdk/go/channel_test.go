package plait

import (
	"context"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

const noReason = plaitv1.ErrorReason_ERROR_REASON_UNSPECIFIED

func request(text string) *testingv1.EchoRequest {
	return &testingv1.EchoRequest{Payload: []byte(text)}
}

func echoed(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := proto.Marshal(&testingv1.EchoResponse{Payload: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func wantEcho(t *testing.T, got outcome[*testingv1.EchoResponse], text string) {
	t.Helper()
	if got.err != nil || string(got.response.GetPayload()) != text {
		t.Fatalf("got %v, %v; want %q", got.response, got.err, text)
	}
}

func TestCall_IsSubmittedWithAwaitAndAnsweredByTheResult(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	var header metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-tenant", "blue", "grpc-secret", "no")
	call := begin(func() (*testingv1.EchoResponse, error) {
		return c.Echo(ctx, request("a"), grpc.Header(&header))
	})
	l, _ := s.welcome(t, 0)
	f := frameOf(t, l)
	if f.GetSequence() != 1 || !f.GetAwait() ||
		f.GetTasks().GetMethods()[0] != testingv1.EchoService_Echo_FullMethodName {
		t.Fatalf("frame = %v", f)
	}
	md := f.GetTasks().GetCommon().GetMetadata()
	if len(md) != 1 || md[0].GetKey() != "x-tenant" || string(md[0].GetValue()) != "blue" {
		t.Fatalf("metadata = %v", md)
	}
	acceptTasks(t, l, 1, 7)
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{7}, Payloads: [][]byte{echoed(t, "a")}})
	wantEcho(t, next(t, call), "a")
	if got := header.Get(keyTaskID); len(got) != 1 || got[0] != "t0000000000000007" {
		t.Fatalf("header = %v", header)
	}
}

func TestCall_FailureKeepsStatusDetailsAndTrailers(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	st, err := status.New(codes.NotFound, "no such order").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "id", Description: "unknown"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	details, err := proto.Marshal(st.Proto())
	if err != nil {
		t.Fatal(err)
	}
	var trailer metadata.MD
	call := begin(func() (*testingv1.EchoResponse, error) {
		return c.Echo(t.Context(), request("a"), grpc.Trailer(&trailer))
	})
	l, _ := s.welcome(t, 0)
	frameOf(t, l)
	acceptTasks(t, l, 1, 7)
	results(
		t,
		l,
		&plaitv1.ResultFrame{
			Tasks:    []uint64{7},
			Payloads: [][]byte{nil},
			Failures: []*plaitv1.Failure{{
				Code: uint32(codes.NotFound), Message: "no such order", Details: details,
				Trailers: []*plaitv1.Metadatum{{Key: "x-why", Value: []byte("gone")}},
			}},
		},
	)
	got := next(t, call)
	if !proto.Equal(status.Convert(got.err).Proto(), st.Proto()) {
		t.Fatalf("status = %v, want %v", status.Convert(got.err).Proto(), st.Proto())
	}
	if trailer.Get("x-why")[0] != "gone" || trailer.Get(detailsKey)[0] != string(details) {
		t.Fatalf("trailer = %v", trailer)
	}
}

func TestCall_DeadlineOfTheCallerIsTheTasks(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	call := begin(func() (*testingv1.EchoResponse, error) { return c.Echo(ctx, request("a")) })
	l, _ := s.welcome(t, 0)
	f := frameOf(t, l)
	left := f.GetTasks().GetOptions()[0].GetOptions().GetDeadline().AsDuration()
	if left > time.Hour || left < 59*time.Minute {
		t.Fatalf("deadline = %v", left)
	}
	cancel()
	wantCode(t, next(t, call).err, codes.Canceled, noReason)
}

func TestSubmit_AnswersOnAcceptanceAndAwaitsLater(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	submit := begin(func() (*Task[testingv1.EchoResponse], error) {
		return Submit(
			t.Context(),
			c.Echo,
			request("a"),
			WithKey("k"),
			WithOrderingKey("o"),
			WithDelay(
				time.Second,
			),
			WithDeadline(time.Minute),
			WithPriority(9),
			WithChildKey("ignored"),
		)
	})
	l, _ := s.welcome(t, 0)
	f := frameOf(t, l)
	if f.GetAwait() || f.GetTasks().GetIdempotencyKeys()[0] != "k" ||
		f.GetTasks().GetOrderingKeys()[0] != "o" {
		t.Fatalf("frame = %v", f)
	}
	options := f.GetTasks().GetCommon()
	if options.GetDelay().AsDuration() != time.Second ||
		options.GetDeadline().AsDuration() != time.Minute ||
		options.GetPriority() != 9 ||
		options.GetParent() != nil {
		t.Fatalf("options = %v", options)
	}
	acceptTasks(t, l, 1, 0x2a)
	task := next(t, submit)
	if task.err != nil || task.response.ID() != "t000000000000002a" {
		t.Fatalf("task = %v", task)
	}
	result := begin(
		func() (*testingv1.EchoResponse, error) { return task.response.Result(t.Context()) },
	)
	if await := awaitOf(t, l); await.GetTasks()[0] != 0x2a {
		t.Fatalf("await = %v", await)
	}
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{0x2a}, Payloads: [][]byte{echoed(t, "a")}})
	wantEcho(t, next(t, result), "a")
}

func TestSubmit_RefusalIsTheCallersError(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	submit := begin(func() (*Task[testingv1.EchoResponse], error) {
		return Submit(t.Context(), c.Echo, request("a"))
	})
	l, _ := s.welcome(t, 0)
	frameOf(t, l)
	conflict := status.Convert(refusal(
		codes.AlreadyExists,
		plaitv1.ErrorReason_ERROR_REASON_DUPLICATE_KEY_CONFLICT,
		"taken",
		map[string]string{"task": "t1"},
	))
	accept(t, l, &plaitv1.SequencedAccepted{Sequence: 1, Accepted: &plaitv1.AcceptedFrame{
		Tasks: []uint64{0}, Refusals: []*plaitv1.Refusal{{Status: conflict.Proto()}},
	}})
	wantCode(t, next(t, submit).err, codes.AlreadyExists,
		plaitv1.ErrorReason_ERROR_REASON_DUPLICATE_KEY_CONFLICT)
}

func TestSubmit_KeyOfThePolicyIsReadOrMissing(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	_, err := Submit(t.Context(), c.Append, &testingv1.AppendRequest{Account: "acc"})
	wantCode(t, err, codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_KEY_MISSING)
	begin(func() (*Task[testingv1.AppendResponse], error) {
		return Submit(t.Context(), c.Append,
			&testingv1.AppendRequest{Account: "acc", Entry: &testingv1.Entry{Id: "e1"}})
	})
	l, _ := s.welcome(t, 0)
	f := frameOf(t, l).GetTasks()
	if f.GetIdempotencyKeys()[0] != "e1" || f.GetOrderingKeys()[0] != "acc" {
		t.Fatalf("keys = %v, %v", f.GetIdempotencyKeys(), f.GetOrderingKeys())
	}
	acceptTasks(t, l, 1, 1)
}

func TestSubmit_UnknownMethodIsAnnouncedAndSubmittedAgain(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	submit := begin(func() (*Task[testingv1.EchoResponse], error) {
		return Submit(t.Context(), c.Echo, request("a"))
	})
	l, _ := s.welcome(t, 0)
	frameOf(t, l)
	s.wipe()
	unknown := status.Convert(methodUnknown(testingv1.EchoService_Echo_FullMethodName))
	accept(t, l, &plaitv1.SequencedAccepted{Sequence: 1, Accepted: &plaitv1.AcceptedFrame{
		Tasks: []uint64{0}, Refusals: []*plaitv1.Refusal{{Status: unknown.Proto()}},
	}})
	if again := frameOf(t, l); again.GetSequence() != 2 {
		t.Fatalf("frame = %v", again)
	}
	acceptTasks(t, l, 2, 5)
	if got := next(t, submit); got.err != nil || got.response.ID() != "t0000000000000005" {
		t.Fatalf("got %v", got)
	}
	announced := s.announcements()
	// Once before the first frame, and again once it was forgotten.
	if len(announced) != 2 || announced[1].GetServices()[0] != "testing.v1.EchoService" {
		t.Fatalf("announced %v", announced)
	}
}

func TestTask_SeveralWaitForOneResultAndLeaveAlone(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	client := connect(t, s.address)
	task, err := TaskOf[testingv1.EchoResponse](client, "t0000000000000007")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := begin(func() (*testingv1.EchoResponse, error) { return task.Result(ctx) })
	l, _ := s.welcome(t, 0)
	awaitOf(t, l)
	second := begin(func() (*testingv1.EchoResponse, error) { return task.Result(t.Context()) })
	awaitOf(t, l)
	cancel()
	wantCode(t, next(t, first).err, codes.Canceled, noReason)
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{7}, Payloads: [][]byte{echoed(t, "a")}})
	wantEcho(t, next(t, second), "a")
	select {
	case m := <-l.in:
		t.Fatalf("said %v although somebody still waited", m)
	default:
	}
}

func TestChannel_StreamsAreRefused(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	_, err := connect(t, s.address).Channel().NewStream(t.Context(), &grpc.StreamDesc{}, "/a.B/C")
	wantCode(t, err, codes.Unimplemented, noReason)
}

func TestSubmit_WithoutOurChannelIsRefused(t *testing.T) {
	t.Parallel()
	plain := func(
		context.Context, *testingv1.EchoRequest, ...grpc.CallOption,
	) (*testingv1.EchoResponse, error) {
		return &testingv1.EchoResponse{}, nil
	}
	_, err := Submit(t.Context(), plain, request("a"))
	wantCode(t, err, codes.InvalidArgument, noReason)
}

func TestTaskOf_RefusesWhatIsNoTaskID(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	for _, id := range []string{
		"", "7", "t7", "x000000000000000a", "t00000000000000zz", "t+00000000000000a",
	} {
		_, err := TaskOf[testingv1.EchoResponse](connect(t, s.address), id)
		wantCode(t, err, codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
	}
}
