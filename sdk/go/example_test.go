package plait_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"plait.dev/plait"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// echoServer is an ordinary implementation of a generated service.
type echoServer struct {
	testingv1.UnimplementedEchoServiceServer
}

func (echoServer) Echo(
	ctx context.Context, r *testingv1.EchoRequest,
) (*testingv1.EchoResponse, error) {
	if attempt, ok := plait.AttemptFrom(ctx); ok { // It also runs under a plain gRPC server.
		slog.InfoContext(ctx, "echo", "task", attempt.TaskID(), "attempt", attempt.Number())
	}
	return &testingv1.EchoResponse{Payload: r.GetPayload()}, nil
}

// A worker registers generated services and runs until it is told to stop.
func ExampleClient_Worker() {
	work := func(ctx context.Context) error {
		p, err := plait.Connect(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = p.Close() }()
		w := p.Worker(plait.WithName("echo"), plait.WithConcurrency(32))
		testingv1.RegisterEchoServiceServer(w, echoServer{})
		return w.Run(ctx)
	}
	_ = work
}

// A call through the channel is durable and waits for its result.
func ExampleClient_Channel() {
	call := func(ctx context.Context, p *plait.Client) ([]byte, error) {
		c := testingv1.NewEchoServiceClient(p.Channel())
		response, err := c.Echo(ctx, &testingv1.EchoRequest{Payload: []byte("hello")})
		return response.GetPayload(), err
	}
	_ = call
}

// Submit answers as soon as the task is durable.
func ExampleSubmit() {
	submit := func(ctx context.Context, c testingv1.EchoServiceClient) (string, error) {
		request := &testingv1.EchoRequest{Payload: []byte("hello")}
		task, err := plait.Submit(ctx, c.Echo, request, plait.WithKey("order-7"), plait.WithPriority(6))
		if err != nil {
			return "", err
		}
		response, err := task.Result(ctx)
		return task.ID() + " " + string(response.GetPayload()), err
	}
	_ = submit
}

// Schedule is said by each start of a program; the schedule stays when the program ends.
func ExampleSchedule() {
	declare := func(ctx context.Context, c testingv1.EchoServiceClient) error {
		entry, err := plait.Schedule(ctx, c.Echo, "nightly", &testingv1.EchoRequest{},
			plait.ScheduleOptions{Cron: "30 2 * * *", Timezone: "Europe/Berlin"})
		if err == nil {
			slog.InfoContext(ctx, "declared", "next", entry.GetStatus().GetNextTimes())
		}
		return err
	}
	_ = declare
}

// CallMany pipelines calls and yields their responses in order.
func ExampleCallMany() {
	total := func(ctx context.Context, c testingv1.EchoServiceClient) (size int, err error) {
		requests := slices.Values([]*testingv1.EchoRequest{
			{Payload: []byte("a")}, {Payload: []byte("b")},
		})
		for response, err := range plait.CallMany(ctx, c.Echo, requests) {
			if err != nil {
				return 0, fmt.Errorf("echo: %w", err)
			}
			size += len(response.GetPayload())
		}
		return size, nil
	}
	_ = total
}
