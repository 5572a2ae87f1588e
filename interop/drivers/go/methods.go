package main

import (
	"context"
	"fmt"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"plait.dev/plait"
	conformancev1 "plait.dev/plait/gen/plait/conformance/v1"
	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// method is one of the service's, in bytes.
type method interface {
	call(ctx context.Context, request []byte, options ...grpc.CallOption) ([]byte, error)
	submit(ctx context.Context, request []byte, options ...grpc.CallOption) (task, error)
	callMany(ctx context.Context, requests [][]byte, answer *conformancev1.ClientResponse) error
	submitMany(ctx context.Context, requests [][]byte, answer *conformancev1.ClientResponse) error
}

// task is a handle, in bytes.
type task interface {
	ID() string
	State(ctx context.Context) (plaitv1.TaskState, error)
	Cancel(ctx context.Context) (plaitv1.TaskState, error)
	Watch(ctx context.Context) iter.Seq2[*plaitv1.Task, error]
	result(ctx context.Context) ([]byte, error)
}

func methodsOf(client testingv1.EchoServiceClient) map[string]method {
	return map[string]method{
		"Echo":    typed(client.Echo),
		"Fail":    typed(client.Fail),
		"Sleep":   typed(client.Sleep),
		"Flow":    typed(client.Flow),
		"Append":  typed(client.Append),
		"Once":    typed(client.Once),
		"Inspect": typed(client.Inspect),
		"Scalars": typed(client.Scalars),
	}
}

type typedMethod[Q, R any] struct{ invoke plait.Method[Q, R] }

func typed[Q, R any](invoke plait.Method[Q, R]) method { return typedMethod[Q, R]{invoke} }

func (m typedMethod[Q, R]) call(
	ctx context.Context, request []byte, options ...grpc.CallOption,
) ([]byte, error) {
	message, err := decoded[Q](request)
	if err != nil {
		return nil, err
	}
	response, err := m.invoke(ctx, message, options...)
	if err != nil {
		return nil, err
	}
	return encoded(response)
}

func (m typedMethod[Q, R]) submit(
	ctx context.Context, request []byte, options ...grpc.CallOption,
) (task, error) {
	message, err := decoded[Q](request)
	if err != nil {
		return nil, err
	}
	made, err := plait.Submit(ctx, m.invoke, message, options...)
	if err != nil {
		return nil, err
	}
	return typedTask[R]{made}, nil
}

func (m typedMethod[Q, R]) callMany(
	ctx context.Context, requests [][]byte, answer *conformancev1.ClientResponse,
) error {
	messages, err := decodedAll[Q](requests)
	if err != nil {
		return err
	}
	for response, err := range plait.CallMany(ctx, m.invoke, messages) {
		if err != nil {
			return err
		}
		data, err := encoded(response)
		if err := add(answer, data, err); err != nil {
			return err
		}
	}
	return nil
}

func (m typedMethod[Q, R]) submitMany(
	ctx context.Context, requests [][]byte, answer *conformancev1.ClientResponse,
) error {
	messages, err := decodedAll[Q](requests)
	if err != nil {
		return err
	}
	for made, err := range plait.SubmitMany(ctx, m.invoke, messages) {
		if err != nil {
			return err
		}
		answer.Tasks = append(answer.Tasks, made.ID())
	}
	return nil
}

type typedTask[R any] struct{ *plait.Task[R] }

func (t typedTask[R]) result(ctx context.Context) ([]byte, error) {
	response, err := t.Result(ctx)
	if err != nil {
		return nil, err
	}
	return encoded(response)
}

func decoded[Q any](data []byte) (*Q, error) {
	request := new(Q)
	message, ok := any(request).(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", request)
	}
	return request, proto.Unmarshal(data, message)
}

func decodedAll[Q any](requests [][]byte) (iter.Seq[*Q], error) {
	messages := make([]*Q, 0, len(requests))
	for _, request := range requests {
		message, err := decoded[Q](request)
		if err != nil {
			return nil, err
		}
		messages = append(messages, message)
	}
	return func(yield func(*Q) bool) {
		for _, message := range messages {
			if !yield(message) {
				return
			}
		}
	}, nil
}

func encoded(response any) ([]byte, error) {
	message, ok := response.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", response)
	}
	return proto.Marshal(message)
}
