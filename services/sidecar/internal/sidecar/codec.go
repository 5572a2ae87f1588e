package sidecar

import (
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"plait.dev/plait"
	"plait.dev/sidecar/internal/forward"
)

// codec is that of the front's server: payloads as they are, and the messages of its own health
// service as gRPC has them.
type codec struct{ forward.Codec }

// Marshal is part of encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if _, ok := v.(*plait.Payload); ok {
		return c.Codec.Marshal(v)
	}
	return encoding.GetCodecV2(protocodec.Name).Marshal(v)
}

// Unmarshal is part of encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if _, ok := v.(*plait.Payload); ok {
		return c.Codec.Unmarshal(data, v)
	}
	return encoding.GetCodecV2(protocodec.Name).Unmarshal(data, v)
}
