package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protodelim"

	"plait.dev/plait"
	conformancev1 "plait.dev/plait/gen/plait/conformance/v1"
	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// driver does what the conformance runner asks, each request in a goroutine of its own, so that answers come as they
// are ready.
type driver struct {
	methods map[string]method
	group   sync.WaitGroup

	mu      sync.Mutex
	out     io.Writer
	tasks   map[uint64]task
	running map[uint64]context.CancelFunc
}

// drive answers requests on standard output until the end of standard input.
func drive(ctx context.Context) error {
	mesh, err := plait.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = mesh.Close() }()

	made := &driver{
		methods: methodsOf(testingv1.NewEchoServiceClient(mesh.Channel())),
		out:     os.Stdout,
		tasks:   map[uint64]task{},
		running: map[uint64]context.CancelFunc{},
	}
	defer made.group.Wait()
	requests := bufio.NewReader(os.Stdin)
	options := protodelim.UnmarshalOptions{MaxSize: -1}
	for {
		request := &conformancev1.ClientRequest{}
		if err := options.UnmarshalFrom(requests, request); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		made.take(ctx, request)
	}
}

func (d *driver) take(ctx context.Context, request *conformancev1.ClientRequest) {
	ctx, cancel := context.WithCancel(ctx)
	d.mu.Lock()
	d.running[request.GetId()] = cancel
	d.mu.Unlock()
	d.group.Go(func() {
		defer cancel()
		answer := &conformancev1.ClientResponse{Id: request.GetId()}
		if err := d.do(ctx, request, answer); err != nil {
			fillError(answer, err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, request.GetId())
		if _, err := protodelim.MarshalTo(d.out, answer); err != nil {
			fmt.Fprintln(os.Stderr, "echo-worker-go:", err)
			os.Exit(1)
		}
	})
}

func (d *driver) do(
	ctx context.Context, request *conformancev1.ClientRequest, answer *conformancev1.ClientResponse,
) error {
	switch action := request.GetAction().(type) {
	case *conformancev1.ClientRequest_Call:
		return d.call(ctx, action.Call, answer)
	case *conformancev1.ClientRequest_Submit:
		return d.submit(ctx, request.GetId(), action.Submit, answer)
	case *conformancev1.ClientRequest_CallMany:
		bulk := action.CallMany
		return d.methods[bulk.GetMethod()].callMany(ctx, bulk.GetRequests(), answer)
	case *conformancev1.ClientRequest_SubmitMany:
		bulk := action.SubmitMany
		return d.methods[bulk.GetMethod()].submitMany(ctx, bulk.GetRequests(), answer)
	case *conformancev1.ClientRequest_Result:
		response, err := d.task(action.Result).result(ctx)
		return add(answer, response, err)
	case *conformancev1.ClientRequest_State:
		return see(answer)(d.task(action.State).State(ctx))
	case *conformancev1.ClientRequest_Cancel:
		return see(answer)(d.task(action.Cancel).Cancel(ctx))
	case *conformancev1.ClientRequest_Watch:
		for seen, err := range d.task(action.Watch).Watch(ctx) {
			if err := see(answer)(seen.GetState(), err); err != nil {
				return err
			}
		}
		return nil
	case *conformancev1.ClientRequest_Abandon:
		d.mu.Lock()
		defer d.mu.Unlock()
		if giveUp := d.running[action.Abandon.GetId()]; giveUp != nil {
			giveUp()
		}
		return nil
	}
	return status.Error(codes.Unimplemented, "the driver does not know the action")
}

func (d *driver) call(
	ctx context.Context, said *conformancev1.Submission, answer *conformancev1.ClientResponse,
) error {
	ctx, cancel := calling(ctx, said.GetOptions())
	defer cancel()
	response, err := d.methods[said.GetMethod()].call(ctx, said.GetRequest(), options(said.GetOptions())...)
	return add(answer, response, err)
}

func (d *driver) submit(
	ctx context.Context, id uint64, said *conformancev1.Submission, answer *conformancev1.ClientResponse,
) error {
	ctx, cancel := calling(ctx, said.GetOptions())
	defer cancel()
	made, err := d.methods[said.GetMethod()].submit(ctx, said.GetRequest(), options(said.GetOptions())...)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.tasks[id] = made
	d.mu.Unlock()
	answer.Tasks = append(answer.Tasks, made.ID())
	return nil
}

func (d *driver) task(handle *conformancev1.Handle) task {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tasks[handle.GetId()]
}

// calling is the context of a call: its metadata, and its timeout.
func calling(ctx context.Context, said *conformancev1.CallOptions) (context.Context, context.CancelFunc) {
	for key, value := range said.GetMetadata() {
		ctx = metadata.AppendToOutgoingContext(ctx, key, value)
	}
	if timeout := said.GetTimeout(); timeout != nil {
		return context.WithTimeout(ctx, timeout.AsDuration())
	}
	return context.WithCancel(ctx)
}

// options is what is said, in the SDK's words.
func options(said *conformancev1.CallOptions) []grpc.CallOption {
	var options []grpc.CallOption
	if said != nil && said.Key != nil {
		options = append(options, plait.WithKey(said.GetKey()))
	}
	if said != nil && said.OrderingKey != nil {
		options = append(options, plait.WithOrderingKey(said.GetOrderingKey()))
	}
	if said != nil && said.Priority != nil {
		options = append(options, plait.WithPriority(said.GetPriority()))
	}
	if delay := said.GetDelay(); delay != nil {
		options = append(options, plait.WithDelay(delay.AsDuration()))
	}
	if deadline := said.GetDeadline(); deadline != nil {
		options = append(options, plait.WithDeadline(deadline.AsDuration()))
	}
	return options
}

func add(answer *conformancev1.ClientResponse, response []byte, err error) error {
	if err == nil {
		answer.Responses = append(answer.Responses, response)
	}
	return err
}

func see(answer *conformancev1.ClientResponse) func(plaitv1.TaskState, error) error {
	return func(state plaitv1.TaskState, err error) error {
		if err == nil {
			answer.States = append(answer.States, state)
		}
		return err
	}
}

// fillError writes an error as a caller sees it.
func fillError(answer *conformancev1.ClientResponse, err error) {
	failed, ok := status.FromError(err)
	if !ok {
		failed = status.FromContextError(err)
	}
	answer.Error = failed.Proto()
	if reason := plait.Reason(err); reason != plaitv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		answer.Reason = strings.TrimPrefix(reason.String(), "ERROR_REASON_")
	}
	answer.Trailers = map[string]string{}
	for key, values := range plait.Trailer(err) {
		if strings.HasPrefix(key, "x-") {
			answer.Trailers[key] = values[0]
		}
	}
}
