package plait

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Payload is a message as its bytes, for a program that passes messages on without knowing their
// types, such as a proxy. Nobody checks or changes the bytes.
//
// A handler's decode function fills a *Payload, and a handler may answer with one; a [Channel] sends
// one as the request and fills one as the response. The methods of such a program are those of a
// grpc.ServiceDesc that it makes itself; [WithDescriptors] says what they are made of.
type Payload []byte

// payloadOf is the message's bytes; it reports false for what is no message.
func payloadOf(message any, marshal proto.MarshalOptions) (payload []byte, ok bool, err error) {
	switch m := message.(type) {
	case *Payload:
		return *m, true, nil
	case proto.Message:
		payload, err = marshal.Marshal(m)
		return payload, true, err
	default:
		return nil, false, nil
	}
}

// setPayload fills a message from its bytes. The caller gives the bytes away.
func setPayload(message any, payload []byte) error {
	switch m := message.(type) {
	case *Payload:
		*m = payload
		return nil
	case proto.Message:
		return proto.Unmarshal(payload, m)
	default:
		return fmt.Errorf("a %T is not a protobuf message", message)
	}
}

// checkMessage refuses what is neither a protobuf message nor a payload. The role is "request" or
// "response".
func checkMessage(role string, message any) error {
	switch message.(type) {
	case *Payload, proto.Message:
		return nil
	default:
		return status.Errorf(codes.Internal, "the %s is a %T, not a protobuf message", role, message)
	}
}
