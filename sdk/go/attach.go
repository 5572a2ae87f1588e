package plait

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

const (
	// defaultHeartbeat stands in for a welcome without an interval.
	defaultHeartbeat = 5 * time.Second
	// silentBeatsMax is how many intervals of silence mean that the broker is gone.
	silentBeatsMax = 3
	// timeoutMsMax is 365 days, the longest that a contract may say.
	timeoutMsMax = 365 * 24 * 3600 * 1000
	// peopleBytesMax bounds texts that are for people only.
	peopleBytesMax = 256
	// farewell bounds the wait for the broker to end the stream of a drained worker.
	farewell = 2 * time.Second
)

type attachStream = plaitv1.WorkerService_AttachClient

var errSilent = errors.New("the broker was silent for three heartbeats")

// attach announces the worker's contracts and keeps its stream open, until life ends or the worker
// is drained. serving ends with the drain's begin.
func (w *Worker) attach(life, serving context.Context, conn *grpc.ClientConn) error {
	var pause pauser
	known := false
	for life.Err() == nil {
		if !known {
			if err := w.announce(serving); err != nil {
				if serving.Err() != nil {
					return nil
				}
				return err
			}
			known = true
		}
		opened, err := w.serve(life, conn)
		if life.Err() != nil || w.leases.nothingHeld() {
			return nil
		}
		if w.answered {
			pause.reset()
			w.answered = false
		}
		switch {
		case Reason(err) == plaitv1.ErrorReason_ERROR_REASON_METHOD_UNKNOWN:
			known = false // A broker whose data was wiped.
		case permanent(err) && !opened:
			return fmt.Errorf("attach to the broker: %w", err)
		}
		if pause.failures == 0 {
			w.log.WarnContext(life, "attach stream broken; reconnecting",
				"worker", w.id, "error", err)
		}
		if pause.wait(life, conn) != nil {
			return nil
		}
	}
	return nil
}

func (w *Worker) announce(ctx context.Context) error {
	answers, err := w.client.contracts.announceUntil(ctx, w.services)
	if err != nil {
		return err
	}
	infos := map[string]*plaitv1.MethodInfo{}
	w.contracts, w.routes, w.routed = nil, nil, nil
	for _, answer := range answers {
		if digest := answer.GetDigest(); digest != "" {
			w.contracts = append(w.contracts, digest)
		}
		for _, info := range answer.GetMethods() {
			infos[info.GetMethod()] = info
		}
	}
	for _, m := range w.methods {
		info := infos[m.path]
		m.queue = info.GetQueue()
		routes := info.GetServedRoutes()
		if len(routes) == 0 {
			routes = []string{m.path}
		}
		for _, route := range routes {
			w.routes, w.routed = append(w.routes, route), append(w.routed, m)
		}
	}
	return nil
}

// serve opens a stream and serves it until it breaks, or until a drained worker has said
// everything.
func (w *Worker) serve(life context.Context, conn *grpc.ClientConn) (opened bool, err error) {
	ctx, cancel := context.WithCancelCause(life)
	defer cancel(nil)
	stream, welcome, err := w.open(ctx, conn)
	if err != nil {
		return false, err
	}
	w.welcomed(welcome)
	var heard atomic.Uint64
	beat := durationOr(welcome.GetHeartbeatInterval(), defaultHeartbeat)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		w.sendLoop(ctx, stream, cancel)
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		w.watch(ctx, beat, &heard, cancel)
	}()
	err = w.receiveLoop(ctx, stream, &heard)
	cancel(err)
	<-sent
	<-watched
	if cause := context.Cause(ctx); cause != nil && status.Code(err) == codes.Canceled {
		err = cause
	}
	return true, err
}

func (w *Worker) open(
	ctx context.Context, conn *grpc.ClientConn,
) (attachStream, *plaitv1.WorkerWelcome, error) {
	stream, err := plaitv1.NewWorkerServiceClient(conn).Attach(ctx, grpc.ForceCodecV2(streamCodec))
	if err != nil {
		return nil, nil, err
	}
	hello := &plaitv1.WorkerHello{
		Worker: w.id, Name: wireText(w.name, peopleBytesMax), Slots: count32(w.slots),
		Version: wireText(w.version, peopleBytesMax), Client: clientName,
		Held: w.leases.hello(), Methods: w.routes, Contracts: w.contracts, Endpoint: w.announced(),
	}
	// An error of Send is only io.EOF; Recv has the reason.
	_ = stream.Send(&plaitv1.AttachRequest{Message: &plaitv1.AttachRequest_Hello{Hello: hello}})
	answer, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	welcome := answer.GetWelcome()
	if welcome == nil {
		return nil, nil, status.Error(codes.Internal, "the broker's first message is no welcome")
	}
	return stream, welcome, nil
}

// welcomed stops what the broker no longer counts as this worker's.
func (w *Worker) welcomed(welcome *plaitv1.WorkerWelcome) {
	w.leases.setPayloadLimit(welcome.GetPayloadBytesMax())
	w.flags.replace(welcome.GetFlags())
	lost := make(map[leaseKey]error, len(welcome.GetLost()))
	for _, lease := range welcome.GetLost() {
		lost[leaseKey{lease.GetTask(), lease.GetToken()}] = context.Canceled
	}
	w.stopAttempts(lost)
	w.attachedOnce.Do(func() { close(w.attached) })
	w.log.InfoContext(w.base, "worker attached", "worker", w.id, "name", w.name, "lost", len(lost))
}

