package plait

import (
	"encoding/hex"
	"strconv"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// keyPath says where a key is in a request. The zero value means that the policy names none.
type keyPath struct {
	path    string
	numbers []protoreflect.FieldNumber
	kind    plaitv1.KeyKind
	// fields is the path resolved for the message type seen last; a method has one request type, so
	// it is resolved once.
	fields atomic.Pointer[resolvedPath]
}

type resolvedPath struct {
	message protoreflect.MessageDescriptor
	fields  []protoreflect.FieldDescriptor
}

func newKeyPath(p *plaitv1.KeyPath) *keyPath {
	if len(p.GetNumbers()) == 0 {
		return nil
	}
	k := &keyPath{path: p.GetPath(), kind: p.GetKind()}
	for _, n := range p.GetNumbers() {
		number := min(n, uint32(protowire.MaxValidNumber)) // So that it cannot become another one.
		k.numbers = append(k.numbers, protoreflect.FieldNumber(number))
	}
	return k
}

// text is the key's text in m; empty when there is none. Fields that are not set count as their
// default.
func (k *keyPath) text(m protoreflect.Message) (string, error) {
	resolved := k.fields.Load()
	if resolved == nil || resolved.message != m.Descriptor() {
		var err error
		if resolved, err = k.resolve(m.Descriptor()); err != nil {
			return "", err
		}
		k.fields.Store(resolved)
	}
	last := len(resolved.fields) - 1
	for _, fd := range resolved.fields[:last] {
		m = m.Get(fd).Message()
	}
	fd := resolved.fields[last]
	return keyText(fd.Kind(), m.Get(fd)), nil
}

func (k *keyPath) resolve(md protoreflect.MessageDescriptor) (*resolvedPath, error) {
	resolved := &resolvedPath{message: md}
	for _, n := range k.numbers {
		if md == nil {
			return nil, invalid(k.path, "goes through a field that is no message in this program")
		}
		fd := md.Fields().ByNumber(n)
		if fd == nil || fd.IsList() || fd.IsMap() {
			return nil, invalid(k.path, "is no singular field of "+string(md.FullName()))
		}
		resolved.fields = append(resolved.fields, fd)
		md = fd.Message()
	}
	if md != nil {
		return nil, invalid(k.path, "is a message, not a value, in this program")
	}
	return resolved, nil
}

func keyText(kind protoreflect.Kind, v protoreflect.Value) string {
	switch kind {
	case protoreflect.StringKind:
		return v.String()
	case protoreflect.BytesKind:
		return hex.EncodeToString(v.Bytes())
	case protoreflect.BoolKind:
		return strconv.FormatBool(v.Bool())
	case protoreflect.EnumKind:
		return strconv.FormatInt(int64(v.Enum()), 10)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind,
		protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.FormatUint(v.Uint(), 10)
	case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Sint32Kind,
		protoreflect.Sint64Kind, protoreflect.Sfixed32Kind, protoreflect.Sfixed64Kind:
		return strconv.FormatInt(v.Int(), 10)
	default:
		return ""
	}
}
