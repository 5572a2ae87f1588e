package plait

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// bulkOf yields n requests and counts how many were pulled.
func bulkOf(n int, pulled *int) func(func(*testingv1.EchoRequest) bool) {
	return func(yield func(*testingv1.EchoRequest) bool) {
		for i := range n {
			*pulled++
			if !yield(request(fmt.Sprint(i))) {
				return
			}
		}
	}
}

// serveBulk accepts every task as its place in the submission, from 1, and answers awaited ones.
func serveBulk(t *testing.T, l *submitLine, n int, refuse func(place uint64) error) {
	t.Helper()
	for place := uint64(0); place < uint64(n); {
		f := frameOf(t, l)
		accepted := &plaitv1.AcceptedFrame{}
		answer := &plaitv1.ResultFrame{}
		for i, payload := range f.GetTasks().GetPayloads() {
			place++
			if err := refuse(place); err != nil {
				accepted.Tasks = append(accepted.Tasks, 0)
				accepted.Refusals = append(accepted.Refusals, &plaitv1.Refusal{
					Index: count32(i), Status: status.Convert(err).Proto(),
				})
				continue
			}
			accepted.Tasks = append(accepted.Tasks, place)
			answer.Tasks = append(answer.Tasks, place)
			answer.Payloads = append(answer.Payloads, payload) // Echo has the same fields both ways.
		}
		accept(t, l, &plaitv1.SequencedAccepted{Sequence: f.GetSequence(), Accepted: accepted})
		if f.GetAwait() {
			results(t, l, answer)
		}
	}
}

func nothingRefused(uint64) error { return nil }

func TestSubmitMany_YieldsHandlesInOrderAndRefusalsInTheirPlace(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	const n = 1000
	pulled := 0
	done := begin(func() (ids []string, err error) {
		for task, err := range SubmitMany(t.Context(), c.Echo, bulkOf(n, &pulled), WithPriority(7)) {
			if err != nil {
				ids = append(ids, status.Code(err).String())
				continue
			}
			ids = append(ids, task.ID())
		}
		return ids, nil
	})
	l, _ := s.welcome(t, 0)
	serveBulk(t, l, n, func(place uint64) error {
		if place == 300 {
			return status.Error(codes.ResourceExhausted, "no")
		}
		return nil
	})
	ids := next(t, done).response
	if len(ids) != n || ids[299] != "ResourceExhausted" {
		t.Fatalf("%d handles, the refused one is %v", len(ids), ids[299])
	}
	for i, id := range slices.Delete(ids, 299, 300) {
		place := uint64(i) + 1
		if i >= 299 {
			place++
		}
		if id != taskID(place) {
			t.Fatalf("handle %d is %s", i, id)
		}
	}
}

func TestCallMany_KeepsWhatIsUnderWayBounded(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	const n = bulkTasksMax + 500
	pulled := 0
	atFirst := 0
	done := begin(func() (yielded int, err error) {
		for response, err := range CallMany(t.Context(), c.Echo, bulkOf(n, &pulled)) {
			if err != nil || string(response.GetPayload()) != fmt.Sprint(yielded) {
				return yielded, fmt.Errorf("response %d is %v, %w", yielded, response, err)
			}
			if yielded == 0 {
				atFirst = pulled
			}
			yielded++
		}
		return yielded, nil
	})
	l, _ := s.welcome(t, 0)
	serveBulk(t, l, n, nothingRefused)
	if got := next(t, done); got.err != nil || got.response != n {
		t.Fatalf("%d responses, %v", got.response, got.err)
	}
	if atFirst > bulkTasksMax {
		t.Fatalf("%d were pulled before the first was yielded", atFirst)
	}
}

func TestCallMany_StoppedEarlyForgetsTheRest(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	client := connect(t, s.address)
	c := testingv1.NewEchoServiceClient(client.Channel())
	pulled := 0
	done := begin(func() (*testingv1.EchoResponse, error) {
		for response, err := range CallMany(t.Context(), c.Echo, bulkOf(3, &pulled)) {
			return response, err
		}
		return nil, nil
	})
	l := next(t, s.submits)
	eventually(t, func() bool { // No welcome yet, so nothing is sent.
		client.session.mu.Lock()
		defer client.session.mu.Unlock()
		return client.session.queue.len() == 3
	})
	l.read(t)
	l.say(t, &plaitv1.SubmitStreamResponse{Message: &plaitv1.SubmitStreamResponse_Welcome{
		Welcome: &plaitv1.SessionWelcome{},
	}})
	acceptTasks(t, l, frameOf(t, l).GetSequence(), 1, 2, 3)
	results(t, l, &plaitv1.ResultFrame{Tasks: []uint64{1}, Payloads: [][]byte{echoed(t, "0")}})
	wantEcho(t, next(t, done), "0")
	var forgotten []uint64
	for len(forgotten) < 2 {
		forgotten = append(forgotten, awaitOf(t, l).GetForget()...)
	}
	if slices.Sort(forgotten); !slices.Equal(forgotten, []uint64{2, 3}) {
		t.Fatalf("forgot %v", forgotten)
	}
}

func TestSubmitMany_UnknownMethodIsAnnouncedAndSubmittedAgain(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	c := echoClient(t, s)
	pulled := 0
	done := begin(func() (ids []string, err error) {
		for task, err := range SubmitMany(t.Context(), c.Echo, bulkOf(1, &pulled)) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, task.ID())
		}
		return ids, nil
	})
	l, _ := s.welcome(t, 0)
	s.wipe()
	serveBulk(t, l, 1, func(uint64) error { return methodUnknown("/testing.v1.EchoService/Echo") })
	frameOf(t, l)
	acceptTasks(t, l, 2, 9)
	if got := next(t, done); got.err != nil || !slices.Equal(got.response, []string{taskID(9)}) {
		t.Fatalf("got %v", got)
	}
	if len(s.announcements()) != 2 {
		t.Fatalf("announced %v", s.announcements())
	}
}
