package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"plait.dev/plait"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// echo is the service; client is its own client on a durable channel, for the flow.
type echo struct {
	testingv1.UnimplementedEchoServiceServer

	client  testingv1.EchoServiceClient
	journal *os.File
	mu      sync.Mutex
	lines   map[string]int64
}

// newEcho makes the service. Each execution of Append is noted in the file that ECHO_JOURNAL names, if it does.
func newEcho(client testingv1.EchoServiceClient) (*echo, error) {
	made := &echo{client: client, lines: map[string]int64{}}
	path := os.Getenv("ECHO_JOURNAL")
	if path == "" {
		return made, nil
	}
	var err error
	made.journal, err = openNotes(path)
	return made, err
}

// openNotes opens a file to which several processes add lines.
func openNotes(path string) (*os.File, error) {
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE
	return os.OpenFile(path, flags, 0o600) //nolint:gosec // a test's own path
}

func (e *echo) Echo(_ context.Context, request *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
	return &testingv1.EchoResponse{Payload: request.GetPayload()}, nil
}

func (e *echo) Fail(ctx context.Context, request *testingv1.FailRequest) (*testingv1.FailResponse, error) {
	if err := ruin(ctx, request.GetMessage()); err != nil {
		return nil, err
	}
	number := attemptNumber(ctx)
	if number > request.GetFailures() {
		return &testingv1.FailResponse{Attempt: number}, nil
	}
	if trailer := request.GetTrailer(); trailer != "" {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-failed-by", trailer)); err != nil {
			return nil, err
		}
	}
	return nil, failure(request)
}

// failure is the status that the request asks for, with its details.
func failure(request *testingv1.FailRequest) error {
	failed := status.New(codes.Code(request.GetCode()), request.GetMessage()) //nolint:gosec // codes are small
	var details []protoadapt.MessageV1
	if delay := request.GetRetryDelay(); delay != nil {
		details = append(details, &errdetails.RetryInfo{RetryDelay: delay})
	}
	if field := request.GetViolation(); field != "" {
		violation := &errdetails.BadRequest_FieldViolation{Field: field, Description: "as told"}
		details = append(details, &errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{violation},
		})
	}
	detailed, err := failed.WithDetails(details...)
	if err != nil {
		return err
	}
	return detailed.Err()
}

func (e *echo) Sleep(ctx context.Context, request *testingv1.SleepRequest) (*testingv1.SleepResponse, error) {
	if attempt, ok := plait.AttemptFrom(ctx); ok {
		attempt.Progress(0.5, "sleeping")
	}
	if err := sleep(ctx, request.GetDuration()); err != nil {
		return nil, err
	}
	return &testingv1.SleepResponse{}, nil
}

func sleep(ctx context.Context, duration *durationpb.Duration) error {
	timer := time.NewTimer(duration.AsDuration())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func (e *echo) Flow(ctx context.Context, request *testingv1.FlowRequest) (*testingv1.FlowResponse, error) {
	echoed, err := e.fanOut(ctx, request)
	if err != nil {
		return nil, err
	}
	flagged := ""
	if plait.Flag(ctx, request.GetFlag()) {
		flagged = "/on"
	}
	var attempts int32
	for i := range request.GetDepth() {
		name := fmt.Sprintf("%s/%d%s", request.GetSeed(), i, flagged)
		if request.GetDiverge() {
			name += fmt.Sprintf("/%v", rand.Float64())
		}
		answer, err := e.client.Fail(ctx, &testingv1.FailRequest{
			Code: code.Code_UNAVAILABLE, Message: name, Failures: 1,
		})
		if err != nil {
			return nil, err
		}
		attempts += answer.GetAttempt()
	}
	number := attemptNumber(ctx)
	if number <= request.GetFailures() {
		return nil, status.Error(codes.Unavailable, "the flow was told to fail")
	}
	return &testingv1.FlowResponse{EchoedBytes: echoed, ChildAttempts: attempts, Attempt: number}, nil
}

// fanOut asks for the Echo children at once and says how many bytes they answered.
func (e *echo) fanOut(ctx context.Context, request *testingv1.FlowRequest) (int64, error) {
	var (
		group  sync.WaitGroup
		mu     sync.Mutex
		echoed int64
		failed error
	)
	for i := range request.GetWidth() {
		group.Go(func() {
			payload := fmt.Appendf(nil, "%s/%d", request.GetSeed(), i)
			answer, err := e.client.Echo(ctx, &testingv1.EchoRequest{Payload: payload})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			echoed += int64(len(answer.GetPayload()))
		})
	}
	group.Wait()
	return echoed, failed
}

func (e *echo) Append(ctx context.Context, request *testingv1.AppendRequest) (*testingv1.AppendResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines[request.GetAccount()]++
	length := e.lines[request.GetAccount()]
	if err := e.note(ctx, request, length); err != nil {
		return nil, err
	}
	return &testingv1.AppendResponse{Length: length}, nil
}

// note writes one line in one write, so that lines of several workers do not mix and a kill keeps what was noted.
func (e *echo) note(ctx context.Context, request *testingv1.AppendRequest, length int64) error {
	attempt, ok := plait.AttemptFrom(ctx)
	if e.journal == nil || !ok {
		return nil
	}
	entry := request.GetEntry()
	_, err := fmt.Fprintf(e.journal, "go\t%s\t%s\t%d\t%d\t%d\t%s\t%d\n", entry.GetId(), request.GetAccount(),
		entry.GetNumber(), attempt.FencingToken(), attempt.Number(), attempt.TaskID(), length)
	return err
}

func (e *echo) Once(ctx context.Context, request *testingv1.OnceRequest) (*testingv1.OnceResponse, error) {
	if err := sleep(ctx, request.GetDuration()); err != nil {
		return nil, err
	}
	return &testingv1.OnceResponse{}, nil
}

func (e *echo) Scalars(
	_ context.Context, request *testingv1.ScalarsRequest,
) (*testingv1.ScalarsResponse, error) {
	return &testingv1.ScalarsResponse{Values: request.GetValues()}, nil
}

func (e *echo) Inspect(ctx context.Context, request *testingv1.InspectRequest) (*testingv1.InspectResponse, error) {
	attempt, ok := plait.AttemptFrom(ctx)
	if !ok {
		return nil, status.Error(codes.FailedPrecondition, "there is no attempt here")
	}
	var asked []plait.FlagOption
	if request.FlagKey != nil {
		asked = append(asked, plait.WithFlagKey(request.GetFlagKey()))
	}
	response := &testingv1.InspectResponse{
		Metadata:       map[string]string{},
		Attempt:        int32(attempt.Number()), //nolint:gosec // attempts are few
		Task:           attempt.TaskID(),
		IdempotencyKey: attempt.IdempotencyKey(),
		FencingToken:   attempt.FencingToken(),
		FlagOn:         plait.Flag(ctx, request.GetFlag(), asked...),
	}
	if deadline, ok := ctx.Deadline(); ok {
		response.TimeRemaining = durationpb.New(time.Until(deadline))
	}
	incoming, _ := metadata.FromIncomingContext(ctx)
	for key, values := range incoming {
		response.Metadata[key] = strings.Join(values, ",")
	}
	return response, nil
}

func attemptNumber(ctx context.Context) int32 {
	attempt, ok := plait.AttemptFrom(ctx)
	if !ok {
		return 1
	}
	return int32(attempt.Number()) //nolint:gosec // attempts are few
}
