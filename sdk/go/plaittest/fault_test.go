package plaittest_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"plait.dev/plait"
	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
	"plait.dev/plait/plaittest"
)

func TestBrokerKilled_NothingIsLostAndNothingIsSubmittedTwice(t *testing.T) {
	t.Parallel()
	p := plaittest.Start(t)
	c, server := echoOn(t, p, plait.WithConcurrency(64))
	const n, kills = 6000, 3
	var answered atomic.Int64
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		for i := range kills {
			for answered.Load() < int64((i+1)*n/(kills+1)) {
				if t.Context().Err() != nil {
					return
				}
			}
			p.KillBroker()
			if err := p.StartBroker(t.Context()); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	requests := func(yield func(*testingv1.AppendRequest) bool) {
		for i := range int64(n) {
			account := fmt.Sprint(t.Name(), i%50)
			if !yield(&testingv1.AppendRequest{
				Account: account, Entry: &testingv1.Entry{Id: fmt.Sprint(t.Name(), i), Number: i},
			}) {
				return
			}
		}
	}
	for _, err := range plait.CallMany(t.Context(), c.Append, requests) {
		if err != nil {
			t.Fatal(err)
		}
		answered.Add(1)
	}
	<-killed
	if answered.Load() != n {
		t.Fatalf("%d answers", answered.Load())
	}
	for account := range 50 {
		line := server.line(fmt.Sprint(t.Name(), account))
		// An attempt whose outcome was not durable when the broker died may have run again: at
		// least once.
		if distinct := slices.Compact(slices.Sorted(slices.Values(line))); len(distinct) != n/50 {
			t.Fatalf("account %d has %d entries, want %d", account, len(distinct), n/50)
		}
		if !slices.IsSorted(line) {
			t.Fatalf("account %d is out of order: %v", account, line)
		}
	}
}

func TestBrokerWiped_ContractsAreAnnouncedAgain(t *testing.T) {
	t.Parallel()
	p := plaittest.Start(t)
	c, _ := echoOn(t, p)
	if _, err := c.Echo(t.Context(), &testingv1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	p.KillBroker()
	if err := p.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.StartBroker(t.Context()); err != nil {
		t.Fatal(err)
	}
	response, err := c.Echo(t.Context(), &testingv1.EchoRequest{Payload: []byte("after")})
	if err != nil || string(response.GetPayload()) != "after" {
		t.Fatalf("got %v, %v", response, err)
	}
}

func TestSchedulerKilled_KnownMethodsGoOn(t *testing.T) {
	t.Parallel()
	p := plaittest.Start(t)
	c, _ := echoOn(t, p)
	if _, err := c.Echo(t.Context(), &testingv1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
	p.KillScheduler()
	// Another client announces the same contract, which is answered at once.
	other := testingv1.NewEchoServiceClient(p.Connect(t).Channel())
	if _, err := other.Echo(t.Context(), &testingv1.EchoRequest{}); err != nil {
		t.Fatal(err)
	}
}

func TestHandlerOutlivesABrokerThatRestarts(t *testing.T) {
	t.Parallel()
	p := plaittest.Start(t)
	c, _ := echoOn(t, p)
	task, err := plait.Submit(
		t.Context(),
		c.Sleep,
		&testingv1.SleepRequest{Duration: durationpb.New(2 * time.Second)},
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
	p.KillBroker()
	if err := p.StartBroker(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := task.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := &plaitv1.Task{}
	for change, err := range task.Watch(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		last = change
	}
	if last.GetAttempt() != 1 {
		t.Fatalf("it took %d attempts; the handler held its lease", last.GetAttempt())
	}
}

func TestContract_ThatNobodyHasIsUnknown(t *testing.T) {
	t.Parallel()
	needMesh(t)
	var response testingv1.EchoResponse
	err := shared.Connect(t).Channel().Invoke(t.Context(), "/no.such.v1.Service/Method",
		&testingv1.EchoRequest{}, &response)
	wantCode(t, err, codes.FailedPrecondition, plaitv1.ErrorReason_ERROR_REASON_METHOD_UNKNOWN)
}
