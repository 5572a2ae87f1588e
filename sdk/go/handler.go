package plait

import (
	"context"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// handle runs the handler of an attempt and queues its outcome.
func (w *Worker) handle(a *attempt) {
	if !a.state.CompareAndSwap(attemptWaiting, attemptRunning) {
		return // Stopped, expired or handed back while it waited.
	}
	a.flags = w.flags.now()
	a.span = startAttemptSpan(a, a)
	var response []byte
	err := errGoexit
	// Deferred, so that a handler that ends its goroutine has an outcome too.
	defer func() { w.conclude(a, response, err) }()
	response, err = w.invoke(a)
}

// errGoexit is the outcome of a handler that called runtime.Goexit, as t.FailNow does.
var errGoexit = status.Error(codes.Unknown, "the handler ended its goroutine without an answer")

// invoke calls the handler. A panic becomes UNKNOWN with the panic's text, and its stack goes to
// the log: a plain gRPC server would end the process, and with it every other attempt that runs
// here.
func (w *Worker) invoke(a *attempt) (payload []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			w.log.ErrorContext(a, "handler panicked", "method", a.method.path,
				"task", taskID(a.task), "attempt", a.number(), "panic", r,
				"stack", string(debug.Stack()))
			err = status.Errorf(codes.Unknown, "panic: %v", r)
		}
	}()
	response, err := a.method.handler(a.method.service, a, a.decode, w.interceptor)
	if err != nil {
		return nil, err
	}
	payload, ok, err := payloadOf(response, proto.MarshalOptions{})
	if !ok {
		return nil, status.Errorf(codes.Internal,
			"the handler answered a %T, not a protobuf message", response)
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "marshal the response: %v", err)
	}
	if limit := w.leases.payloadLimit(); limit > 0 && uint64(len(payload)) > limit {
		return nil, tooLarge("response", uint64(len(payload)), limit)
	}
	return payload, nil
}

// decode fills the handler's request.
func (a *attempt) decode(request any) error {
	if err := checkMessage("request", request); err != nil {
		return err
	}
	if err := setPayload(request, a.payload); err != nil {
		return status.Errorf(codes.Internal, "unmarshal the request: %v", err)
	}
	a.payload = nil
	return nil
}

// conclude turns what a handler returned into the attempt's outcome, unless it has one, or needs
// none, already.
func (w *Worker) conclude(a *attempt, response []byte, err error) {
	trailer := a.finish()
	var failure *plaitv1.Failure
	if err != nil {
		failure = failureOf(err, trailer)
	}
	endAttemptSpan(a.span, failure)
	if a.state.CompareAndSwap(attemptRunning, attemptEnded) {
		a.response, a.failure = response, failure
		w.leases.ended(a)
	}
	a.end(context.Canceled)
}

// expire ends an attempt whose time is over. Its handler is told by its context; what it may still
// answer is not wanted.
func (w *Worker) expire(a *attempt) {
	// A flow that stands still is not failed: the broker unloads it, and says so.
	if a.waiting() {
		return
	}
	if !a.state.CompareAndSwap(attemptRunning, attemptEnded) &&
		!a.state.CompareAndSwap(attemptWaiting, attemptEnded) {
		return
	}
	reason := plaitv1.ErrorReason_ERROR_REASON_ATTEMPT_TIMED_OUT
	text := fmt.Sprintf("attempt %d of %s ran out of its time", a.number(), taskID(a.task))
	facts := map[string]string{"task": taskID(a.task)}
	a.failure = failureOf(refusal(codes.DeadlineExceeded, reason, text, facts), nil)
	w.leases.ended(a)
	a.end(context.DeadlineExceeded)
}
