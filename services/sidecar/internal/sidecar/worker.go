package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"plait.dev/plait"
	"plait.dev/sidecar/internal/contract"
	"plait.dev/sidecar/internal/forward"
	"plait.dev/sidecar/internal/gate"
)

const (
	// settle is how long the server may be away before the worker leaves the mesh for it: a server
	// that closes old connections is back at once.
	settle = 250 * time.Millisecond
	// longest stands for no bound: how long a drain takes is for run, not for the SDK.
	longest = 365 * 24 * time.Hour
)

// worker serves the contract to the broker. While the server does not serve, no worker of it is
// attached: what had not begun went back to its queue, at no attempt's cost, where other workers
// find it.
type worker struct {
	mesh     *plait.Client
	contract *contract.Contract
	gate     *gate.Gate
	server   *forward.Server
	log      *slog.Logger
	name     string
	version  string
	slots    int
	// Called once, when the first one is attached.
	attached func() error
	once     sync.Once
	running  sync.WaitGroup
}

// run keeps a worker attached while the gate is open, until ctx ends; then it drains, for at most
// the grace.
func (w *worker) run(ctx context.Context, grace time.Duration) error {
	// Workers that drain because the server paused may go on while a new one is attached.
	failed := make(chan error, 1)
	err := w.serve(ctx, failed)
	if err != nil {
		return err
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		w.running.Wait()
	}()
	over := time.NewTimer(grace)
	defer over.Stop()
	select {
	case <-drained:
		return nil
	case <-over.C:
		return fmt.Errorf("calls that ran were cut off after %s", grace)
	}
}

func (w *worker) serve(ctx context.Context, failed chan error) error {
	for {
		mode := w.awaitOpen(ctx)
		if ctx.Err() != nil {
			return nil
		}
		stop := w.start(ctx, mode, failed)
		err := w.whileIn(ctx, mode, failed)
		stop()
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// awaitOpen waits until the gate lets something through, and says so when that takes a while.
func (w *worker) awaitOpen(ctx context.Context) gate.Mode {
	if mode, _, changed, _ := w.gate.Mode(); mode == gate.Paused {
		await(ctx, changed, settle)
	}
	said := ""
	for {
		mode, reason, changed, retry := w.gate.Mode()
		if mode != gate.Paused || ctx.Err() != nil {
			if said != "" {
				w.log.InfoContext(ctx, "serving again")
			}
			return mode
		}
		if reason != said {
			said = reason
			w.log.WarnContext(ctx, "paused: no new attempts are taken", "reason", reason)
		}
		await(ctx, changed, retry)
	}
}

// whileIn waits until the gate is in another mode for good, ctx ends, or a worker failed.
func (w *worker) whileIn(ctx context.Context, mode gate.Mode, failed <-chan error) error {
	for {
		now, _, changed, retry := w.gate.Mode()
		if now != mode {
			settled, cancel := context.WithTimeout(ctx, settle)
			for now != mode && settled.Err() == nil {
				await(settled, changed, 0)
				now, _, changed, _ = w.gate.Mode()
			}
			cancel()
			if now != mode || ctx.Err() != nil {
				return nil
			}
			continue
		}
		if err := awaitFailure(ctx, changed, retry, failed); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// awaitFailure is await that a worker's failure ends, too.
func awaitFailure(
	ctx context.Context, changed <-chan struct{}, limit time.Duration, failed <-chan error,
) error {
	var over <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case err := <-failed:
		return err
	case <-changed:
	case <-over:
	case <-ctx.Done():
	}
	return nil
}

// await waits for a change, for a time unless it is 0, or for the end of ctx.
func await(ctx context.Context, changed <-chan struct{}, limit time.Duration) {
	_ = awaitFailure(ctx, changed, limit, nil) // Nobody sends to a nil channel.
}

// start attaches a worker; stop drains it, without waiting.
func (w *worker) start(ctx context.Context, mode gate.Mode, failed chan<- error) (stop func()) {
	slots := w.slots
	if mode == gate.Probing {
		slots = min(slots, w.gate.Probes())
	}
	attached := w.mesh.Worker(plait.WithName(w.name), plait.WithVersion(w.version),
		plait.WithConcurrency(slots),
		plait.WithGrace(longest), plait.WithoutSignals())
	for _, service := range w.contract.Services {
		w.server.Register(attached, service)
	}
	ended := make(chan struct{})
	w.running.Go(func() {
		defer close(ended)
		// Its drain is begun by stop alone: ctx ends before calls that run are through.
		if err := attached.Run(context.WithoutCancel(ctx)); err != nil {
			tell(failed, err)
		}
	})
	w.running.Go(func() {
		select {
		case <-attached.Attached():
			w.once.Do(func() {
				if err := w.attached(); err != nil {
					tell(failed, err)
				}
			})
		case <-ended:
		}
	})
	return attached.Stop
}

// tell keeps the first error.
func tell(failed chan<- error, err error) {
	select {
	case failed <- err:
	default:
	}
}