func (w *Worker) stopAttempts(wanted map[leaseKey]error) {
	if len(wanted) == 0 {
		return
	}
	for a, cause := range w.leases.stop(wanted) {
		a.end(cause)
	}
}

// watch asks for heartbeats and ends a stream whose broker has fallen silent.
func (w *Worker) watch(
	ctx context.Context, beat time.Duration, heard *atomic.Uint64, cancel context.CancelCauseFunc,
) {
	// Twice an interval, so that the time between two messages stays under one.
	ticker := time.NewTicker(max(beat/2, time.Millisecond))
	defer ticker.Stop()
	last, silent := heard.Load(), 0
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		w.leases.beat()
		if now := heard.Load(); now != last {
			last, silent = now, 0
		} else if silent++; silent >= 2*silentBeatsMax {
			cancel(errSilent)
			return
		}
	}
}

// sendLoop sends what there is to say until the stream ends. It never lingers: what gathers while
// one message is sent goes into the next.
func (w *Worker) sendLoop(
	ctx context.Context, stream attachStream, cancel context.CancelCauseFunc,
) {
	for {
		// Lets handlers that are about to end do so first, so that frames fill up; returns at once
		// when there are none.
		runtime.Gosched()
		if message := w.leases.nextMessage(w.runners); message != nil {
			if err := stream.Send(message); err != nil {
				cancel(fmt.Errorf("send to the attach stream: %w", err))
				return
			}
			continue
		}
		if w.leases.finished() {
			w.farewell(ctx, stream, cancel)
			return
		}
		select {
		case <-w.leases.wake:
		case <-ctx.Done():
			return
		}
	}
}

// farewell closes the sending side and leaves the broker a moment to end the stream.
func (w *Worker) farewell(
	ctx context.Context, stream attachStream, cancel context.CancelCauseFunc,
) {
	_ = stream.CloseSend() // Its only error is that the stream is broken, which the receiver sees.
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-timer.C:
		cancel(nil)
	case <-ctx.Done():
	}
}

func (w *Worker) receiveLoop(ctx context.Context, stream attachStream, heard *atomic.Uint64) error {
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		heard.Add(1)
		w.answered = true
		switch m := answer.GetMessage().(type) {
		case *plaitv1.AttachResponse_Attempts:
			if err := w.receive(m.Attempts); err != nil {
				return err
			}
		case *plaitv1.AttachResponse_Settled:
			w.settled(ctx, m.Settled)
		case *plaitv1.AttachResponse_Stop:
			w.stopped(m.Stop)
		case *plaitv1.AttachResponse_Flags:
			w.flags.change(m.Flags)
		case *plaitv1.AttachResponse_Drain:
			grace := m.Drain.GetGrace().AsDuration()
			w.log.InfoContext(ctx, "the broker is draining", "grace", grace)
		default:
			// A heartbeat, or a message of a newer broker.
		}
	}
}

func (w *Worker) settled(ctx context.Context, f *plaitv1.SettledFrame) {
	w.leases.settled(f.GetSequence())
	for _, r := range f.GetRefused() {
		w.log.InfoContext(ctx, "outcome refused", "task", taskID(r.GetTask()),
			"token", r.GetToken(), "error", status.ErrorProto(r.GetStatus()))
	}
}

func (w *Worker) stopped(f *plaitv1.StopFrame) {
	wanted := make(map[leaseKey]error, len(f.GetEntries()))
	for _, entry := range f.GetEntries() {
		cause := context.Canceled
		switch entry.GetReason() {
		case plaitv1.StopReason_STOP_REASON_EXPIRED,
			plaitv1.StopReason_STOP_REASON_ATTEMPT_TIMED_OUT:
			cause = context.DeadlineExceeded
		default:
		}
		wanted[leaseKey{entry.GetTask(), entry.GetToken()}] = cause
	}
	w.stopAttempts(wanted)
}

// receive takes the attempts of a frame. They live in one slice of structs: one allocation a frame.
func (w *Worker) receive(f *plaitv1.AttemptFrame) error {
	n := len(f.GetTasks())
	if len(f.GetTokens()) != n || len(f.GetPayloads()) != n {
		return status.Error(codes.Internal,
			"the broker sent an attempt frame with columns of unequal length")
	}
	now := time.Now()
	structs := make([]attempt, n)
	attempts := make([]*attempt, n)
	extras := f.GetExtras()
	for i := range structs {
		a := &structs[i]
		attempts[i] = a
		index := uint32(0)
		if i < len(f.GetMethodIndex()) {
			index = f.GetMethodIndex()[i]
		}
		if int(index) >= len(w.routed) {
			return status.Errorf(codes.Internal, "the broker sent an attempt of method %d", index)
		}
		a.worker, a.method = w, w.routed[index]
		a.task, a.token, a.payload = f.GetTasks()[i], f.GetTokens()[i], f.GetPayloads()[i]
		if i < len(f.GetTimeoutMs()) {
			left := min(f.GetTimeoutMs()[i], timeoutMsMax)
			a.deadline = now.Add(time.Duration(left) * time.Millisecond)
		}
		if len(extras) > 0 && extras[0].GetIndex() == count32(i) {
			a.extra, extras = extras[0], extras[1:]
		}
	}
	if w.leases.receive(f.GetSequence(), attempts) {
		w.expiry.add(attempts)
		w.runners.add(attempts)
	}
	w.leases.poke()
	return nil
}
