package plait

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"
)

// Run serves until ctx ends, Stop is called or the process gets SIGTERM or SIGINT; then it drains:
// attempts that were not started go back to their queues, flows that wait for children are
// unloaded, the rest has the grace to finish. A second signal, or Stop, ends it at once. It reconnects for
// ever. Its error is a contract that was refused, or what the drain had to cut off. A worker runs
// once.
func (w *Worker) Run(ctx context.Context) error {
	if len(w.methods) == 0 {
		return errors.New("run the worker: no service is registered")
	}
	if w.started.Swap(true) {
		return errors.New("run the worker: it runs already")
	}
	conn, err := w.client.dialBroker()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	base := context.WithoutCancel(ctx)
	w.base, w.interceptor = base, chain(w.interceptors)
	listener, err := w.openListener()
	if err != nil {
		return fmt.Errorf("run the worker: %w", err)
	}
	defer listener.cut()
	signals := make(chan os.Signal, 2)
	if len(w.signals) > 0 {
		signal.Notify(signals, w.signals...)
		defer signal.Stop(signals)
	}
	life, end := context.WithCancel(base)
	serving, drain := context.WithCancel(life)
	var loops sync.WaitGroup
	defer loops.Wait()
	defer drain()
	defer end()
	attached := make(chan error, 1)
	loops.Go(func() { w.expiry.run(life) })
	loops.Go(func() { attached <- w.attach(life, serving, conn) })
	select {
	case err := <-attached:
		w.cutOff()
		return err
	case <-ctx.Done():
	case <-w.stop:
	case <-signals:
	}
	drain()
	w.withdraw()
	return w.drained(attached, listener, signals)
}

// drained waits for what runs, at most the grace.
func (w *Worker) drained(
	attached <-chan error, listener *listener, signals <-chan os.Signal,
) (err error) {
	w.leases.drain(w.runners.drain())
	gone := listener.leave()
	grace := time.NewTimer(w.grace)
	defer grace.Stop()
	over := false
	for !over && (attached != nil || gone != nil) {
		select {
		case err = <-attached:
			w.cutOff()
			attached = nil
		case <-gone:
			gone = nil
		case <-signals:
			over = true
		case <-w.stopNow:
			over = true
		case <-grace.C:
			over = true
		}
	}
	if attached == nil {
		return err
	}
	if n := w.cutOff(); n > 0 {
		return fmt.Errorf("run the worker: %d attempts were cut off by the end of the drain", n)
	}
	return nil
}

// cutOff ends the contexts of the handlers that still run, and returns how many attempts were held.
// Nothing is sent for them: the end of the stream ends their leases. Handlers that do not heed
// their context are left behind.
func (w *Worker) cutOff() int {
	held := w.leases.dropAll()
	for _, a := range held {
		a.end(context.Canceled)
	}
	w.runners.close()
	return len(held)
}
