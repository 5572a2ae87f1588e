package plaittest_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"plait.dev/plait"
	testingv1 "plait.dev/plait/gen/testing/v1"
	"plait.dev/plait/plaittest"
)

const echoMethod = "testing.v1.EchoService/Echo"

// patientServer has a flow that waits longer for each child than an attempt may take.
type patientServer struct {
	*echoServer
	runs atomic.Int32
}

func (s *patientServer) Flow(
	ctx context.Context,
	_ *testingv1.FlowRequest,
) (*testingv1.FlowResponse, error) {
	s.runs.Add(1)
	for _, child := range []string{"a", "b", "c"} {
		request := &testingv1.EchoRequest{Payload: []byte(child)}
		if _, err := s.c.Echo(ctx, request, plait.WithDelay(2*time.Minute)); err != nil {
			return nil, err
		}
	}
	return &testingv1.FlowResponse{}, nil
}

func patient(t *testing.T, p *plaittest.Plait) (testingv1.EchoServiceClient, *patientServer) {
	t.Helper()
	client := p.Connect(t)
	c := testingv1.NewEchoServiceClient(client.Channel())
	w := client.Worker(plait.WithoutSignals(), plait.WithName(t.Name()))
	server := &patientServer{echoServer: newEchoServer(c)}
	testingv1.RegisterEchoServiceServer(w, server)
	p.Work(t, w)
	return c, server
}

func TestKit_MinutesOfAFlowTakeNoTime(t *testing.T) {
	t.Parallel()
	p, kit := plaittest.StartKit(t)
	c, server := patient(t, p)
	began, err := kit.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	task, err := plait.Submit(t.Context(), c.Flow, &testingv1.FlowRequest{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	ended, err := kit.Finish(t.Context(), task.ID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := task.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	if passed := ended.Sub(began); passed < 6*time.Minute || passed > 7*time.Minute {
		t.Errorf("%v passed", passed)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	// Each wait is longer than an attempt may take: the flow made room and was run again.
	if runs := server.runs.Load(); runs < 2 {
		t.Errorf("%d runs", runs)
	}
}

// flaggedServer answers whether a flag is on.
type flaggedServer struct {
	testingv1.UnimplementedEchoServiceServer
}

func (flaggedServer) Echo(
	ctx context.Context, _ *testingv1.EchoRequest,
) (*testingv1.EchoResponse, error) {
	if plait.Flag(ctx, "new-pricing") {
		return &testingv1.EchoResponse{Payload: []byte("on")}, nil
	}
	return &testingv1.EchoResponse{Payload: []byte("off")}, nil
}

func TestKit_WhatIsSubmittedAfterAFlagWasSetSeesIt(t *testing.T) {
	t.Parallel()
	p, kit := plaittest.StartKit(t)
	client := p.Connect(t)
	w := client.Worker(plait.WithoutSignals(), plait.WithName(t.Name()))
	testingv1.RegisterEchoServiceServer(w, flaggedServer{})
	p.Work(t, w)
	c := testingv1.NewEchoServiceClient(client.Channel())
	for _, want := range []string{"on", "off", "on"} {
		if err := kit.SetFlag(t.Context(), "new-pricing", want == "on"); err != nil {
			t.Fatal(err)
		}
		answer, err := c.Echo(t.Context(), &testingv1.EchoRequest{})
		if err != nil || string(answer.GetPayload()) != want {
			t.Fatalf("%s, %v; want %s", answer.GetPayload(), err, want)
		}
	}
	if err := kit.SetFlag(t.Context(), "New Pricing", true); err == nil {
		t.Error("no name of a flag is taken")
	}
}

func TestKit_AttemptsFailAsTold(t *testing.T) {
	t.Parallel()
	p, kit := plaittest.StartKit(t)
	c, _ := echoOn(t, p)
	ctx := t.Context()
	add := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	add(kit.Fail(ctx, plaittest.Fault{Method: echoMethod}, codes.Unavailable, "not yet"))
	add(kit.ExpireLease(ctx, plaittest.Fault{Method: echoMethod, Attempts: []uint32{2}}))
	add(kit.DropStream(ctx, plaittest.Fault{Method: echoMethod, Attempts: []uint32{3}}))
	last := plaittest.Fault{Method: echoMethod, Attempts: []uint32{4}, After: true}
	add(kit.Fail(ctx, last, codes.NotFound, "as told"))
	task, err := plait.Submit(ctx, c.Echo, &testingv1.EchoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kit.Finish(ctx, task.ID()); err != nil {
		t.Fatal(err)
	}
	if _, err = task.Result(ctx); status.Code(err) != codes.NotFound {
		t.Fatalf("err = %v", err)
	}
	struck, err := kit.Struck(ctx)
	if err != nil || !slices.Equal(struck, []int{1, 1, 1, 1}) {
		t.Fatalf("struck %v, %v", struck, err)
	}
	add(kit.Clear(ctx))
	if _, err := c.Echo(ctx, &testingv1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
}

func TestKit_WhatHoldsTheClockIsSaid(t *testing.T) {
	t.Parallel()
	p, kit := plaittest.StartKit(t)
	c, _ := echoOn(t, p)
	kit.Patience = 100 * time.Millisecond
	task, err := plait.Submit(t.Context(), c.Sleep, &testingv1.SleepRequest{
		Duration: durationpb.New(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = kit.Advance(t.Context(), time.Minute)
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "still run") {
		t.Fatalf("err = %v", err)
	}
	if _, err = kit.AdvanceRegardless(t.Context(), 11*time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err = task.Result(t.Context()); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("err = %v", err)
	}
}
