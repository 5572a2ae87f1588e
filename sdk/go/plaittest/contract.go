package plaittest

import (
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"plait.dev/plait/plaittest/internal/boundary"
)

// contractDeadline is what each task of a contract test has: long for a handler, short for a test.
const contractDeadline = 5 * time.Second

// ContractTest says what [Contract] tests, and how it judges.
type ContractTest struct {
	// Services has full names of services whose contracts are in force. Required.
	Services []string
	// Address is the broker's. Default: PLAIT_ADDRESS, else 127.0.0.1:7420.
	Address string
	// Methods selects some, as "package.Service/Method". Default: all that do not stream.
	Methods []string
	// Workers selects some, by name or id. Default: all that are attached.
	Workers []string
	// Ignore has paths of response fields that may differ, such as "order.create_time"; "?" for
	// unknown fields. Default: none.
	Ignore []string
	// Deadline is what each task has. Default 5 s.
	Deadline time.Duration
	// AllowUncovered says that a worker may go without having answered a case.
	AllowUncovered bool
	// DialOptions are for the connections to broker and scheduler. Default: plaintext.
	DialOptions []grpc.DialOption
}

// Contract sends boundary messages through every worker of the methods, in whatever language they are, and
// compares the answers: each field of the request at its edges, unset, unknown fields, the largest request,
// and what the rules of protovalidate allow and forbid. Each method is a subtest, and each case one of that.
// A case fails when workers differ, when one that breaks a rule is not answered INVALID_ARGUMENT, when a
// worker was not reached, and when a worker goes on after its deadline.
//
// It has the effects that the methods have: point it at a mesh for tests. The cases are those of `plait
// contract test`, which repeats one of them by its name.
func Contract(t *testing.T, c ContractTest) {
	t.Helper()
	conn, err := grpc.NewClient(c.address(), c.dialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	reports, err := boundary.Run(t.Context(), conn, c.plan())
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range reports {
		t.Run(each.Method, func(t *testing.T) { reportMethod(t, each) })
	}
}

func reportMethod(t *testing.T, report *boundary.Report) {
	t.Helper()
	t.Logf("%d cases by %v", len(report.Cases), report.Workers)
	for _, note := range report.Notes {
		t.Log(note)
	}
	failures := map[string][]boundary.Failure{}
	for _, each := range report.Failures {
		failures[each.Case] = append(failures[each.Case], each)
	}
	for _, each := range report.Cases {
		t.Run(each.Name, func(t *testing.T) {
			for _, failure := range failures[each.Name] {
				t.Error(failure)
			}
		})
	}
	for _, failure := range failures[report.Method] {
		t.Error(failure)
	}
}

func (c ContractTest) address() string {
	if c.Address != "" {
		return c.Address
	}
	if address := os.Getenv("PLAIT_ADDRESS"); address != "" {
		return address
	}
	return "127.0.0.1:7420"
}

func (c ContractTest) dialOptions() []grpc.DialOption {
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
	}, c.DialOptions...)
}

func (c ContractTest) plan() boundary.Plan {
	deadline := c.Deadline
	if deadline == 0 {
		deadline = contractDeadline
	}
	return boundary.Plan{
		Services: c.Services, Methods: c.Methods, Workers: c.Workers, Ignore: c.Ignore,
		Deadline: deadline, AllowUncovered: c.AllowUncovered, Dial: c.dialOptions(),
	}
}
