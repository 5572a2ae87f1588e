package plait

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

func TestReason_IsReadFromTheChainAndOnlyOurs(t *testing.T) {
	t.Parallel()
	ours := refusal(codes.Aborted, plaitv1.ErrorReason_ERROR_REASON_LEASE_LOST, "lost", nil)
	theirs, err := status.New(codes.Aborted, "lost").WithDetails(
		&errdetails.ErrorInfo{Domain: "shop", Reason: "LEASE_LOST"})
	if err != nil {
		t.Fatal(err)
	}
	newer, err := status.New(codes.Aborted, "newer").WithDetails(
		&errdetails.ErrorInfo{Domain: "plait", Reason: "NOT_INVENTED_YET"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want plaitv1.ErrorReason
	}{
		{ours, plaitv1.ErrorReason_ERROR_REASON_LEASE_LOST},
		{fmt.Errorf("charge: %w", ours), plaitv1.ErrorReason_ERROR_REASON_LEASE_LOST},
		{theirs.Err(), noReason},
		{newer.Err(), noReason},
		{errors.New("plain"), noReason},
		{nil, noReason},
	} {
		if got := Reason(c.err); got != c.want {
			t.Errorf("Reason(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestFailure_RoundTripKeepsTheHandlersStatus(t *testing.T) {
	t.Parallel()
	st, err := status.New(codes.DataLoss, "gone").WithDetails(&errdetails.DebugInfo{Detail: "why"})
	if err != nil {
		t.Fatal(err)
	}
	got := status.Convert(failureError(failureOf(st.Err(), nil)))
	if got.String() != st.String() || len(got.Details()) != 1 {
		t.Fatalf("got %v, want %v", got, st)
	}
}

func TestFailure_DetailsOfTheHandlersOwnTrailerAreKept(t *testing.T) {
	t.Parallel()
	f := failureOf(status.Error(codes.NotFound, "no"), metadata.Pairs(detailsKey, "raw"))
	if string(f.GetDetails()) != "raw" || len(f.GetTrailers()) != 0 {
		t.Fatalf("failure = %v", f)
	}
}

func TestFailure_IsBoundedAndValid(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", failureMessageMax)
	f := failureOf(status.Error(codes.NotFound, long), metadata.Pairs("x-long", long+long))
	if len(f.GetMessage()) > failureMessageMax || !utf8.ValidString(f.GetMessage()) ||
		len(f.GetTrailers()) != 0 {
		t.Fatalf("%d bytes of message, %d trailers", len(f.GetMessage()), len(f.GetTrailers()))
	}
	f = failureOf(errors.New("broken \xff text"), nil)
	if f.GetMessage() != "broken \uFFFD text" {
		t.Fatalf("message = %q", f.GetMessage())
	}
	if code := status.Code(failureError(&plaitv1.Failure{Code: 99})); code != codes.Unknown {
		t.Fatalf("code 99 became %v", code)
	}
}

func TestSubmit_TextThatIsNotUTF8IsRefused(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	_, err := Submit(t.Context(), c.Echo, request("a"), WithKey("\xff"))
	wantCode(t, err, codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_INVALID_REQUEST)
}

func TestCall_MetadataOverItsLimitIsRefused(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	long := strings.Repeat("x", metadataBytesMax)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-long", long)
	_, err := echoClient(t, s).Echo(ctx, request("a"))
	wantCode(t, err, codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_TOO_LARGE)
}

func TestSession_FrameThatCannotBeMarshalledFailsAloneAndOnce(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	client := connect(t, s.address)
	broken := &submission{route: "\xff", await: true}
	if err := client.session.enqueue(broken); err != nil {
		t.Fatal(err)
	}
	s.welcome(t, 0)
	wantCode(t, client.session.awaitAccepted(t.Context(), broken), codes.InvalidArgument, noReason)
	c := testingv1.NewEchoServiceClient(client.Channel())
	call := begin(func() (*testingv1.EchoResponse, error) { return c.Echo(t.Context(), request("a")) })
	l, _ := s.welcome(t, 0)
	acceptTasks(t, l, frameOf(t, l).GetSequence(), 1)
	results(t, l, answerOf(t, 1, "a"))
	wantEcho(t, next(t, call), "a")
}

func TestSession_LargeRequestsGoInSmallerFrames(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &session{frameTasksMax: frameTasksMax, sequence: 1}
	for range 5 {
		s.queue.push(&submission{route: "m", size: frameBytesMax / 2})
	}
	for _, want := range []int{2, 2, 1} {
		if f := s.nextFrame(now); len(f.submissions) != want {
			t.Fatalf("a frame of %d, want %d", len(f.submissions), want)
		}
	}
}

func TestWorker_LargeFailuresGoInSmallerFrames(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	long := strings.Repeat("x", failureMessageMax)
	st := status.New(codes.NotFound, long)
	st, err := st.WithDetails(&errdetails.DebugInfo{Detail: strings.Repeat("y", failureDetailsMax/4)})
	if err != nil {
		t.Fatal(err)
	}
	startWorker(t, s, func(context.Context, *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
		return nil, st.Err()
	})
	l, _ := s.attached(t, time.Minute)
	const n = 250
	f := &plaitv1.AttemptFrame{Sequence: 1, Payloads: make([][]byte, n)}
	for i := range uint64(n) {
		f.Tasks, f.Tokens = append(f.Tasks, i), append(f.Tokens, i)
	}
	assign(t, l, f)
	for got := 0; got < n; {
		frame := outcomesFrom(t, l)
		got += len(frame.GetTasks())
		size := 0
		for _, failure := range frame.GetFailures() {
			size += failureBytes(failure)
		}
		if size > frameBytesMax || size < len(frame.GetTasks())*failureMessageMax {
			t.Fatalf("a frame of %d bytes", size)
		}
	}
}
