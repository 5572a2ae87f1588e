// Package forward carries calls between the mesh and plain gRPC, bytes untouched.
package forward

import (
	"fmt"

	"google.golang.org/grpc/mem"

	"plait.dev/plait"
)

// Codec passes payloads on as they are. Its name is that of gRPC's own, so that the other side sees
// an ordinary call.
type Codec struct{}

// Name is part of encoding.CodecV2.
func (Codec) Name() string { return "proto" }

// Marshal is part of encoding.CodecV2.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	payload, ok := v.(*plait.Payload)
	if !ok {
		return nil, fmt.Errorf("marshal a %T: it is no payload", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*payload)}, nil
}

// Unmarshal is part of encoding.CodecV2.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	payload, ok := v.(*plait.Payload)
	if !ok {
		return fmt.Errorf("unmarshal a %T: it is no payload", v)
	}
	*payload = data.Materialize()
	return nil
}
