// Package plaittest runs a real broker and a real scheduler for the tests of programs that use
// Plait.
//
//	func TestCharge(t *testing.T) {
//		p := plaittest.Start(t)
//		client := p.Connect(t)
//		...
//	}
//
// Both keep their data in a folder of their own and listen on free ports of the loopback. Starting
// takes a few seconds, most of them the scheduler's; tests may share one by [New] in TestMain. The
// package has no fake: a test that passes here has seen the durability, the retries and the
// deadlines that a program will see.
package plaittest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"plait.dev/plait"
)

// startTimeout bounds the start of one process: the scheduler's imports take seconds on a busy
// machine.
const startTimeout = 60 * time.Second

// Plait is a running broker and scheduler.
type Plait struct {
	output  io.Writer
	folder  string
	address string

	brokerPath, schedulerPath string
	brokerArguments           []string
	broker, scheduler         *process
}

// Start runs both until the test ends. It skips the test when the binaries are not found, and says
// where they were looked for; where PLAIT_BIN is set, that is a failure instead.
func Start(tb testing.TB) *Plait {
	tb.Helper()
	return startWith(tb)
}

func startWith(tb testing.TB, brokerArguments ...string) *Plait {
	tb.Helper()
	p, err := newWith(tb.Context(), tb.Output(), brokerArguments...)
	if errors.Is(err, ErrMissing) && os.Getenv(binEnv) == "" {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Close)
	return p
}

// New runs both until Close. What they log goes to output. Its error is [ErrMissing] when the
// binaries are not found.
func New(ctx context.Context, output io.Writer) (*Plait, error) { return newWith(ctx, output) }

func newWith(
	ctx context.Context,
	output io.Writer,
	brokerArguments ...string,
) (*Plait, error) {
	broker, err := find("plait-broker", "PLAIT_BROKER", "target/debug", "target/release")
	if err != nil {
		return nil, err
	}
	scheduler, err := find("plait-scheduler", "PLAIT_SCHEDULER", ".venv/bin")
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "plaittest-")
	if err != nil {
		return nil, fmt.Errorf("start plait: %w", err)
	}
	p := &Plait{
		output: output, folder: folder, address: "127.0.0.1:0",
		brokerPath: broker, schedulerPath: scheduler, brokerArguments: brokerArguments,
	}
	if err := errors.Join(p.StartBroker(ctx), p.StartScheduler(ctx)); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// StartBroker runs the broker again after [Plait.KillBroker], at the same address and with the same
// data.
func (p *Plait) StartBroker(ctx context.Context) error {
	arguments := append([]string{"--listen", p.address, "--data-dir", p.folder}, p.brokerArguments...)
	started, address, err := start(ctx, p.output, p.brokerPath, arguments...)
	if err != nil {
		return err
	}
	p.broker, p.address = started, address
	return nil
}

// StartScheduler runs the scheduler again after [Plait.KillScheduler].
func (p *Plait) StartScheduler(ctx context.Context) error {
	started, _, err := start(ctx, p.output, p.schedulerPath,
		"--listen", "127.0.0.1:0", "--broker", p.address)
	if err != nil {
		return err
	}
	p.scheduler = started
	return nil
}

// KillBroker ends the broker as kill -9 does.
func (p *Plait) KillBroker() { p.broker.kill() }

// KillScheduler ends the scheduler as kill -9 does.
func (p *Plait) KillScheduler() { p.scheduler.kill() }

// Wipe removes the data of a broker that was killed, as if its disk were lost.
func (p *Plait) Wipe() error {
	if err := os.RemoveAll(p.folder); err != nil {
		return fmt.Errorf("wipe the broker's data: %w", err)
	}
	return nil
}

// Address is where the broker listens.
func (p *Plait) Address() string { return p.address }

// Connect makes a client, which is closed when the test ends.
func (p *Plait) Connect(tb testing.TB, options ...plait.ClientOption) *plait.Client {
	tb.Helper()
	options = append([]plait.ClientOption{plait.WithAddress(p.address)}, options...)
	client, err := plait.Connect(tb.Context(), options...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Work runs a worker until the test ends, and fails the test if the worker ends with an error.
// Register services on it before.
func (p *Plait) Work(tb testing.TB, w *plait.Worker) {
	tb.Helper()
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	go func() { ended <- w.Run(ctx) }()
	tb.Cleanup(func() {
		// Not by Stop: that would be the second one of a test that has called it.
		stop()
		if err := <-ended; err != nil {
			tb.Errorf("the worker ended: %v", err)
		}
	})
}

// Close ends both and removes their data.
func (p *Plait) Close() {
	if p.scheduler != nil {
		p.scheduler.kill()
	}
	if p.broker != nil {
		p.broker.kill()
	}
	_ = os.RemoveAll(p.folder)
}
