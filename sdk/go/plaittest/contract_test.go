package plaittest_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"plait.dev/plait"
	testingv1 "plait.dev/plait/gen/testing/v1"
	"plait.dev/plait/plaittest"
	"plait.dev/plait/plaittest/internal/boundary"
)

const (
	echoService = "testing.v1.EchoService"
	padded      = "testing.v1.AppendRequest.account = string padded"
	unset       = "testing.v1.EchoRequest = unset"
	endless     = "testing.v1.SleepRequest.duration = Duration max"
	oddDeadline = 2 * time.Second
)

// oddServer is not like the others: it refuses an empty payload, counts a padded account otherwise, and its
// Sleep goes on after its deadline, until the test ends.
type oddServer struct {
	*echoServer
	ended chan struct{}
}

func (*oddServer) Echo(
	_ context.Context, r *testingv1.EchoRequest,
) (*testingv1.EchoResponse, error) {
	if len(r.GetPayload()) == 0 {
		return nil, status.Error(codes.FailedPrecondition, "there is nothing to echo")
	}
	return &testingv1.EchoResponse{Payload: bytes.Clone(r.GetPayload())}, nil
}

func (*oddServer) Append(
	_ context.Context, r *testingv1.AppendRequest,
) (*testingv1.AppendResponse, error) {
	if strings.TrimSpace(r.GetAccount()) != r.GetAccount() {
		return &testingv1.AppendResponse{Length: -1}, nil
	}
	return &testingv1.AppendResponse{Length: 1}, nil
}

func (o *oddServer) Sleep(
	_ context.Context, r *testingv1.SleepRequest,
) (*testingv1.SleepResponse, error) {
	if r.GetDuration().AsDuration() > time.Hour {
		<-o.ended
	}
	return &testingv1.SleepResponse{}, nil
}

// evenServer answers the same each time.
type evenServer struct{ *echoServer }

func (evenServer) Append(
	context.Context, *testingv1.AppendRequest,
) (*testingv1.AppendResponse, error) {
	return &testingv1.AppendResponse{Length: 1}, nil
}

// serve runs a worker with the echo service until the test ends, and returns once it is attached.
func serve(t *testing.T, p *plaittest.Plait, name string, server testingv1.EchoServiceServer) {
	t.Helper()
	w := p.Connect(t).Worker(plait.WithoutSignals(), plait.WithName(name), plait.WithConcurrency(8),
		plait.WithGrace(time.Second))
	testingv1.RegisterEchoServiceServer(w, server)
	p.Work(t, w)
	select {
	case <-w.Attached():
	case <-time.After(30 * time.Second):
		t.Fatal("the worker is not attached")
	}
}

func TestContract_WorkersThatAgree(t *testing.T) {
	t.Parallel()
	needMesh(t)
	p := plaittest.Start(t)
	serve(t, p, "one", evenServer{newEchoServer(nil)})
	serve(t, p, "other", evenServer{newEchoServer(nil)})
	plaittest.Contract(t, plaittest.ContractTest{
		Address: p.Address(), Services: []string{echoService}, Deadline: oddDeadline,
		Methods: []string{echoService + "/Echo", echoService + "/Append", echoService + "/Sleep"},
	})
}

func TestContract_FindsTheWorkerThatDiffers(t *testing.T) {
	t.Parallel()
	needMesh(t)
	p := plaittest.Start(t)
	serve(t, p, "one", evenServer{newEchoServer(nil)})
	serve(t, p, "other", evenServer{newEchoServer(nil)})
	odd := &oddServer{newEchoServer(nil), make(chan struct{})}
	serve(t, p, "odd", odd)
	// Before the worker's own end, which waits for its handlers.
	t.Cleanup(func() { close(odd.ended) })
	reports := runContract(t, p, boundary.Plan{
		Services: []string{echoService}, Deadline: oddDeadline,
		Methods: []string{echoService + "/Echo", echoService + "/Append", echoService + "/Sleep"},
	})
	found := map[string]string{}
	for _, report := range reports {
		for _, each := range report.Failures {
			if !slices.Equal(each.Workers, []string{"odd"}) {
				t.Errorf("%s: %v", each.Case, each)
			}
			found[each.Case] = each.Kind
		}
	}
	for name, kind := range map[string]string{padded: "DIFFERS", unset: "DIFFERS", endless: "OVERRUN"} {
		if found[name] != kind {
			t.Errorf("%s is %q, want %q", name, found[name], kind)
		}
	}
}

func TestContract_NobodyAndNothing(t *testing.T) {
	t.Parallel()
	needMesh(t)
	p := plaittest.Start(t)
	serve(t, p, "even", evenServer{newEchoServer(nil)})
	plan := boundary.Plan{
		Services: []string{echoService}, Deadline: oddDeadline, Workers: []string{"nobody"},
		Methods: []string{echoService + "/Echo"},
	}
	reports := runContract(t, p, plan)
	if len(reports) != 1 || len(reports[0].Failures) != 1 || reports[0].Failures[0].Kind != "NOT_COVERED" {
		t.Errorf("got %v, want one NOT_COVERED", reports)
	}
	plan.Methods = []string{echoService + "/Nothing"}
	if _, err := boundary.Run(t.Context(), connect(t, p), plan); err == nil {
		t.Error("a method that there is not is tested")
	}
}

func runContract(t *testing.T, p *plaittest.Plait, plan boundary.Plan) []*boundary.Report {
	t.Helper()
	plan.Dial = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	reports, err := boundary.Run(t.Context(), connect(t, p), plan)
	if err != nil {
		t.Fatal(err)
	}
	return reports
}

func connect(t *testing.T, p *plaittest.Plait) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(p.Address(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
