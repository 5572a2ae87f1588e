package plaittest_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

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

// echoServer does what requests say, as the contract of testing.v1 describes.
type echoServer struct {
	testingv1.UnimplementedEchoServiceServer
	c testingv1.EchoServiceClient

	mu sync.Mutex
	// Entries by account, in the order in which their attempts ran.
	lines map[string][]int64
	// Attempts of Once by name.
	once map[string]int
}

func newEchoServer(c testingv1.EchoServiceClient) *echoServer {
	return &echoServer{c: c, lines: map[string][]int64{}, once: map[string]int{}}
}

func (*echoServer) Echo(
	_ context.Context,
	r *testingv1.EchoRequest,
) (*testingv1.EchoResponse, error) {
	return &testingv1.EchoResponse{Payload: r.GetPayload()}, nil
}

func (*echoServer) Fail(
	ctx context.Context,
	r *testingv1.FailRequest,
) (*testingv1.FailResponse, error) {
	a, _ := plait.AttemptFrom(ctx)
	if a.Number() > int(r.GetFailures()) {
		return &testingv1.FailResponse{Attempt: int32(a.Number())}, nil
	}
	var details []protoadapt.MessageV1
	if r.GetRetryDelay() != nil {
		details = append(details, &errdetails.RetryInfo{RetryDelay: r.GetRetryDelay()})
	}
	if r.GetViolation() != "" {
		details = append(
			details,
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
				{Field: r.GetViolation(), Description: "as told"},
			}},
		)
	}
	if r.GetTrailer() != "" {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-failed-by", r.GetTrailer())); err != nil {
			return nil, err
		}
	}
	st, err := status.New(codes.Code(r.GetCode()), r.GetMessage()).WithDetails(details...)
	if err != nil {
		return nil, err
	}
	return nil, st.Err()
}

func (*echoServer) Sleep(
	ctx context.Context,
	r *testingv1.SleepRequest,
) (*testingv1.SleepResponse, error) {
	timer := time.NewTimer(r.GetDuration().AsDuration())
	defer timer.Stop()
	select {
	case <-timer.C:
		return &testingv1.SleepResponse{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (s *echoServer) Flow(
	ctx context.Context,
	r *testingv1.FlowRequest,
) (*testingv1.FlowResponse, error) {
	a, _ := plait.AttemptFrom(ctx)
	answer := &testingv1.FlowResponse{Attempt: int32(a.Number())}
	width := func(yield func(*testingv1.EchoRequest) bool) {
		for i := range r.GetWidth() {
			if !yield(&testingv1.EchoRequest{Payload: fmt.Append(nil, r.GetSeed(), i)}) {
				return
			}
		}
	}
	for response, err := range plait.CallMany(ctx, s.c.Echo, width) {
		if err != nil {
			return nil, err
		}
		answer.EchoedBytes += int64(len(response.GetPayload()))
	}
	for i := range r.GetDepth() {
		message := strconv.Itoa(int(i))
		if r.GetDiverge() {
			message = strconv.FormatUint(rand.Uint64(), 10)
		}
		response, err := s.c.Fail(ctx, &testingv1.FailRequest{
			Code: 14, Message: message, Failures: 1, RetryDelay: durationpb.New(time.Millisecond),
		})
		if err != nil {
			return nil, err
		}
		answer.ChildAttempts += response.GetAttempt()
	}
	if a.Number() <= int(r.GetFailures()) {
		return nil, status.Error(codes.Unavailable, "as told")
	}
	return answer, nil
}

func (s *echoServer) Append(
	_ context.Context, r *testingv1.AppendRequest,
) (*testingv1.AppendResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines[r.GetAccount()] = append(s.lines[r.GetAccount()], r.GetEntry().GetNumber())
	return &testingv1.AppendResponse{Length: int64(len(s.lines[r.GetAccount()]))}, nil
}

func (s *echoServer) line(account string) []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]int64(nil), s.lines[account]...)
}

func (s *echoServer) Inspect(
	ctx context.Context, _ *testingv1.InspectRequest,
) (*testingv1.InspectResponse, error) {
	a, _ := plait.AttemptFrom(ctx)
	answer := &testingv1.InspectResponse{
		Metadata: map[string]string{}, Attempt: int32(a.Number()), Task: a.TaskID(),
		IdempotencyKey: a.IdempotencyKey(), FencingToken: a.FencingToken(),
	}
	if deadline, ok := ctx.Deadline(); ok {
		answer.TimeRemaining = durationpb.New(time.Until(deadline))
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for key, values := range md {
		if strings.HasSuffix(key, "-bin") {
			values[0] = hex.EncodeToString([]byte(values[0])) // The response has text only.
		}
		answer.Metadata[key] = values[0]
	}
	return answer, nil
}
