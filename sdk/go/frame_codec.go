package plait

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// frameCodec is gRPC's protobuf codec, except that the payloads of received frames are slices of
// the one buffer that the frame came in: of 256 payloads none is copied. What is kept of a frame
// keeps all of it, so whoever keeps a payload for long copies it.
type frameCodec struct{ encoding.CodecV2 }

var streamCodec = frameCodec{encoding.GetCodecV2(protocodec.Name)}

// Numbers of fields in the contract; a test compares them with its descriptors.
const (
	attemptsField        = 2 // AttachResponse.attempts
	attemptPayloadsField = 5 // AttemptFrame.payloads
	resultsField         = 3 // SubmitStreamResponse.results
	resultPayloadsField  = 2 // ResultFrame.payloads
)

// Unmarshal is part of encoding.CodecV2.
func (frameCodec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("unmarshal a %T: it is no protobuf message", v)
	}
	raw := data.Materialize()
	switch m := message.(type) {
	case *plaitv1.AttachResponse:
		if body, ok := onlyField(raw, attemptsField); ok {
			f := &plaitv1.AttemptFrame{}
			m.Message = &plaitv1.AttachResponse_Attempts{Attempts: f}
			return unmarshalColumn(body, attemptPayloadsField, &f.Payloads, f)
		}
	case *plaitv1.SubmitStreamResponse:
		if body, ok := onlyField(raw, resultsField); ok {
			f := &plaitv1.ResultFrame{}
			m.Message = &plaitv1.SubmitStreamResponse_Results{Results: f}
			return unmarshalColumn(body, resultPayloadsField, &f.Payloads, f)
		}
	}
	return proto.Unmarshal(raw, message)
}

// onlyField is the content of an embedded message, when the bytes hold this field once and nothing
// else.
func onlyField(raw []byte, number protowire.Number) ([]byte, bool) {
	got, kind, n := protowire.ConsumeTag(raw)
	if n < 0 || got != number || kind != protowire.BytesType {
		return nil, false
	}
	body, m := protowire.ConsumeBytes(raw[n:])
	return body, m == len(raw)-n
}

// unmarshalColumn fills a message, and one repeated bytes field of it with slices of raw.
func unmarshalColumn(
	raw []byte, number protowire.Number, column *[][]byte, message proto.Message,
) error {
	values := make([][]byte, 0, frameTasksMax)
	merge := proto.UnmarshalOptions{Merge: true}
	// What lies between the values of the column is unmarshalled as it is. Columns are written one
	// after the other, so these are two pieces.
	from, at := 0, 0
	for at < len(raw) {
		got, kind, n := protowire.ConsumeTag(raw[at:])
		if n < 0 {
			return protowire.ParseError(n)
		}
		m := protowire.ConsumeFieldValue(got, kind, raw[at+n:])
		if m < 0 {
			return protowire.ParseError(m)
		}
		if got == number && kind == protowire.BytesType {
			if from < at {
				if err := merge.Unmarshal(raw[from:at], message); err != nil {
					return err
				}
			}
			value, _ := protowire.ConsumeBytes(raw[at+n:])
			values = append(values, value[:len(value):len(value)])
			from = at + n + m
		}
		at += n + m
	}
	if from < at {
		if err := merge.Unmarshal(raw[from:at], message); err != nil {
			return err
		}
	}
	*column = values
	return nil
}
