package forward

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"plait.dev/plait"
	"plait.dev/sidecar/internal/contract"
	"plait.dev/sidecar/internal/gate"
)

const (
	path = "/a.v1.A/Do"
	// garbage is no message of any type.
	garbage = "\xff\x00\x80garbage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reach serves by a handler of raw calls and makes a connection to it.
func reach(t *testing.T, handler grpc.StreamHandler) *grpc.ClientConn {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(Codec{}), grpc.UnknownServiceHandler(handler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	conn, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-done
	})
	return conn
}

// attempts is a registrar that calls what is registered with it.
type attempts map[string]grpc.MethodHandler

func (a attempts) RegisterService(desc *grpc.ServiceDesc, _ any) {
	for _, m := range desc.Methods {
		a["/"+desc.ServiceName+"/"+m.MethodName] = m.Handler
	}
}

// attempt runs an attempt of path against a plain server.
func attempt(ctx context.Context, t *testing.T, conn *grpc.ClientConn) (any, error) {
	t.Helper()
	g := gate.New(plait.DefaultBreakerConfig(), 1, func() int64 { return 0 })
	g.Serving(true, "")
	a := attempts{}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	NewServer(conn, g, log).Register(a, contract.Service{Name: "a.v1.A", Methods: []string{"Do"}})
	decode := func(request any) error {
		payload, ok := request.(*plait.Payload)
		if !ok {
			t.Fatalf("a %T is decoded", request)
		}
		*payload = plait.Payload(garbage)
		return nil
	}
	return a[path](nil, ctx, decode, nil)
}

// trailers is the server stream of an attempt.
type trailers struct {
	grpc.ServerTransportStream

	md metadata.MD
}

func (s *trailers) SetTrailer(md metadata.MD) error {
	s.md = metadata.Join(s.md, md)
	return nil
}

func TestServer_BytesMetadataAndDeadlineGoThrough(t *testing.T) {
	t.Parallel()
	conn := reach(t, func(_ any, stream grpc.ServerStream) error {
		var request plait.Payload
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		md, _ := metadata.FromIncomingContext(stream.Context())
		if got := md.Get("x-raw-bin"); len(got) != 1 || got[0] != "\x00\xff" {
			t.Errorf("binary metadata %q", got)
		}
		if got := md.Get("plait-attempt"); len(got) != 1 || got[0] != "2" {
			t.Errorf("the attempt's number %q", got)
		}
		deadline, ok := stream.Context().Deadline()
		if left := time.Until(deadline); !ok || left > time.Minute || left < 20*time.Second {
			t.Errorf("%s left", left)
		}
		return stream.SendMsg(&request)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ctx = metadata.NewIncomingContext(ctx,
		metadata.Pairs("x-raw-bin", "\x00\xff", "plait-attempt", "2"))
	answer, err := attempt(ctx, t, conn)
	payload, ok := answer.(*plait.Payload)
	if err != nil || !ok || !bytes.Equal(*payload, []byte(garbage)) {
		t.Fatalf("%v, %v", answer, err)
	}
}

func TestServer_AFailureIsPassedOnAsItIs(t *testing.T) {
	t.Parallel()
	// Bytes that are a google.rpc.Status, but not as this program would write one.
	const details = "\x12\x02no\x08\x05\x1a\x05\x0a\x03a/b"
	conn := reach(t, func(_ any, stream grpc.ServerStream) error {
		stream.SetTrailer(metadata.Pairs("x-why", "because", detailsKey, details))
		return status.Error(codes.NotFound, "no")
	})
	stream := &trailers{}
	_, err := attempt(grpc.NewContextWithServerTransportStream(t.Context(), stream), t, conn)
	st := status.Convert(err)
	if st.Code() != codes.NotFound || st.Message() != "no" || len(st.Details()) != 0 {
		t.Errorf("%v", err)
	}
	if got := stream.md.Get(detailsKey); len(got) != 1 || got[0] != details {
		t.Errorf("details %q", got)
	}
	if got := stream.md.Get("x-why"); len(got) != 1 || got[0] != "because" {
		t.Errorf("trailer %q", got)
	}
}

func TestServer_TheEndOfTheAttemptReachesTheServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	conn := reach(t, func(_ any, stream grpc.ServerStream) error {
		cancel()
		<-stream.Context().Done()
		close(ended)
		return stream.Context().Err()
	})
	if _, err := attempt(ctx, t, conn); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	<-ended
}

// mesh is a durable channel that answers as it is told.
type mesh struct {
	grpc.ClientConnInterface

	invoke func(ctx context.Context, request plait.Payload) (plait.Payload, error)
	header metadata.MD
	ending metadata.MD
}

func (m *mesh) Invoke(
	ctx context.Context, _ string, args, reply any, options ...grpc.CallOption,
) error {
	request, isPayload := args.(*plait.Payload)
	response, isToo := reply.(*plait.Payload)
	if !isPayload || !isToo {
		return status.Errorf(codes.Internal, "%T and %T", args, reply)
	}
	for _, option := range options {
		switch o := option.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = m.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = m.ending
		}
	}
	var err error
	*response, err = m.invoke(ctx, *request)
	return err
}

