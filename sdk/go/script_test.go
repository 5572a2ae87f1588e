package plait

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// patience bounds every wait of a test; it is reached only by a failure.
const patience = 30 * time.Second

// script is the broker's side of the wire, played by a test: each stream that the SDK opens is
// handed to the test, which reads what the SDK says and answers. It has no behaviour of its own;
// the tests against the real broker are in plaittest.
type script struct {
	plaitv1.UnimplementedTaskServiceServer
	plaitv1.UnimplementedWorkerServiceServer
	plaitv1.UnimplementedContractServiceServer

	address  string
	server   *grpc.Server
	submits  chan *submitLine
	attaches chan *attachLine

	mu        sync.Mutex
	infos     map[string]*plaitv1.MethodInfo
	wiped     bool
	announced []*plaitv1.AnnounceContractRequest
	// Answers of AnnounceContract, in order; afterwards it succeeds.
	refusals []error
}

// line is one stream, in the hands of the test.
type line[In, Out any] struct {
	in     chan *In
	send   func(*Out) error
	end    chan error
	ended  chan struct{}
	closed chan struct{} // The SDK closed its side.
}

type (
	submitLine = line[plaitv1.SubmitStreamRequest, plaitv1.SubmitStreamResponse]
	attachLine = line[plaitv1.AttachRequest, plaitv1.AttachResponse]
)

func startScript(t *testing.T) *script {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{
		address: listener.Addr().String(), server: grpc.NewServer(),
		submits: make(chan *submitLine, 16), attaches: make(chan *attachLine, 16),
		infos: map[string]*plaitv1.MethodInfo{},
	}
	for _, m := range testingv1.EchoService_ServiceDesc.Methods {
		path := "/" + testingv1.EchoService_ServiceDesc.ServiceName + "/" + m.MethodName
		s.infos[path] = &plaitv1.MethodInfo{Method: path, Queue: "echo"}
	}
	s.infos[testingv1.EchoService_Append_FullMethodName].IdempotencyKey = &plaitv1.KeyPath{
		Path: "entry.id", Numbers: []uint32{2, 1}, Kind: plaitv1.KeyKind_KEY_KIND_STRING,
	}
	s.infos[testingv1.EchoService_Append_FullMethodName].OrderingKey = &plaitv1.KeyPath{
		Path: "account", Numbers: []uint32{1}, Kind: plaitv1.KeyKind_KEY_KIND_STRING,
	}
	plaitv1.RegisterTaskServiceServer(s.server, s)
	plaitv1.RegisterWorkerServiceServer(s.server, s)
	plaitv1.RegisterContractServiceServer(s.server, s)
	go func() { _ = s.server.Serve(listener) }()
	t.Cleanup(s.server.Stop)
	return s
}

func (s *script) ResolveMethods(
	_ context.Context, r *plaitv1.ResolveMethodsRequest,
) (*plaitv1.ResolveMethodsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := &plaitv1.ResolveMethodsResponse{}
	for _, path := range r.GetMethods() {
		if info := s.infos[path]; info != nil && !s.wiped {
			answer.Methods = append(answer.Methods, info)
		}
	}
	return answer, nil
}

func (s *script) AnnounceContract(
	_ context.Context, r *plaitv1.AnnounceContractRequest,
) (*plaitv1.AnnounceContractResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced = append(s.announced, r)
	if len(s.refusals) > 0 {
		err := s.refusals[0]
		s.refusals = s.refusals[1:]
		return nil, err
	}
	s.wiped = false
	answer := &plaitv1.AnnounceContractResponse{}
	for _, info := range s.infos {
		answer.Methods = append(answer.Methods, info)
	}
	return answer, nil
}

// wipe makes the broker forget every contract.
func (s *script) wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wiped = true
}

func (s *script) announcements() []*plaitv1.AnnounceContractRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.announced
}

func (s *script) SubmitStream(
	stream grpc.BidiStreamingServer[plaitv1.SubmitStreamRequest, plaitv1.SubmitStreamResponse],
) error {
	return play(stream, s.submits)
}

func (s *script) Attach(
	stream grpc.BidiStreamingServer[plaitv1.AttachRequest, plaitv1.AttachResponse],
) error {
	return play(stream, s.attaches)
}

// play hands a stream to the test and keeps it open until the test or the SDK ends it.
func play[In, Out any](
	stream grpc.BidiStreamingServer[In, Out],
	lines chan<- *line[In, Out],
) error {
	l := &line[In, Out]{
		in: make(chan *In, 4096), send: stream.Send, end: make(chan error, 1),
		ended: make(chan struct{}), closed: make(chan struct{}),
	}
	defer close(l.ended)
	go func() {
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				close(l.closed)
			}
			if err != nil {
				close(l.in)
				return
			}
			l.in <- m
		}
	}()
	lines <- l
	select {
	case err := <-l.end:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// next is the next stream that the SDK opens.
func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-from:
		if !ok {
			t.Fatal("the stream ended")
		}
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	panic("unreachable")
}

func (l *line[In, Out]) read(t *testing.T) *In {
	t.Helper()
	return next(t, l.in)
}

func (l *line[In, Out]) say(t *testing.T, m *Out) {
	t.Helper()
	if err := l.send(m); err != nil {
		t.Fatal(err)
	}
}

func (l *line[In, Out]) stop(t *testing.T, err error) {
	t.Helper()
	l.end <- err
	select {
	case <-l.ended:
	case <-time.After(patience):
		t.Fatal("the stream did not end")
	}
}

