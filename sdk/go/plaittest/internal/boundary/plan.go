package boundary

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	// Every program has them, so contracts travel without them.
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/fieldmaskpb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"

	"plait.dev/plait"
	controlv1 "plait.dev/plait/gen/plait/control/v1"
	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// schedulerKey is where the scheduler says where it listens.
const schedulerKey = "scheduler/address"

// settlePatience is how long the scheduler may know other workers than the broker.
const settlePatience = 10 * time.Second

// Plan is what is tested.
type Plan struct {
	// Full names.
	Services []string
	// "package.Service/Method"; none: all of the services.
	Methods []string
	// Names or ids; none: all that are attached.
	Workers []string
	// Fields of responses that may differ; "?" for unknown fields.
	Ignore []string
	// What each task has.
	Deadline time.Duration
	// Whether a worker may go without having answered a case.
	AllowUncovered bool
	// For the scheduler's connection.
	Dial []grpc.DialOption
}

// Run tests the methods of a mesh; conn is to its broker.
func Run(ctx context.Context, conn grpc.ClientConnInterface, plan Plan) ([]*Report, error) {
	d := &door{conn: conn, contracts: plaitv1.NewContractServiceClient(conn), dial: plan.Dial}
	limit, err := d.payloadBytesMax(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the largest request: %w", err)
	}
	var checks []*check
	for _, service := range plan.Services {
		found, err := d.checks(ctx, plan, service, limit)
		if err != nil {
			return nil, err
		}
		checks = append(checks, found...)
	}
	if len(checks) == 0 {
		return nil, errNothing
	}
	return runAll(ctx, checks)
}

func runAll(ctx context.Context, checks []*check) ([]*Report, error) {
	var reports []*Report
	gone := map[string]bool{}
	for _, each := range checks {
		if err := each.answers(ctx, gone); err != nil {
			return nil, fmt.Errorf("test %s: %w", each.report.Method, err)
		}
		reports = append(reports, each.report)
	}
	stuck := map[string]bool{}
	for _, each := range checks {
		if err := each.deadlines(ctx, stuck); err != nil {
			return nil, fmt.Errorf("test the deadlines of %s: %w", each.report.Method, err)
		}
	}
	return reports, nil
}

// door is what a test asks a mesh before it sends anything.
type door struct {
	conn      grpc.ClientConnInterface
	contracts plaitv1.ContractServiceClient
	dial      []grpc.DialOption
}

// payloadBytesMax is the largest request that the broker takes, as it tells whoever submits.
func (d *door) payloadBytesMax(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	stream, err := plaitv1.NewTaskServiceClient(d.conn).SubmitStream(ctx)
	if err != nil {
		return 0, err
	}
	session := make([]byte, 16)
	_, _ = rand.Read(session) // It never fails.
	hello := &plaitv1.SessionHello{Session: session, Client: "plait-go/" + plait.Version}
	said := &plaitv1.SubmitStreamRequest{Message: &plaitv1.SubmitStreamRequest_Hello{Hello: hello}}
	// What went wrong is what Recv says.
	if err := stream.Send(said); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	most := new(big.Int).SetUint64(answer.GetWelcome().GetPayloadBytesMax())
	return int(most.Int64()), nil
}

// settled is all workers that are attached: as many as the broker counts, of which the scheduler hears a moment
// later.
func (d *door) settled(ctx context.Context, infos []*plaitv1.MethodInfo) ([]*controlv1.Worker, error) {
	end := time.Now().Add(settlePatience)
	for {
		found, err := d.workers(ctx)
		if err != nil {
			return nil, err
		}
		complete, err := d.complete(ctx, infos, found)
		if err != nil || complete || time.Now().After(end) {
			return found, err
		}
		pause := time.NewTimer(50 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		}
	}
}

// complete tells whether the scheduler knows as many workers of each queue as the broker does.
func (d *door) complete(
	ctx context.Context, infos []*plaitv1.MethodInfo, found []*controlv1.Worker,
) (bool, error) {
	for _, info := range infos {
		request := &plaitv1.GetQueueRequest{Name: info.GetQueue()}
		answer, err := plaitv1.NewTaskServiceClient(d.conn).GetQueue(ctx, request)
		if err != nil {
			return false, err
		}
		var known int32
		for _, each := range found {
			if slices.ContainsFunc(answer.GetQueue().GetMethods(), func(method string) bool {
				return slices.Contains(each.GetMethods(), method)
			}) {
				known++
			}
		}
		if known != answer.GetQueue().GetWorkerCount() {
			return false, nil
		}
	}
	return true, nil
}

