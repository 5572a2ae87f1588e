package contract

import (
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

const durationName = "google.protobuf.Duration"

// fill sets the fields of a message that a mapping names. Messages are filled field by field; lists
// and durations are replaced.
func fill(message protoreflect.Message, at place) error {
	fields := message.Descriptor().Fields()
	var names []string
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Name()))
	}
	return entries(at, names, func(name string, at place) error {
		if at.node.Kind == yaml.AliasNode {
			at.node = at.node.Alias
		}
		field := fields.ByName(protoreflect.Name(name))
		switch {
		case field.IsList():
			return fillList(message, field, at)
		case field.Message() == nil:
			value, err := scalar(field, at)
			if err == nil {
				message.Set(field, value)
			}
			return err
		case field.Message().FullName() == durationName:
			return setDuration(message, field, at)
		default:
			return fill(message.Mutable(field).Message(), at)
		}
	})
}

func fillList(message protoreflect.Message, field protoreflect.FieldDescriptor, at place) error {
	if at.node.Kind != yaml.SequenceNode {
		return at.problem("is no list")
	}
	list := message.NewField(field).List()
	for _, node := range at.node.Content {
		value, err := scalar(field, place{node, at.path})
		if err != nil {
			return err
		}
		list.Append(value)
	}
	message.Set(field, protoreflect.ValueOfList(list))
	return nil
}

// setDuration takes "250ms", "10s", "5m", "1h30m", or {seconds: 10, nanos: 0} as in a .proto file.
func setDuration(message protoreflect.Message, field protoreflect.FieldDescriptor, at place) error {
	if at.node.Kind == yaml.MappingNode {
		duration := &durationpb.Duration{}
		if err := fill(duration.ProtoReflect(), at); err != nil {
			return err
		}
		message.Set(field, protoreflect.ValueOfMessage(duration.ProtoReflect()))
		return nil
	}
	span, err := time.ParseDuration(at.node.Value)
	if at.node.Kind != yaml.ScalarNode || err != nil {
		return at.problem("is no duration such as 250ms, 10s, 5m or 1h")
	}
	message.Set(field, protoreflect.ValueOfMessage(durationpb.New(span).ProtoReflect()))
	return nil
}

// scalar is one value of a field.
func scalar(field protoreflect.FieldDescriptor, at place) (protoreflect.Value, error) {
	var none protoreflect.Value
	text := at.node.Value
	if at.node.Kind != yaml.ScalarNode || at.node.Tag == "!!null" {
		return none, at.problem("is no value of kind %s", field.Kind())
	}
	switch field.Kind() {
	case protoreflect.StringKind:
		if at.node.Tag != "!!str" {
			return none, at.problem("is %s, which is no text; put it in quotes", text)
		}
		return protoreflect.ValueOfString(text), nil
	case protoreflect.BoolKind:
		if truth, err := strconv.ParseBool(text); err == nil && at.node.Tag == "!!bool" {
			return protoreflect.ValueOfBool(truth), nil
		}
	case protoreflect.Int32Kind:
		if number, err := strconv.ParseInt(text, 10, 32); err == nil {
			return protoreflect.ValueOfInt32(int32(number)), nil
		}
	case protoreflect.Int64Kind:
		if number, err := strconv.ParseInt(text, 10, 64); err == nil {
			return protoreflect.ValueOfInt64(number), nil
		}
	case protoreflect.DoubleKind:
		if number, err := strconv.ParseFloat(text, 64); err == nil {
			return protoreflect.ValueOfFloat64(number), nil
		}
	case protoreflect.EnumKind:
		return enum(field.Enum(), at)
	default:
		return none, at.problem("is of kind %s, which this version cannot read", field.Kind())
	}
	return none, at.problem("is %q, not a value of kind %s", text, field.Kind())
}

func enum(of protoreflect.EnumDescriptor, at place) (protoreflect.Value, error) {
	if value := of.Values().ByName(protoreflect.Name(at.node.Value)); value != nil {
		return protoreflect.ValueOfEnum(value.Number()), nil
	}
	var names []string
	for i := range of.Values().Len() {
		names = append(names, string(of.Values().Get(i).Name()))
	}
	return protoreflect.Value{}, at.problem("is %q; known here: %s", at.node.Value,
		strings.Join(names, ", "))
}