// front is a client of a front before a mesh.
func front(t *testing.T, m *mesh) *grpc.ClientConn {
	t.Helper()
	f := NewFront(m, &contract.Contract{
		Services: []contract.Service{{Name: "a.v1.A", Methods: []string{"Do"}}},
		LeftOut:  []string{"a.v1.A/Stream"},
	})
	return reach(t, f.Handle)
}

func TestFront_BytesMetadataAndHeaderGoThrough(t *testing.T) {
	t.Parallel()
	conn := front(t, &mesh{
		header: metadata.Pairs("plait-task-id", "t1"),
		invoke: func(ctx context.Context, request plait.Payload) (plait.Payload, error) {
			md, _ := metadata.FromOutgoingContext(ctx)
			if got := md.Get("x-who"); len(got) != 1 || got[0] != "me" {
				t.Errorf("metadata %v", md)
			}
			return request, nil
		},
	})
	request, response := plait.Payload(garbage), plait.Payload{}
	var header metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-who", "me")
	err := conn.Invoke(ctx, path, &request, &response, grpc.ForceCodecV2(Codec{}), grpc.Header(&header))
	if err != nil || string(response) != garbage || len(header.Get("plait-task-id")) != 1 {
		t.Errorf("%q, %v, %v", response, header, err)
	}
}

func TestFront_AFailureIsPassedOnAsItIs(t *testing.T) {
	t.Parallel()
	const details = "\x12\x02no\x08\x05\x1a\x05\x0a\x03a/b"
	conn := front(t, &mesh{
		ending: metadata.Pairs(detailsKey, details, "x-why", "because"),
		invoke: func(context.Context, plait.Payload) (plait.Payload, error) {
			return nil, status.Error(codes.NotFound, "no")
		},
	})
	var trailer metadata.MD
	err := conn.Invoke(t.Context(), path, &plait.Payload{}, &plait.Payload{},
		grpc.ForceCodecV2(Codec{}), grpc.Trailer(&trailer))
	if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no" {
		t.Error(err)
	}
	if got := trailer.Get(detailsKey); len(got) != 1 || got[0] != details {
		t.Errorf("details %q", got)
	}
	if got := trailer.Get("x-why"); len(got) != 1 {
		t.Errorf("trailer %v", trailer)
	}
}

func TestFront_WhatIsNoTaskIsUnimplemented(t *testing.T) {
	t.Parallel()
	conn := front(t, &mesh{})
	for _, path := range []string{"/a.v1.A/Stream", "/a.v1.A/Other", "/b.v1.B/Do"} {
		err := conn.Invoke(t.Context(), path, &plait.Payload{}, &plait.Payload{},
			grpc.ForceCodecV2(Codec{}))
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", path, err)
		}
	}
}
