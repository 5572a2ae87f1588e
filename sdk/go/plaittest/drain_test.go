package plaittest_test

import (
	"testing"
	"time"

	"plait.dev/plait"
	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
	"plait.dev/plait/plaittest"
)

// reached watches a task until it is in a state.
func reached[R any](t *testing.T, task *plait.Task[R], state plaitv1.TaskState) {
	t.Helper()
	for change, err := range task.Watch(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if change.GetState() == state {
			return
		}
	}
	t.Fatalf("the task ended and never was %v", state)
}

func TestDrain_WaitingFlowGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	p := plaittest.Start(t)
	client := p.Connect(t)
	c := testingv1.NewEchoServiceClient(client.Channel())
	// Nobody serves the children, so the flow waits until it is drained.
	first := client.Worker(
		plait.WithoutSignals(), plait.WithMethods("Flow"), plait.WithGrace(time.Hour))
	testingv1.RegisterEchoServiceServer(first, newEchoServer(c))
	ended := make(chan error, 1)
	go func() { ended <- first.Run(t.Context()) }()
	task, err := plait.Submit(t.Context(), c.Flow, &testingv1.FlowRequest{Width: 300, Depth: 2})
	if err != nil {
		t.Fatal(err)
	}
	reached(t, task, plaitv1.TaskState_TASK_STATE_SUSPENDED)
	first.Stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	echoOn(t, p, plait.WithConcurrency(1))
	response, err := task.Result(t.Context())
	if err != nil || response.GetChildAttempts() != 4 {
		t.Fatalf("got %v, %v", response, err)
	}
}
