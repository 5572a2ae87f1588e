package contract

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// overlay puts the policies of a YAML file on the options of the services and their methods, field
// by field: what it says wins over what the descriptors say, and what it does not say stays.
//
//	services:
//	  shop.v1.OrderService:
//	    task_defaults: {queue: orders}
//	    methods:
//	      Charge:
//	        task: {deadline: 1h, retry: {max_attempts: 8}, ordering_key: customer_id}
//
// Names that nobody knows are refused, so that no policy is ignored silently.
func overlay(set *descriptorpb.FileDescriptorSet, names []string, file string, text []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(document.Content) == 0 {
		return fmt.Errorf("%s is empty", file)
	}
	o := &overlaid{set: set, names: names}
	err := entries(place{node: document.Content[0]}, []string{"services"},
		func(_ string, services place) error {
			return entries(services, names, o.service)
		})
	if err != nil {
		return fmt.Errorf("%s:%w", file, err)
	}
	return nil
}

type overlaid struct {
	set   *descriptorpb.FileDescriptorSet
	names []string
}

func (o *overlaid) service(name string, at place) error {
	service := o.find(name)
	if service == nil {
		return at.problem("is in no descriptor")
	}
	return entries(at, []string{"methods", "task_defaults"}, func(key string, at place) error {
		if key == "task_defaults" {
			if service.Options == nil {
				service.Options = &descriptorpb.ServiceOptions{}
			}
			return setPolicy(service.GetOptions(), plaitv1.E_TaskDefaults, at)
		}
		return methods(service, at)
	})
}

func methods(service *descriptorpb.ServiceDescriptorProto, at place) error {
	known := map[string]*descriptorpb.MethodDescriptorProto{}
	var names []string
	for _, method := range service.GetMethod() {
		known[method.GetName()] = method
		names = append(names, method.GetName())
	}
	return entries(at, names, func(name string, at place) error {
		method := known[name]
		if method.GetClientStreaming() || method.GetServerStreaming() {
			return at.problem("is a streaming method, which cannot be a task")
		}
		return entries(at, []string{"task"}, func(_ string, at place) error {
			if method.Options == nil {
				method.Options = &descriptorpb.MethodOptions{}
			}
			return setPolicy(method.GetOptions(), plaitv1.E_Task, at)
		})
	})
}

func (o *overlaid) find(name string) *descriptorpb.ServiceDescriptorProto {
	for _, file := range o.set.GetFile() {
		for _, service := range file.GetService() {
			if qualified(file, service.GetName()) == name {
				return service
			}
		}
	}
	return nil
}

// setPolicy fills the extension of an option.
func setPolicy(options proto.Message, extension protoreflect.ExtensionType, at place) error {
	policy, ok := proto.GetExtension(options, extension).(*plaitv1.TaskPolicy)
	if !ok || !proto.HasExtension(options, extension) {
		policy = &plaitv1.TaskPolicy{}
	}
	if err := fill(policy.ProtoReflect(), at); err != nil {
		return err
	}
	proto.SetExtension(options, extension, policy)
	return nil
}

// place is a value in the file, with the path that leads to it.
type place struct {
	node *yaml.Node
	path string
}

func (p place) problem(text string, arguments ...any) error {
	path := p.path
	if path == "" {
		path = "the file"
	}
	return fmt.Errorf("%d: %s %s", p.node.Line, path, fmt.Sprintf(text, arguments...))
}

// entries calls each with every entry of a mapping, and refuses unknown and repeated keys.
func entries(at place, known []string, each func(key string, at place) error) error {
	if at.node.Kind == yaml.AliasNode {
		at.node = at.node.Alias
	}
	if at.node.Kind != yaml.MappingNode {
		return at.problem("is no mapping; known in it: %s", listed(known))
	}
	seen := map[string]bool{}
	var problems []error
	for i := 0; i+1 < len(at.node.Content); i += 2 {
		key := at.node.Content[i]
		below := place{at.node.Content[i+1], strings.TrimPrefix(at.path+"."+key.Value, ".")}
		spot := place{key, below.path}
		switch {
		case !slices.Contains(known, key.Value):
			problems = append(problems, spot.problem("is not known; known here: %s", listed(known)))
		case seen[key.Value]:
			problems = append(problems, spot.problem("is there twice"))
		default:
			problems = append(problems, each(key.Value, below))
		}
		seen[key.Value] = true
	}
	return errors.Join(problems...)
}

func listed(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}
