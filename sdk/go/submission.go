package plait

import (
	"time"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// submission is one task on its way to the broker and, when its result is wanted, back.
type submission struct {
	method string
	// What a frame names for the method.
	route   string
	payload []byte
	// "" for none.
	key, orderingKey, limitKey string
	// nil for none. Submissions may share one; nobody writes to it once it is queued.
	options *plaitv1.TaskOptions
	// When the task is to expire, from the caller's deadline; zero: the policy says. Kept as an
	// instant because the time in the queue counts too.
	expires time.Time
	await   bool
	// About how many bytes it takes in a frame.
	size int

	// Fires when the broker accepted or refused the task, or when it could not be sent.
	accepted event
	// Why not; set before accepted fires.
	err error
	// The result, and the task's number once accepted.
	wait wait

	// Guarded by the session.
	state submissionState
}

type submissionState uint8

const (
	stateQueued submissionState = iota
	stateSent
	stateAnswered
	// Its caller went away before it was sent; it never will be.
	stateDropped
)

// wait is somebody's wish for the result of a task.
type wait struct {
	task uint64
	// The running flow that waits; nil: none.
	parent *attempt
	// Fires when the fields below are set.
	done    event
	payload []byte
	failure *plaitv1.Failure
	// Why there is neither: the submission was refused, or the client closed.
	err error

	// Guarded by the session: another wait for the same task, how many callers wait, and whether
	// the last of them left.
	next      *wait
	listeners int
	gone      bool
	// Set before it is queued: the result is read as soon as it is there.
	soon bool
}

func (w *wait) fail(err error) {
	w.err = err
	w.done.fire()
}

// fail ends a submission that never became a task.
func (sub *submission) fail(err error) {
	sub.err = err
	sub.accepted.fire()
	sub.wait.fail(err)
}

// frame is a numbered SubmitFrame that was not accepted yet.
type frame struct {
	sequence    uint64
	submissions []*submission
	await       bool
}

// Most tasks and payload bytes in one frame (docs/protocol.md §3).
const (
	frameTasksMax = 256
	frameBytesMax = 1 << 20
)

// message makes what is sent. It is made anew for each sending, because times that remain shrink.
func (f *frame) message(now time.Time) *plaitv1.SubmitStreamRequest {
	tasks := &plaitv1.SubmitFrame{Payloads: make([][]byte, len(f.submissions))}
	for i, sub := range f.submissions {
		tasks.Payloads[i] = sub.payload
	}
	f.setMethods(tasks)
	f.setKeys(tasks)
	f.setOptions(tasks, now)
	return &plaitv1.SubmitStreamRequest{Message: &plaitv1.SubmitStreamRequest_Submit{
		Submit: &plaitv1.SequencedSubmit{Sequence: f.sequence, Tasks: tasks, Await: f.await},
	}}
}

func (f *frame) setMethods(tasks *plaitv1.SubmitFrame) {
	first := f.submissions[0].route
	tasks.Methods = append(tasks.Methods, first)
	for i, sub := range f.submissions {
		if sub.route == first && tasks.MethodIndex == nil {
			continue
		}
		if tasks.MethodIndex == nil {
			tasks.MethodIndex = make([]uint32, len(f.submissions))
		}
		tasks.MethodIndex[i] = methodIndex(tasks, sub.route)
	}
}

// methodIndex finds or adds a route. A frame has few, so it is searched in line.
func methodIndex(tasks *plaitv1.SubmitFrame, route string) uint32 {
	for i, m := range tasks.Methods {
		if m == route {
			return count32(i)
		}
	}
	tasks.Methods = append(tasks.Methods, route)
	return count32(len(tasks.Methods) - 1)
}

func (f *frame) setKeys(tasks *plaitv1.SubmitFrame) {
	for i, sub := range f.submissions {
		if sub.key != "" {
			if tasks.IdempotencyKeys == nil {
				tasks.IdempotencyKeys = make([]string, len(f.submissions))
			}
			tasks.IdempotencyKeys[i] = sub.key
		}
		if sub.orderingKey != "" {
			if tasks.OrderingKeys == nil {
				tasks.OrderingKeys = make([]string, len(f.submissions))
			}
			tasks.OrderingKeys[i] = sub.orderingKey
		}
		if sub.limitKey != "" {
			if tasks.LimitKeys == nil {
				tasks.LimitKeys = make([]string, len(f.submissions))
			}
			tasks.LimitKeys[i] = sub.limitKey
		}
	}
}

func (f *frame) setOptions(tasks *plaitv1.SubmitFrame, now time.Time) {
	if f.sharedOptions() {
		tasks.Common = f.submissions[0].options
		return
	}
	for i, sub := range f.submissions {
		if options := sub.optionsAt(now); options != nil {
			tasks.Options = append(tasks.Options, &plaitv1.IndexedOptions{
				Index: count32(i), Options: options,
			})
		}
	}
}

// sharedOptions tells whether all have the very same options, as those of one bulk submission do.
func (f *frame) sharedOptions() bool {
	first := f.submissions[0].options
	for _, sub := range f.submissions {
		if sub.options != first || !sub.expires.IsZero() {
			return false
		}
	}
	return true
}
