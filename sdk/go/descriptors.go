package plait

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// wellKnown is the path prefix of files that every language has and that are left out of a
// contract.
const wellKnown = "google/protobuf/"

// Descriptors finds a descriptor by its full name; *protoregistry.Files is one.
type Descriptors interface {
	FindDescriptorByName(protoreflect.FullName) (protoreflect.Descriptor, error)
}

// serviceDescriptor finds a service.
func serviceDescriptor(known Descriptors, service string) (protoreflect.ServiceDescriptor, error) {
	d, err := known.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, fmt.Errorf("find the descriptor of %s: %w", service, err)
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("find the descriptor of %s: it is no service", service)
	}
	return sd, nil
}

// descriptorSet is the serialized FileDescriptorSet of a service's file and its imports, in
// dependency order. The same program always makes the same bytes, so that the broker knows the
// contract by its digest.
func descriptorSet(sd protoreflect.ServiceDescriptor) ([]byte, error) {
	set := &descriptorpb.FileDescriptorSet{}
	addFile(set, sd.ParentFile(), map[string]bool{})
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("marshal the descriptors of %s: %w", sd.FullName(), err)
	}
	return raw, nil
}

func addFile(
	set *descriptorpb.FileDescriptorSet, file protoreflect.FileDescriptor, seen map[string]bool,
) {
	if seen[file.Path()] || strings.HasPrefix(file.Path(), wellKnown) {
		return
	}
	seen[file.Path()] = true
	for i := range file.Imports().Len() {
		addFile(set, file.Imports().Get(i).FileDescriptor, seen)
	}
	set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
}

// splitMethod takes "/package.Service/Method" apart.
func splitMethod(method string) (service, name string, ok bool) {
	rest, found := strings.CutPrefix(method, "/")
	service, name, cut := strings.Cut(rest, "/")
	return service, name, found && cut && service != "" && name != ""
}