// workers is all that the scheduler knows.
func (d *door) workers(ctx context.Context) ([]*controlv1.Worker, error) {
	ctx, cancel := context.WithTimeout(ctx, brokerTimeout)
	defer cancel()
	space := controlv1.NewKeyValueServiceClient(d.conn)
	entry, err := space.GetEntry(ctx, &controlv1.GetEntryRequest{Key: schedulerKey})
	if err != nil {
		return nil, err
	}
	if entry.GetEntry() == nil {
		return nil, errors.New("no scheduler runs")
	}
	conn, err := grpc.NewClient(string(entry.GetEntry().GetValue()), d.dial...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	directory := controlv1.NewDirectoryServiceClient(conn)
	var found []*controlv1.Worker
	request := &controlv1.ListWorkersRequest{PageSize: 1000}
	for {
		page, err := directory.ListWorkers(ctx, request)
		if err != nil {
			return nil, err
		}
		found = append(found, page.GetWorkers()...)
		request.PageToken = page.GetNextPageToken()
		if request.GetPageToken() == "" {
			return found, nil
		}
	}
}

// checks is the methods of a service, by the contract in force. Those that stream are left out.
func (d *door) checks(
	ctx context.Context, plan Plan, service string, limit int,
) ([]*check, error) {
	contract, err := d.contracts.GetContract(ctx, &plaitv1.GetContractRequest{Service: service})
	if err != nil {
		return nil, fmt.Errorf("get the contract of %s: %w", service, err)
	}
	descriptor, err := serviceOf(contract.GetDescriptorSet(), service)
	if err != nil {
		return nil, fmt.Errorf("read the contract of %s: %w", service, err)
	}
	attached, err := d.settled(ctx, contract.GetMethods())
	if err != nil {
		return nil, fmt.Errorf("list the workers: %w", err)
	}
	var found []*check
	for _, info := range contract.GetMethods() {
		name := strings.TrimPrefix(info.GetMethod(), "/")
		short := protoreflect.Name(name[strings.LastIndex(name, "/")+1:])
		method := descriptor.Methods().ByName(short)
		wanted := len(plan.Methods) == 0 || slices.Contains(plan.Methods, name)
		if !wanted || method == nil || method.IsStreamingClient() || method.IsStreamingServer() {
			continue
		}
		workers := serving(attached, info.GetMethod())
		report := &Report{Method: name, Cases: Cases(method.Input(), limit)}
		one := &check{
			report: report, sender: newSender(d.conn, info, workers, plan.Deadline),
			response: method.Output(), ignore: plan.Ignore, allowUncovered: plan.AllowUncovered,
		}
		for _, each := range workers {
			if plan.chooses(each) {
				one.workers = append(one.workers, each)
				report.Workers = append(report.Workers, each.label)
			}
		}
		found = append(found, one)
	}
	return found, nil
}

func (p Plan) chooses(each worker) bool {
	name, _, _ := strings.Cut(each.label, " ")
	return len(p.Workers) == 0 || slices.Contains(p.Workers, each.id) || slices.Contains(p.Workers, name)
}

// serviceOf is a service of a contract, whose files come without google/protobuf.
func serviceOf(contract []byte, name string) (protoreflect.ServiceDescriptor, error) {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(contract, &set); err != nil {
		return nil, err
	}
	files := &protoregistry.Files{}
	for _, each := range set.GetFile() {
		file, err := protodesc.NewFile(each, both{files})
		if err != nil {
			return nil, err
		}
		if err := files.RegisterFile(file); err != nil {
			return nil, err
		}
	}
	found, err := files.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, err
	}
	service, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, errNothing
	}
	return service, nil
}

// both finds google/protobuf in this program, and everything else in the contract.
type both struct{ *protoregistry.Files }

func (b both) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if strings.HasPrefix(path, "google/protobuf/") {
		return protoregistry.GlobalFiles.FindFileByPath(path)
	}
	return b.Files.FindFileByPath(path)
}

func (b both) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if strings.HasPrefix(string(name), "google.protobuf.") {
		return protoregistry.GlobalFiles.FindDescriptorByName(name)
	}
	return b.Files.FindDescriptorByName(name)
}

// serving is those that serve a method, each with a label of its own.
func serving(attached []*controlv1.Worker, path string) []worker {
	names := map[string]int{}
	var found []worker
	for _, each := range attached {
		if slices.Contains(each.GetMethods(), path) {
			names[each.GetName()]++
			found = append(found, worker{each.GetWorker(), each.GetName(), int(each.GetSlots())})
		}
	}
	for at, each := range found {
		if names[each.label] > 1 {
			found[at].label += " " + each.id
		}
		found[at].slots = max(1, each.slots)
	}
	return found
}
