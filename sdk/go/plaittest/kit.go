package plaittest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	testkitv1 "plait.dev/plait/gen/plait/testkit/v1"
	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// Kit moves the broker's clock ahead and lets attempts fail. Delays, backoffs, deadlines and
// retention go by the broker's clock; what a handler itself waits for does not. Its errors are gRPC
// statuses.
type Kit struct {
	// How long the workers may take for what is due at one instant, in real time. 0: 10 s.
	Patience time.Duration

	kit   testkitv1.TestKitServiceClient
	flags plaitv1.FlagServiceClient
}

// Fault says which attempts fail. Of several that fit, the newest strikes.
type Fault struct {
	// "package.Service/Method".
	Method string
	// Numbers of a task's attempts, from 1. Nil: the first one; empty and not nil: all.
	Attempts []uint32
	// How often it strikes. 0: as often as it fits.
	Times uint32
	// For [Kit.Fail]: runs the handler, and throws its answer away. Default: it is not run.
	After bool
}

// StartKit runs a broker and a scheduler as [Start] does, with a clock that the kit moves and
// attempts that it lets fail. Such a broker does not wait for its disk. The kit is connected until
// the test ends.
func StartKit(tb testing.TB) (*Plait, *Kit) {
	tb.Helper()
	p := startWith(tb, "--test-kit", "--sync", "none")
	connection, err := grpc.NewClient(p.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = connection.Close() })
	return p, &Kit{
		kit: testkitv1.NewTestKitServiceClient(connection), flags: plaitv1.NewFlagServiceClient(connection),
	}
}

// Now is the broker's time.
func (k *Kit) Now(ctx context.Context) (time.Time, error) {
	clock, err := k.kit.GetClock(ctx, &testkitv1.GetClockRequest{})
	if err != nil {
		return time.Time{}, fmt.Errorf("read the broker's clock: %w", err)
	}
	return clock.GetTime().AsTime(), nil
}

// Advance moves the clock ahead, from one thing that is due to the next, and lets the workers
// finish what each begins. It returns the time it is then. 0 waits for what is due now. Its error
// is FAILED_PRECONDITION where the patience is not enough, and says what the workers do.
func (k *Kit) Advance(ctx context.Context, by time.Duration) (time.Time, error) {
	until := &testkitv1.AdvanceClockRequest_By{By: durationpb.New(by)}
	return k.advance(ctx, &testkitv1.AdvanceClockRequest{Until: until})
}

// AdvanceRegardless is [Kit.Advance] although attempts run, or wait for a worker.
func (k *Kit) AdvanceRegardless(ctx context.Context, by time.Duration) (time.Time, error) {
	until := &testkitv1.AdvanceClockRequest_By{By: durationpb.New(by)}
	return k.advance(ctx, &testkitv1.AdvanceClockRequest{Until: until, Regardless: true})
}

// Finish moves the clock ahead until a task is final, by its id, and returns the time it is then.
// Its error is FAILED_PRECONDITION, too, where nothing is due any more.
func (k *Kit) Finish(ctx context.Context, task string) (time.Time, error) {
	until := &testkitv1.AdvanceClockRequest_Finished{Finished: task}
	return k.advance(ctx, &testkitv1.AdvanceClockRequest{Until: until})
}

func (k *Kit) advance(
	ctx context.Context,
	request *testkitv1.AdvanceClockRequest,
) (time.Time, error) {
	if k.Patience != 0 {
		request.Patience = durationpb.New(k.Patience)
	}
	clock, err := k.kit.AdvanceClock(ctx, request)
	if err != nil {
		return time.Time{}, fmt.Errorf("move the broker's clock: %w", err)
	}
	return clock.GetTime().AsTime(), nil
}

// Fail lets attempts end with a status. The code must not be OK.
func (k *Kit) Fail(ctx context.Context, fault Fault, code codes.Code, message string) error {
	said := status.New(code, message).Proto()
	wire := fault.wire()
	if fault.After {
		wire.Action = &testkitv1.Fault_FailAfter{FailAfter: said}
	} else {
		wire.Action = &testkitv1.Fault_FailBefore{FailBefore: said}
	}
	return k.add(ctx, wire)
}

// DropStream breaks the worker's stream as soon as it has such an attempt.
func (k *Kit) DropStream(ctx context.Context, fault Fault) error {
	wire := fault.wire()
	wire.Action = &testkitv1.Fault_DropStream{DropStream: &testkitv1.DropStream{}}
	return k.add(ctx, wire)
}

// ExpireLease ends the lease of such an attempt as soon as the worker has it: the handler's context
// ends, and what it still answers is refused.
func (k *Kit) ExpireLease(ctx context.Context, fault Fault) error {
	wire := fault.wire()
	wire.Action = &testkitv1.Fault_ExpireLease{ExpireLease: &testkitv1.ExpireLease{}}
	return k.add(ctx, wire)
}

// Struck tells how often each fault struck, in the order in which they were asked for.
func (k *Kit) Struck(ctx context.Context) ([]int, error) {
	faults, err := k.kit.ListFaults(ctx, &testkitv1.ListFaultsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list the faults: %w", err)
	}
	var struck []int
	for _, fault := range faults.GetFaults() {
		struck = append(struck, int(fault.GetStruck()))
	}
	return struck, nil
}

// Clear forgets all faults.
func (k *Kit) Clear(ctx context.Context) error {
	if _, err := k.kit.ClearFaults(ctx, &testkitv1.ClearFaultsRequest{}); err != nil {
		return fmt.Errorf("clear the faults: %w", err)
	}
	return nil
}

// SetFlag sets a feature flag, on or off for everybody. Handlers of tasks that are submitted after it
// see it.
func (k *Kit) SetFlag(ctx context.Context, name string, on bool) error {
	rule := &plaitv1.FlagRule{Name: name}
	if on {
		rule.Share = 10_000
	}
	set := &plaitv1.SetFlagRequest{Flag: &plaitv1.Flag{Rule: rule}}
	if _, err := k.flags.SetFlag(ctx, set); err != nil {
		return fmt.Errorf("set the flag %s: %w", name, err)
	}
	return nil
}

func (k *Kit) add(ctx context.Context, fault *testkitv1.Fault) error {
	if _, err := k.kit.AddFault(ctx, &testkitv1.AddFaultRequest{Fault: fault}); err != nil {
		return fmt.Errorf("add a fault: %w", err)
	}
	return nil
}

func (f Fault) wire() *testkitv1.Fault {
	wire := &testkitv1.Fault{
		Method: "/" + strings.TrimPrefix(f.Method, "/"), Attempts: f.Attempts, Times: f.Times,
	}
	if f.Attempts == nil {
		wire.Attempts = []uint32{1}
	}
	return wire
}
