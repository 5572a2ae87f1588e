package plaittest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"plait.dev/plait"
	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
	"plait.dev/plait/plaittest"
)

// shared is one Plait with one worker, for the tests that do no harm to it.
var shared struct {
	*plaittest.Plait
	server *echoServer
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	p, err := plaittest.New(context.Background(), os.Stderr)
	if errors.Is(err, plaittest.ErrMissing) && os.Getenv("PLAIT_BIN") == "" {
		return m.Run()
	}
	if err == nil {
		shared.Plait = p
		err = withWorker(p, m)
		p.Close()
	}
	if err == nil {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// withWorker runs the tests beside a worker.
func withWorker(p *plaittest.Plait, m *testing.M) error {
	client, err := plait.Connect(context.Background(), plait.WithAddress(p.Address()))
	if err != nil {
		return err
	}
	w := client.Worker(plait.WithoutSignals(), plait.WithConcurrency(64))
	shared.server = newEchoServer(testingv1.NewEchoServiceClient(client.Channel()))
	testingv1.RegisterEchoServiceServer(w, shared.server)
	ended := make(chan error, 1)
	go func() { ended <- w.Run(context.Background()) }()
	if status := m.Run(); status != 0 {
		err = fmt.Errorf("the tests ended with status %d", status)
	}
	w.Stop()
	return errors.Join(err, <-ended, client.Close())
}

// needMesh skips a test where nothing was built. Where PLAIT_BIN says that it was, its absence is a failure.
func needMesh(t *testing.T) {
	t.Helper()
	if shared.Plait != nil {
		return
	}
	if bin := os.Getenv("PLAIT_BIN"); bin != "" {
		t.Fatalf("no broker and scheduler were found, and PLAIT_BIN is %s", bin)
	}
	t.Skip("no broker and scheduler were found")
}

// echo is a client of the shared worker.
func echo(t *testing.T) (testingv1.EchoServiceClient, *echoServer) {
	t.Helper()
	needMesh(t)
	return testingv1.NewEchoServiceClient(shared.Connect(t).Channel()), shared.server
}

// echoOn is a worker that only this test has, and a client of it.
func echoOn(
	t *testing.T, p *plaittest.Plait, options ...plait.WorkerOption,
) (testingv1.EchoServiceClient, *echoServer) {
	t.Helper()
	client := p.Connect(t)
	c := testingv1.NewEchoServiceClient(client.Channel())
	w := client.Worker(
		append(
			[]plait.WorkerOption{plait.WithoutSignals(), plait.WithName(t.Name())},
			options...)...)
	server := newEchoServer(c)
	testingv1.RegisterEchoServiceServer(w, server)
	p.Work(t, w)
	return c, server
}

func wantCode(t *testing.T, err error, code codes.Code, reason plaitv1.ErrorReason) {
	t.Helper()
	if status.Code(err) != code || plait.Reason(err) != reason {
		t.Fatalf("err = %v (%v), want %v (%v)", err, plait.Reason(err), code, reason)
	}
}

func TestCall_WaitsForTheResult(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	var header metadata.MD
	response, err := c.Echo(
		t.Context(),
		&testingv1.EchoRequest{Payload: []byte("hello")},
		grpc.Header(&header),
	)
	if err != nil || string(response.GetPayload()) != "hello" ||
		len(header.Get("plait-task-id")) != 1 {
		t.Fatalf("got %v, %v, %v", response, err, header)
	}
}

func TestSubmit_HandleWatchesAndReads(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	task, err := plait.Submit(t.Context(), c.Echo, &testingv1.EchoRequest{Payload: []byte("hello")},
		plait.WithDelay(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	var states []plaitv1.TaskState
	for change, err := range task.Watch(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, change.GetState())
	}
	if states[0] != plaitv1.TaskState_TASK_STATE_SCHEDULED ||
		states[len(states)-1] != plaitv1.TaskState_TASK_STATE_SUCCEEDED {
		t.Fatalf("states = %v", states)
	}
	state, err := task.State(t.Context())
	if err != nil || state != plaitv1.TaskState_TASK_STATE_SUCCEEDED {
		t.Fatalf("state = %v, %v", state, err)
	}
	for range 2 { // A result can be read again.
		response, err := task.Result(t.Context())
		if err != nil || string(response.GetPayload()) != "hello" {
			t.Fatalf("got %v, %v", response, err)
		}
	}
	other, err := plait.TaskOf[testingv1.EchoResponse](shared.Connect(t), task.ID())
	if err != nil {
		t.Fatal(err)
	}
	if response, err := other.Result(t.Context()); err != nil ||
		string(response.GetPayload()) != "hello" {
		t.Fatalf("got %v, %v", response, err)
	}
}

func TestTask_ThatDoesNotExist(t *testing.T) {
	t.Parallel()
	echo(t)
	task, err := plait.TaskOf[testingv1.EchoResponse](shared.Connect(t), "t00000000ffffffff")
	if err != nil {
		t.Fatal(err)
	}
	_, err = task.Result(t.Context())
	wantCode(t, err, codes.NotFound, plaitv1.ErrorReason_ERROR_REASON_TASK_NOT_FOUND)
	_, err = task.State(t.Context())
	wantCode(t, err, codes.NotFound, plaitv1.ErrorReason_ERROR_REASON_TASK_NOT_FOUND)
}

func TestFailure_ArrivesAsTheHandlerSentIt(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	var trailer metadata.MD
	_, err := c.Fail(t.Context(), &testingv1.FailRequest{
		Code: code.Code_FAILED_PRECONDITION, Message: "not now", Failures: 9, Violation: "order.id",
		Trailer: "me",
	}, grpc.Trailer(&trailer))
	st := status.Convert(err)
	if st.Code() != codes.FailedPrecondition || st.Message() != "not now" ||
		len(st.Details()) != 1 {
		t.Fatalf("status = %v", st)
	}
	bad, ok := st.Details()[0].(*errdetails.BadRequest)
	if !ok || bad.GetFieldViolations()[0].GetField() != "order.id" {
		t.Fatalf("details = %v", st.Details())
	}
	if got := trailer.Get("x-failed-by"); !slices.Equal(got, []string{"me"}) {
		t.Fatalf("trailer = %v", trailer)
	}
}

func TestFailure_IsRetriedByTheBroker(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	response, err := c.Fail(t.Context(), &testingv1.FailRequest{
		Code: code.Code_UNAVAILABLE, Failures: 2, RetryDelay: durationpb.New(time.Millisecond),
	})
	if err != nil || response.GetAttempt() != 3 {
		t.Fatalf("got %v, %v", response, err)
	}
	_, err = c.Fail(t.Context(), &testingv1.FailRequest{
		Code: code.Code_UNAVAILABLE, Failures: 9, RetryDelay: durationpb.New(time.Millisecond),
	})
	wantCode(t, err, codes.Unavailable, 0) // After five attempts.
}

func TestCancel_ReachesTheRunningHandler(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	task, err := plait.Submit(
		t.Context(),
		c.Sleep,
		&testingv1.SleepRequest{Duration: durationpb.New(time.Hour)},
	)
	if err != nil {
		t.Fatal(err)
	}
	for change, err := range task.Watch(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if change.GetState() == plaitv1.TaskState_TASK_STATE_RUNNING {
			break
		}
	}
	state, err := task.Cancel(t.Context())
	if err != nil || state != plaitv1.TaskState_TASK_STATE_CANCELLED {
		t.Fatalf("state = %v, %v", state, err)
	}
	_, err = task.Result(t.Context())
	wantCode(t, err, codes.Canceled, plaitv1.ErrorReason_ERROR_REASON_TASK_CANCELLED)
}

func TestDeadline_OfTheCallerEndsWaitAndTask(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	// The task's id comes with its acceptance, for which a busy machine may need longer than the
	// call has.
	var header metadata.MD
	for len(header) == 0 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		request := &testingv1.SleepRequest{Duration: durationpb.New(time.Hour)}
		_, err := c.Sleep(ctx, request, grpc.Header(&header))
		cancel()
		if status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("err = %v", err)
		}
	}
	id := header.Get("plait-task-id")[0]
	task, err := plait.TaskOf[testingv1.SleepResponse](shared.Connect(t), id)
	if err != nil {
		t.Fatal(err)
	}
	_, err = task.Result(t.Context())
	wantCode(t, err, codes.DeadlineExceeded, plaitv1.ErrorReason_ERROR_REASON_TASK_EXPIRED)
}

func TestInspect_HandlerSeesAttemptDeadlineAndMetadata(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	ctx := metadata.AppendToOutgoingContext(
		t.Context(),
		"x-tenant",
		"blue",
		"x-key-bin",
		"\x00\xff",
	)
	got, err := c.Inspect(ctx, &testingv1.InspectRequest{}, plait.WithDeadline(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	left := got.GetTimeRemaining().AsDuration()
	if left <= 10*time.Second || left > 20*time.Second {
		t.Errorf("%v left", left)
	}
	if got.GetAttempt() != 1 || got.GetFencingToken() == 0 ||
		got.GetIdempotencyKey() != got.GetTask() {
		t.Errorf("attempt = %v", got)
	}
	want := map[string]string{
		"x-tenant": "blue", "plait-task-id": got.GetTask(), "plait-attempt": "1",
		"x-key-bin": "00ff",
		"plait-fencing-token": fmt.Sprint(
			got.GetFencingToken(),
		), "plait-idempotency-key": got.GetTask(),
	}
	for key, value := range want {
		if got.GetMetadata()[key] != value {
			t.Errorf("%s = %q, want %q", key, got.GetMetadata()[key], value)
		}
	}
}

func TestKeys_SameKeyIsTheSameTask(t *testing.T) {
	t.Parallel()
	c, server := echo(t)
	entry := &testingv1.AppendRequest{
		Account: t.Name(),
		Entry:   &testingv1.Entry{Id: t.Name(), Number: 1},
	}
	first, err := plait.Submit(t.Context(), c.Append, entry)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, err := plait.Submit(t.Context(), c.Append, entry)
	if err != nil || second.ID() != first.ID() {
		t.Fatalf("got %v, %v; want %v", second, err, first.ID())
	}
	if response, err := second.Result(t.Context()); err != nil || response.GetLength() != 1 {
		t.Fatalf("got %v, %v", response, err)
	}
	if got := server.line(t.Name()); len(got) != 1 {
		t.Fatalf("ran %d times", len(got))
	}
	entry.Entry.Number = 2
	_, err = plait.Submit(t.Context(), c.Append, entry)
	wantCode(t, err, codes.AlreadyExists, plaitv1.ErrorReason_ERROR_REASON_DUPLICATE_KEY_CONFLICT)
}

func TestSubmitMany_KeepsTheOrderOfAKey(t *testing.T) {
	t.Parallel()
	c, server := echo(t)
	const n = 2000
	requests := func(yield func(*testingv1.AppendRequest) bool) {
		for i := range int64(n) {
			if !yield(&testingv1.AppendRequest{
				Account: t.Name(), Entry: &testingv1.Entry{Id: fmt.Sprint(t.Name(), i), Number: i},
			}) {
				return
			}
		}
	}
	var last *plait.Task[testingv1.AppendResponse]
	for task, err := range plait.SubmitMany(t.Context(), c.Append, requests) {
		if err != nil {
			t.Fatal(err)
		}
		last = task
	}
	if response, err := last.Result(t.Context()); err != nil || response.GetLength() != n {
		t.Fatalf("got %v, %v", response, err)
	}
	if line := server.line(t.Name()); !slices.IsSorted(line) {
		t.Fatalf("out of order: %v", line)
	}
}

func TestCallMany_YieldsEveryResponseInOrder(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	const n = 20_000
	requests := func(yield func(*testingv1.EchoRequest) bool) {
		for i := range n {
			if !yield(&testingv1.EchoRequest{Payload: fmt.Append(nil, i)}) {
				return
			}
		}
	}
	i := 0
	for response, err := range plait.CallMany(t.Context(), c.Echo, requests) {
		if err != nil || string(response.GetPayload()) != fmt.Sprint(i) {
			t.Fatalf("response %d: %v, %v", i, response, err)
		}
		i++
	}
	if i != n {
		t.Fatalf("%d responses", i)
	}
}

func TestFlow_ChildrenAreRecordedAndNotRunAgain(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	response, err := c.Flow(t.Context(), &testingv1.FlowRequest{
		Width: 3000, Depth: 3, Seed: t.Name() + "-", Failures: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	// Each child in the row takes two attempts, however often the flow runs.
	if response.GetAttempt() != 3 || response.GetChildAttempts() != 6 {
		t.Fatalf("response = %v", response)
	}
}

func TestFlow_ThatAsksForOtherChildrenIsRefused(t *testing.T) {
	t.Parallel()
	c, _ := echo(t)
	_, err := c.Flow(
		t.Context(),
		&testingv1.FlowRequest{Depth: 1, Diverge: true, Failures: 1, Seed: t.Name()},
	)
	wantCode(t, err, codes.FailedPrecondition, plaitv1.ErrorReason_ERROR_REASON_FLOW_DIVERGED)
}
