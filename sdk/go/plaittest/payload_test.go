package plaittest_test

import (
	"bytes"
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"plait.dev/plait"
	plaitv1 "plait.dev/plait/gen/plait/v1"
)

const passPath = "/raw.v1.RawService/Pass"

// rawFiles are descriptors that no generated code of this program knows.
func rawFiles(t *testing.T) *protoregistry.Files {
	t.Helper()
	options := &descriptorpb.MethodOptions{}
	proto.SetExtension(options, plaitv1.E_Task, &plaitv1.TaskPolicy{
		IdempotencyKey: proto.String("id"),
		Retry:          &plaitv1.RetryPolicy{MaxAttempts: proto.Int32(1)},
	})
	files, err := protodesc.NewFiles(&descriptorpb.FileDescriptorSet{
		File: []*descriptorpb.FileDescriptorProto{{
			Name: proto.String("raw/v1/raw.proto"), Package: proto.String("raw.v1"),
			Syntax: proto.String("proto3"),
			MessageType: []*descriptorpb.DescriptorProto{{
				Name: proto.String("Message"),
				Field: []*descriptorpb.FieldDescriptorProto{{
					Name: proto.String("id"), Number: proto.Int32(1),
					Type:  descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
					Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
				}},
			}},
			Service: []*descriptorpb.ServiceDescriptorProto{{
				Name: proto.String("RawService"),
				Method: []*descriptorpb.MethodDescriptorProto{{
					Name: proto.String("Pass"), InputType: proto.String(".raw.v1.Message"),
					OutputType: proto.String(".raw.v1.Message"), Options: options,
				}},
			}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// passService answers with what it got, upside down, so that an answer need not be a message.
var passService = grpc.ServiceDesc{
	ServiceName: "raw.v1.RawService",
	Methods: []grpc.MethodDesc{{
		MethodName: "Pass",
		Handler: func(
			_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor,
		) (any, error) {
			var payload plait.Payload
			if err := decode(&payload); err != nil {
				return nil, err
			}
			if bytes.Contains(payload, []byte("fail")) {
				// Its details are no google.rpc.Status, and travel all the same.
				_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-status-details-bin", "\xff\x00"))
				return nil, status.Error(codes.NotFound, "as told")
			}
			answer := bytes.Clone(payload)
			for i, b := range payload {
				answer[len(answer)-1-i] = b
			}
			return (*plait.Payload)(&answer), nil
		},
	}},
}

func TestPayload_BytesAndKeysGoThroughUnchanged(t *testing.T) {
	t.Parallel()
	needMesh(t)
	client := shared.Connect(t, plait.WithDescriptors(rawFiles(t)))
	worker := client.Worker(plait.WithoutSignals())
	worker.RegisterService(&passService, nil)
	shared.Work(t, worker)
	// A field that nobody knows, with a tag and a value that no library would write.
	request := plait.Payload("\x0a\x03one\xf8\x86\x80\x00\x81\x80\x00")
	want := plait.Payload("\x00\x80\x81\x00\x80\x86\xf8eno\x03\x0a")
	var tasks []string
	for range 2 {
		var answer plait.Payload
		var header metadata.MD
		err := client.Channel().Invoke(t.Context(), passPath, &request, &answer, grpc.Header(&header))
		if err != nil || !bytes.Equal(answer, want) {
			t.Fatalf("%q, %v; want %q", answer, err, want)
		}
		tasks = append(tasks, header.Get("plait-task-id")...)
	}
	if len(tasks) != 2 || tasks[0] != tasks[1] {
		t.Fatalf("one key, and tasks %v", tasks)
	}
	failing := plait.Payload("\x0a\x04fail")
	var trailer metadata.MD
	err := client.Channel().Invoke(t.Context(), passPath, &failing, &plait.Payload{}, grpc.Trailer(&trailer))
	details := trailer.Get("grpc-status-details-bin")
	if status.Code(err) != codes.NotFound || len(details) != 1 || details[0] != "\xff\x00" {
		t.Fatalf("%v with %q", err, details)
	}
	broken := plait.Payload("\x0a\xff")
	err = client.Channel().Invoke(t.Context(), passPath, &broken, &plait.Payload{})
	if plait.Reason(err) != plaitv1.ErrorReason_ERROR_REASON_INVALID_REQUEST {
		t.Fatal(err)
	}
}

func TestPayload_OtherTypesAreRefused(t *testing.T) {
	t.Parallel()
	needMesh(t)
	client := shared.Connect(t, plait.WithDescriptors(rawFiles(t)))
	payload := plait.Payload("\x0a\x04type")
	for _, messages := range [][2]any{{"text", &payload}, {&payload, "text"}, {payload, &payload}} {
		err := client.Channel().Invoke(t.Context(), passPath, messages[0], messages[1])
		if status.Code(err) != codes.Internal {
			t.Errorf("%T to %T: %v", messages[0], messages[1], err)
		}
	}
}
