// Package contract knows what a server serves: its descriptors, by reflection or from a file, with
// the policies of an overlay put on them. It does not judge policies; the scheduler does.
package contract

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	// Files that every language has, and that descriptor sets may leave out.
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/apipb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/fieldmaskpb"
	_ "google.golang.org/protobuf/types/known/sourcecontextpb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	_ "google.golang.org/protobuf/types/known/typepb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// wellKnown is the path prefix of the files above.
	wellKnown = "google/protobuf/"
	// infrastructure is the prefix of services that are gRPC's own: health, reflection, channelz.
	infrastructure = "grpc."
)

// Source says where a contract comes from.
type Source struct {
	// A serialized FileDescriptorSet; "": server reflection.
	Descriptors string
	// A YAML overlay; "": none.
	Policies string
	// Full names of the services wanted; none: all but grpc.*.
	Services []string
}

// Contract is what a server serves.
type Contract struct {
	// The services that have unary methods, by name.
	Services []Service
	// Streaming methods, as "package.Service/Method": they cannot be tasks.
	LeftOut []string

	files *protoregistry.Files
}

// Service is one service.
type Service struct {
	// Its full name.
	Name string
	// The names of its unary methods.
	Methods []string
}

// Load reads a contract. It waits for the server where it asks it.
func Load(ctx context.Context, server grpc.ClientConnInterface, source Source) (*Contract, error) {
	names := source.Services
	set, err := read(ctx, server, source, &names)
	if err != nil {
		return nil, err
	}
	if source.Policies != "" {
		text, err := os.ReadFile(source.Policies)
		if err != nil {
			return nil, fmt.Errorf("read the policies: %w", err)
		}
		if err := overlay(set, names, source.Policies, text); err != nil {
			return nil, err
		}
	}
	return build(set, names)
}

// read gives the descriptors, and the names of the services where none are wanted by name.
func read(
	ctx context.Context, server grpc.ClientConnInterface, source Source, names *[]string,
) (*descriptorpb.FileDescriptorSet, error) {
	if source.Descriptors == "" {
		return reflected(ctx, server, names)
	}
	raw, err := os.ReadFile(source.Descriptors)
	if err != nil {
		return nil, fmt.Errorf("read the descriptors: %w", err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(raw, set); err != nil || len(set.GetFile()) == 0 {
		return nil, fmt.Errorf("%s is no serialized FileDescriptorSet", source.Descriptors)
	}
	if len(*names) == 0 {
		*names = declared(set)
	}
	return set, nil
}

// declared are the services of a descriptor set.
func declared(set *descriptorpb.FileDescriptorSet) []string {
	var names []string
	for _, file := range set.GetFile() {
		for _, service := range file.GetService() {
			name := qualified(file, service.GetName())
			if !strings.HasPrefix(name, infrastructure) {
				names = append(names, name)
			}
		}
	}
	return names
}

func qualified(file *descriptorpb.FileDescriptorProto, name string) string {
	if file.GetPackage() == "" {
		return name
	}
	return file.GetPackage() + "." + name
}

// build links the descriptors and looks up the services.
func build(set *descriptorpb.FileDescriptorSet, names []string) (*Contract, error) {
	files, err := protodesc.NewFiles(complete(set))
	if err != nil {
		return nil, fmt.Errorf("link the descriptors (a file needs its imports, too): %w", err)
	}
	c := &Contract{files: files}
	names = slices.Clone(names)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		found, err := files.FindDescriptorByName(protoreflect.FullName(name))
		service, ok := found.(protoreflect.ServiceDescriptor)
		if err != nil || !ok {
			return nil, fmt.Errorf("the descriptors declare no service %s; they declare %s",
				name, strings.Join(declared(set), ", "))
		}
		c.add(service)
	}
	if len(c.Services) == 0 {
		return nil, errors.New("there is no unary method to serve")
	}
	return c, nil
}

func (c *Contract) add(service protoreflect.ServiceDescriptor) {
	known := Service{Name: string(service.FullName())}
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		if method.IsStreamingClient() || method.IsStreamingServer() {
			c.LeftOut = append(c.LeftOut, known.Name+"/"+string(method.Name()))
			continue
		}
		known.Methods = append(known.Methods, string(method.Name()))
	}
	if len(known.Methods) > 0 {
		c.Services = append(c.Services, known)
	}
}

// complete adds the well-known files that are imported and left out.
func complete(set *descriptorpb.FileDescriptorSet) *descriptorpb.FileDescriptorSet {
	have := map[string]bool{}
	for _, file := range set.GetFile() {
		have[file.GetName()] = true
	}
	all := slices.Clone(set.GetFile())
	for i := 0; i < len(all); i++ {
		for _, path := range all[i].GetDependency() {
			if have[path] || !strings.HasPrefix(path, wellKnown) {
				continue
			}
			if found, err := protoregistry.GlobalFiles.FindFileByPath(path); err == nil {
				have[path] = true
				all = append(all, protodesc.ToFileDescriptorProto(found))
			}
		}
	}
	return &descriptorpb.FileDescriptorSet{File: all}
}

// FindDescriptorByName makes a contract what plait.WithDescriptors takes.
func (c *Contract) FindDescriptorByName(
	name protoreflect.FullName,
) (protoreflect.Descriptor, error) {
	return c.files.FindDescriptorByName(name)
}

// Names are the services' names.
func (c *Contract) Names() []string {
	names := make([]string, len(c.Services))
	for i, service := range c.Services {
		names[i] = service.Name
	}
	return names
}