// welcome reads a submitter's hello and answers it.
func (s *script) welcome(t *testing.T, last uint64) (*submitLine, *plaitv1.SessionHello) {
	t.Helper()
	l := next(t, s.submits)
	hello := l.read(t).GetHello()
	if len(hello.GetSession()) != 16 || hello.GetClient() != clientName {
		t.Fatalf("hello = %v", hello)
	}
	l.say(t, &plaitv1.SubmitStreamResponse{Message: &plaitv1.SubmitStreamResponse_Welcome{
		Welcome: &plaitv1.SessionWelcome{
			LastSequence:    last,
			PayloadBytesMax: 1 << 20,
			FrameTasksMax:   256,
		},
	}})
	return l, hello
}

// frame reads a submission.
func frameOf(t *testing.T, l *submitLine) *plaitv1.SequencedSubmit {
	t.Helper()
	m := l.read(t)
	if m.GetSubmit() == nil {
		t.Fatalf("read %v, not a submission", m)
	}
	return m.GetSubmit()
}

func awaitOf(t *testing.T, l *submitLine) *plaitv1.AwaitFrame {
	t.Helper()
	m := l.read(t)
	if m.GetAwait() == nil {
		t.Fatalf("read %v, not an await", m)
	}
	return m.GetAwait()
}

func accept(t *testing.T, l *submitLine, a *plaitv1.SequencedAccepted) {
	t.Helper()
	l.say(
		t,
		&plaitv1.SubmitStreamResponse{Message: &plaitv1.SubmitStreamResponse_Accepted{Accepted: a}},
	)
}

func acceptTasks(t *testing.T, l *submitLine, sequence uint64, tasks ...uint64) {
	t.Helper()
	accept(t, l, &plaitv1.SequencedAccepted{
		Sequence: sequence, Accepted: &plaitv1.AcceptedFrame{Tasks: tasks},
	})
}

func results(t *testing.T, l *submitLine, r *plaitv1.ResultFrame) {
	t.Helper()
	l.say(
		t,
		&plaitv1.SubmitStreamResponse{Message: &plaitv1.SubmitStreamResponse_Results{Results: r}},
	)
}

// answerOf is the result of one Echo task.
func answerOf(t *testing.T, task uint64, text string) *plaitv1.ResultFrame {
	t.Helper()
	return &plaitv1.ResultFrame{Tasks: []uint64{task}, Payloads: [][]byte{echoed(t, text)}}
}

// attached reads a worker's hello and answers it.
func (s *script) attached(
	t *testing.T, beat time.Duration, lost ...*plaitv1.HeldLease,
) (*attachLine, *plaitv1.WorkerHello) {
	t.Helper()
	l := next(t, s.attaches)
	hello := l.read(t).GetHello()
	if hello == nil {
		t.Fatal("the first message is no hello")
	}
	l.say(
		t,
		&plaitv1.AttachResponse{
			Message: &plaitv1.AttachResponse_Welcome{Welcome: &plaitv1.WorkerWelcome{
				HeartbeatInterval: durationpb.New(beat), Lost: lost, PayloadBytesMax: 1 << 20,
			}},
		},
	)
	return l, hello
}

// until reads what a worker says until a message satisfies.
func until(
	t *testing.T,
	l *attachLine,
	satisfies func(*plaitv1.AttachRequest) bool,
) *plaitv1.AttachRequest {
	t.Helper()
	for {
		if m := l.read(t); satisfies(m) {
			return m
		}
	}
}

func outcomesFrom(t *testing.T, l *attachLine) *plaitv1.OutcomeFrame {
	t.Helper()
	return until(
		t,
		l,
		func(m *plaitv1.AttachRequest) bool { return m.GetOutcomes() != nil },
	).GetOutcomes()
}

func settle(t *testing.T, l *attachLine, sequence uint64) {
	t.Helper()
	l.say(t, &plaitv1.AttachResponse{Message: &plaitv1.AttachResponse_Settled{
		Settled: &plaitv1.SettledFrame{Sequence: sequence},
	}})
}

func assign(t *testing.T, l *attachLine, f *plaitv1.AttemptFrame) {
	t.Helper()
	l.say(t, &plaitv1.AttachResponse{Message: &plaitv1.AttachResponse_Attempts{Attempts: f}})
}

func connect(t *testing.T, address string) *Client {
	t.Helper()
	c, err := Connect(t.Context(), WithAddress(address), WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func echoClient(t *testing.T, s *script) testingv1.EchoServiceClient {
	t.Helper()
	return testingv1.NewEchoServiceClient(connect(t, s.address).Channel())
}

// outcome is what a call gave.
type outcome[R any] struct {
	response R
	err      error
}

// begin makes a call whose answer the test takes later.
func begin[R any](call func() (R, error)) <-chan outcome[R] {
	done := make(chan outcome[R], 1)
	go func() {
		response, err := call()
		done <- outcome[R]{response, err}
	}()
	return done
}

// eventually waits for a state that announces itself by nothing.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatal("it never came true")
		}
	}
}

func wantCode(t *testing.T, err error, code codes.Code, reason plaitv1.ErrorReason) {
	t.Helper()
	if status.Code(err) != code || Reason(err) != reason {
		t.Fatalf("err = %v (%v), want %v (%v)", err, Reason(err), code, reason)
	}
}
