package boundary

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

const (
	// How often a message is sent to all workers before one that has not seen it counts as not
	// covered. One round reaches every idle worker; beside other work it takes two or three.
	rounds = 12
	// So many rounds that reach nobody new are the last: a worker may have gone.
	idleRounds = 5
	batchMax   = 64
	streamsMax = 64
	// Of one submission, below the broker's own limits of 4096 tasks and 4 MiB.
	frameTasksMax = 4000
	frameBytesMax = 3 << 20
	refusedMax    = 10
	// A task that nobody can finish is told about by the broker at its deadline; this is for the
	// broker.
	brokerTimeout = 30 * time.Second
)

// worker is one that serves the method.
type worker struct {
	id string
	// Its name, and its id where several have that name.
	label string
	slots int
}

// seen is what became of one case.
type seen struct {
	Case

	mu sync.Mutex
	// The first answer of each worker, by id.
	answers map[string]answer
	// Why the broker did not take it; "" when it did.
	refused string
}

func (s *seen) keep(worker string, found answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.answers[worker]; !ok {
		s.answers[worker] = found
	}
}

func (s *seen) lacks(ids []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused == "" && slices.ContainsFunc(ids, func(id string) bool {
		_, ok := s.answers[id]
		return !ok
	})
}

// sender sends one method's messages. No task can be sent to one worker; but copies of one message that
// are submitted together to idle workers go to one each, since the broker gives the least loaded, and
// of those the longest idle, its share in a row. So all cases of a batch go out once, then all once more,
// as often as there are workers; what a worker has not seen then is sent again, a few times.
type sender struct {
	tasks    plaitv1.TaskServiceClient
	info     *plaitv1.MethodInfo
	workers  []worker
	deadline time.Duration
	run      string
	sent     int
	streams  chan struct{}
}

func newSender(
	conn grpc.ClientConnInterface, info *plaitv1.MethodInfo, workers []worker, deadline time.Duration,
) *sender {
	return &sender{
		tasks: plaitv1.NewTaskServiceClient(conn), info: info, workers: workers, deadline: deadline,
		run: rand.Text(), streams: make(chan struct{}, streamsMax),
	}
}

// send sends each case until every wanted worker has answered it, or has had its chances.
func (s *sender) send(ctx context.Context, cases []Case, wanted []string) ([]*seen, error) {
	found := make([]*seen, 0, len(cases))
	for _, each := range cases {
		found = append(found, &seen{Case: each, answers: map[string]answer{}})
	}
	return found, s.sendAgain(ctx, found, wanted)
}

// sendAgain does the same with cases that lack answers.
func (s *sender) sendAgain(ctx context.Context, cases []*seen, wanted []string) error {
	for batch := range s.batches(cases) {
		if err := s.sendBatch(ctx, batch, wanted); err != nil {
			return err
		}
	}
	return nil
}

// batches is what the slots of every worker have room for, and what one submission holds: parts of a batch
// that come later find workers that are not idle.
func (s *sender) batches(all []*seen) func(func([]*seen) bool) {
	copies := len(s.workers)
	most := min(batchMax, frameTasksMax/copies)
	for _, each := range s.workers {
		most = min(most, each.slots)
	}
	return func(yield func([]*seen) bool) {
		var batch []*seen
		size := 0
		for _, each := range all {
			size += len(each.Payload) * copies
			if len(batch) > 0 && (len(batch) >= most || size > frameBytesMax) {
				if !yield(batch) {
					return
				}
				batch, size = nil, len(each.Payload)*copies
			}
			batch = append(batch, each)
		}
		if len(batch) > 0 {
			yield(batch)
		}
	}
}

func (s *sender) sendBatch(ctx context.Context, batch []*seen, wanted []string) error {
	idle, known := 0, 0
	for n := range rounds {
		left := slices.DeleteFunc(slices.Clone(batch), func(each *seen) bool { return !each.lacks(wanted) })
		if len(left) == 0 || idle >= idleRounds {
			break
		}
		// In another order each time, so that what went wrong once does so only once.
		at := n % len(left)
		left = slices.Concat(left[at:], left[:at])
		if err := s.round(ctx, slices.Repeat(left, len(s.workers)), s.deadline); err != nil {
			return err
		}
		answered := 0
		for _, each := range batch {
			answered += len(each.answers)
		}
		idle++
		if answered > known {
			idle, known = 0, answered
		}
	}
	return nil
}

// copiesToFill is how many tasks at once fill every slot of every worker: twice the slots, since shares are not
// equal where workers serve different methods.
func (s *sender) copiesToFill() int {
	most := 0
	for _, each := range s.workers {
		most = max(most, each.slots)
	}
	return 2 * most * len(s.workers)
}

// burst sends one case so often at once, and waits until all of it has ended.
func (s *sender) burst(ctx context.Context, one Case, copies int) error {
	sent := &seen{Case: one, answers: map[string]answer{}}
	return s.round(ctx, slices.Repeat([]*seen{sent}, copies), s.deadline)
}

// probe sends a case with a deadline of its own; who has started it and not answered by then has expired.
func (s *sender) probe(
	ctx context.Context, one Case, wanted []string, deadline time.Duration,
) (*seen, error) {
	sent := &seen{Case: one, answers: map[string]answer{}}
	for range rounds {
		if !sent.lacks(wanted) {
			break
		}
		if err := s.round(ctx, slices.Repeat([]*seen{sent}, len(s.workers)), deadline); err != nil {
			return nil, err
		}
	}
	return sent, nil
}

