package plait

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

func TestFrameCodec_FieldNumbersAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		message proto.Message
		number  protowire.Number
	}{
		"attempts": {&plaitv1.AttachResponse{}, attemptsField},
		"results":  {&plaitv1.SubmitStreamResponse{}, resultsField},
	} {
		fd := c.message.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name))
		if fd == nil || fd.Number() != c.number {
			t.Errorf("%s is not field %d", name, c.number)
		}
	}
	for _, c := range []struct {
		message proto.Message
		number  protowire.Number
	}{
		{&plaitv1.AttemptFrame{}, attemptPayloadsField},
		{&plaitv1.ResultFrame{}, resultPayloadsField},
	} {
		fd := c.message.ProtoReflect().Descriptor().Fields().ByName("payloads")
		if fd == nil || fd.Number() != c.number {
			t.Errorf("payloads is not field %d", c.number)
		}
	}
}

// decodesAsProto tells whether both codecs make the same of the same bytes.
func decodesAsProto(t *rapid.T, raw []byte, empty func() proto.Message) {
	want, got := empty(), empty()
	wantErr := proto.Unmarshal(raw, want)
	// In two pieces, as the transport may hand it over.
	cut := rapid.IntRange(0, len(raw)).Draw(t, "cut")
	data := mem.BufferSlice{mem.SliceBuffer(raw[:cut]), mem.SliceBuffer(raw[cut:])}
	gotErr := streamCodec.Unmarshal(data, got)
	if (wantErr == nil) != (gotErr == nil) {
		t.Fatalf("err = %v, want %v", gotErr, wantErr)
	}
	if wantErr == nil && !proto.Equal(want, got) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
}

func anyFrame(t *rapid.T) (proto.Message, func() proto.Message) {
	payloads := rapid.SliceOf(rapid.SliceOf(rapid.Byte())).Draw(t, "payloads")
	tasks := rapid.SliceOf(rapid.Uint64()).Draw(t, "tasks")
	if rapid.Bool().Draw(t, "attempts") {
		return &plaitv1.AttachResponse{
			Message: &plaitv1.AttachResponse_Attempts{Attempts: &plaitv1.AttemptFrame{
				Sequence: 3, Tasks: tasks, Tokens: tasks, Payloads: payloads, TimeoutMs: tasks,
				Extras: []*plaitv1.AttemptExtra{{Index: 1, IdempotencyKey: "k"}},
			}},
		}, func() proto.Message { return &plaitv1.AttachResponse{} }
	}
	return &plaitv1.SubmitStreamResponse{Message: &plaitv1.SubmitStreamResponse_Results{
		Results: &plaitv1.ResultFrame{
			Tasks: tasks, Payloads: payloads, Failures: []*plaitv1.Failure{{Code: 5, Message: "m"}},
		},
	}}, func() proto.Message { return &plaitv1.SubmitStreamResponse{} }
}

func TestFrameCodec_DecodesWhatProtoDecodes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		message, empty := anyFrame(t)
		raw, err := proto.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		// Fields in another order, repeated, unknown or broken are still what proto makes of them.
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 1:
			raw = append(raw, raw...)
		case 2:
			raw = protowire.AppendVarint(protowire.AppendTag(raw, 900, protowire.VarintType), 7)
		case 3:
			raw = raw[:rapid.IntRange(0, len(raw)).Draw(t, "length")]
		case 4:
			i := rapid.IntRange(0, len(raw)-1).Draw(t, "at")
			raw[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		decodesAsProto(t, raw, empty)
	})
}

func TestFrameCodec_PayloadsAreNotCopiedAndCannotGrowIntoEachOther(t *testing.T) {
	t.Parallel()
	raw, err := proto.Marshal(
		&plaitv1.SubmitStreamResponse{Message: &plaitv1.SubmitStreamResponse_Results{
			Results: &plaitv1.ResultFrame{
				Tasks:    []uint64{1, 2},
				Payloads: [][]byte{[]byte("one"), []byte("two")},
			},
		}},
	)
	if err != nil {
		t.Fatal(err)
	}
	var got plaitv1.SubmitStreamResponse
	if err := streamCodec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, &got); err != nil {
		t.Fatal(err)
	}
	payloads := got.GetResults().GetPayloads()
	_ = append(payloads[0], "!!!!!!"...)
	if !bytes.Equal(payloads[1], []byte("two")) {
		t.Fatalf("payloads = %q", payloads)
	}
	var column [][]byte
	err = unmarshalColumn(raw[2:], resultPayloadsField, &column, &plaitv1.ResultFrame{})
	if err != nil {
		t.Fatal(err)
	}
	if at := bytes.Index(raw, []byte("one")); &column[0][0] != &raw[at] {
		t.Fatal("the payload was copied")
	}
}
