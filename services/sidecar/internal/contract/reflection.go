package contract

import (
	"context"
	"fmt"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// reflectionMethods are asked in turn. The messages of both versions are the same on the wire.
var reflectionMethods = []string{
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

// retryPause is between two questions to a server that went away in the middle of one.
const retryPause = 200 * time.Millisecond

// reflected asks the server for the descriptors of the named services, or of all but grpc.*, whose
// names it fills in. It waits until the server is there.
func reflected(
	ctx context.Context, server grpc.ClientConnInterface, names *[]string,
) (*descriptorpb.FileDescriptorSet, error) {
	wanted := *names
	var err error
	for version := 0; version < len(reflectionMethods); {
		var set *descriptorpb.FileDescriptorSet
		if set, err = ask(ctx, server, reflectionMethods[version], wanted, names); err == nil {
			return set, nil
		}
		switch status.Code(err) {
		case codes.Unimplemented:
			version++
		case codes.Unavailable:
			if err := pause(ctx); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("ask the server for its descriptors: %w", err)
		}
	}
	return nil, fmt.Errorf("the server has no reflection; give its descriptors by --descriptors: %w", err)
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(retryPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// conversation is one reflection stream, with the files that it brought.
type conversation struct {
	stream grpc.ClientStream
	have   map[string]bool
	set    *descriptorpb.FileDescriptorSet
}

func ask(
	ctx context.Context, server grpc.ClientConnInterface, method string, wanted []string,
	names *[]string,
) (*descriptorpb.FileDescriptorSet, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	both := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := server.NewStream(ctx, both, method, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	c := &conversation{stream, map[string]bool{}, &descriptorpb.FileDescriptorSet{}}
	if len(wanted) == 0 {
		if wanted, err = c.services(); err != nil {
			return nil, err
		}
	}
	for _, name := range wanted {
		if err := c.symbol(name); err != nil {
			return nil, fmt.Errorf("descriptors of %s: %w", name, err)
		}
	}
	*names = wanted
	return c.set, nil
}

func (c *conversation) exchange(
	question *pb.ServerReflectionRequest,
) (*pb.ServerReflectionResponse, error) {
	// An error of SendMsg is only io.EOF; RecvMsg has the reason.
	_ = c.stream.SendMsg(question)
	answer := &pb.ServerReflectionResponse{}
	if err := c.stream.RecvMsg(answer); err != nil {
		return nil, err
	}
	if refused := answer.GetErrorResponse(); refused != nil {
		return nil, status.ErrorProto(&spb.Status{
			Code: refused.GetErrorCode(), Message: refused.GetErrorMessage(),
		})
	}
	return answer, nil
}

// services lists all but gRPC's own.
func (c *conversation) services() ([]string, error) {
	answer, err := c.exchange(&pb.ServerReflectionRequest{
		MessageRequest: &pb.ServerReflectionRequest_ListServices{},
	})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		if !strings.HasPrefix(service.GetName(), infrastructure) {
			names = append(names, service.GetName())
		}
	}
	return names, nil
}

func (c *conversation) symbol(name string) error {
	return c.files(&pb.ServerReflectionRequest{
		MessageRequest: &pb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name},
	})
}

// files takes the files of an answer, and asks for the imports that did not come with them.
func (c *conversation) files(question *pb.ServerReflectionRequest) error {
	answer, err := c.exchange(question)
	if err != nil {
		return err
	}
	var imports []string
	for _, raw := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, file); err != nil {
			return fmt.Errorf("the server's descriptor is broken: %w", err)
		}
		if !c.have[file.GetName()] {
			c.have[file.GetName()] = true
			c.set.File = append(c.set.File, file)
			imports = append(imports, file.GetDependency()...)
		}
	}
	for _, path := range imports {
		if c.have[path] || strings.HasPrefix(path, wellKnown) {
			continue
		}
		if err := c.files(&pb.ServerReflectionRequest{
			MessageRequest: &pb.ServerReflectionRequest_FileByFilename{FileByFilename: path},
		}); err != nil {
			return fmt.Errorf("import %s: %w", path, err)
		}
	}
	return nil
}