// round submits in frames, and watches each task until it has an answer.
func (s *sender) round(ctx context.Context, sent []*seen, deadline time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &watch{sender: s, deadline: deadline, failed: cancel}
	for len(sent) > 0 && ctx.Err() == nil {
		count, size := 0, 0
		for _, each := range sent {
			size += len(each.Payload)
			if count > 0 && (count >= frameTasksMax || size > frameBytesMax) {
				break
			}
			count++
		}
		w.submit(ctx, sent[:count])
		sent = sent[count:]
	}
	w.running.Wait()
	return w.err
}

// watch is one round under way.
type watch struct {
	*sender
	deadline time.Duration
	running  sync.WaitGroup
	once     sync.Once
	failed   context.CancelFunc
	err      error
}

// fail ends the round with its first error.
func (w *watch) fail(err error) {
	w.once.Do(func() {
		w.err = err
		w.failed()
	})
}

func (w *watch) submit(ctx context.Context, frame []*seen) {
	accepted, err := w.accepted(ctx, &plaitv1.SubmitTasksRequest{Tasks: w.frame(frame, w.deadline)})
	if err != nil {
		w.fail(err)
		return
	}
	for _, each := range accepted.GetRefusals() {
		frame[each.GetIndex()].refused = each.GetStatus().GetMessage()
	}
	for at, n := range accepted.GetTasks() {
		if n == 0 {
			continue
		}
		w.sent++
		w.running.Go(func() {
			w.streams <- struct{}{}
			defer func() { <-w.streams }()
			if err := w.follow(ctx, fmt.Sprintf("t%016x", n), frame[at]); err != nil {
				w.fail(fmt.Errorf("watch t%016x: %w", n, err))
			}
		})
	}
}

// accepted submits, and waits while the queue is full.
func (s *sender) accepted(
	ctx context.Context, request *plaitv1.SubmitTasksRequest,
) (*plaitv1.AcceptedFrame, error) {
	for range refusedMax {
		answer, err := s.submitOnce(ctx, request)
		if status.Code(err) != codes.ResourceExhausted {
			return answer.GetAccepted(), err
		}
		pause := time.NewTimer(time.Second)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		}
	}
	return nil, fmt.Errorf("the queue %s stays full", s.info.GetQueue())
}

func (s *sender) submitOnce(
	ctx context.Context, request *plaitv1.SubmitTasksRequest,
) (*plaitv1.SubmitTasksResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	return s.tasks.SubmitTasks(ctx, request)
}

// frame gives each task keys of its own, which win over those of the policy's path: equal requests are not one
// task, and none waits for another.
func (s *sender) frame(frame []*seen, deadline time.Duration) *plaitv1.SubmitFrame {
	made := &plaitv1.SubmitFrame{
		Methods: []string{s.info.GetMethod()},
		Common:  &plaitv1.TaskOptions{Deadline: durationpb.New(deadline)},
	}
	for _, each := range frame {
		key := fmt.Sprintf("plait-contract-test/%s/%s", s.run, rand.Text())
		made.Payloads = append(made.Payloads, each.Payload)
		made.IdempotencyKeys = append(made.IdempotencyKeys, key)
		if s.info.GetOrderingKey() != nil {
			made.OrderingKeys = append(made.OrderingKeys, key)
		}
	}
	if s.info.GetLimitKey() != nil {
		made.LimitKeys = made.IdempotencyKeys
	}
	return made
}

// follow watches a task until it has an answer. One whose first attempt has failed is not to be run again.
func (w *watch) follow(ctx context.Context, id string, sent *seen) error {
	ctx, cancel := context.WithTimeout(ctx, w.deadline+brokerTimeout)
	defer cancel()
	request := &plaitv1.WatchTaskRequest{Id: id, View: plaitv1.TaskView_TASK_VIEW_FULL}
	stream, err := w.tasks.WatchTask(ctx, request)
	if err != nil {
		return err
	}
	for {
		change, err := stream.Recv()
		if err != nil {
			return err
		}
		task := change.GetTask()
		if !isFinal(task) && task.GetError() == nil {
			continue
		}
		take(task, sent)
		if isFinal(task) {
			return nil
		}
		_, err = w.tasks.CancelTask(ctx, &plaitv1.CancelTaskRequest{Id: id, Reason: "a contract test"})
		return err
	}
}

func isFinal(task *plaitv1.Task) bool {
	switch task.GetState() {
	case plaitv1.TaskState_TASK_STATE_SUCCEEDED, plaitv1.TaskState_TASK_STATE_FAILED,
		plaitv1.TaskState_TASK_STATE_CANCELLED, plaitv1.TaskState_TASK_STATE_EXPIRED:
		return true
	default:
		return false
	}
}

// take keeps the answer of a task's latest attempt that has ended.
func take(task *plaitv1.Task, sent *seen) {
	id, took := lastAttempt(task)
	if id == "" {
		return // It waited until its deadline; nobody has answered.
	}
	if found := answerOf(task, took); found.reason != "TASK_CANCELLED" {
		sent.keep(id, found)
	}
}

// lastAttempt is the worker of the latest attempt that has ended, and its time. Another one may have been given
// out meanwhile; of a final task it is the attempt that it ended with, if any.
func lastAttempt(task *plaitv1.Task) (id string, took time.Duration) {
	var started *plaitv1.TaskEvent
	for _, each := range task.GetEvents() {
		switch {
		case each.GetCause() == "STARTED":
			started = each
			continue
		case started != nil:
			id, took = started.GetWorker(), each.GetTime().AsTime().Sub(started.GetTime().AsTime())
		case isFinal(task):
			id = ""
		}
		started = nil
	}
	return id, took
}

var errNothing = errors.New("there is nothing to test")
