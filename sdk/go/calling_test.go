package plait

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

const echoPath = "/testing.v1.EchoService/Echo"

// port is a server whose Echo is told the number of its call.
type port struct {
	testingv1.UnimplementedEchoServiceServer

	conn   *grpc.ClientConn
	handle func(ctx context.Context, number int) (*testingv1.EchoResponse, error)

	mu sync.Mutex
	// Of each call, what grpc-previous-rpc-attempts said.
	previous []string
}

func (p *port) Echo(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	p.mu.Lock()
	p.previous = append(p.previous, append(in.Get(previousKey), "")[0])
	number := len(p.previous)
	p.mu.Unlock()
	return p.handle(ctx, number)
}

func (p *port) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.previous)
}

func openPort(
	t *testing.T, handle func(ctx context.Context, number int) (*testingv1.EchoResponse, error),
) *port {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	p := &port{handle: handle}
	testingv1.RegisterEchoServiceServer(server, p)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	p.conn, err = grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithDisableRetry(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.conn.Close() })
	return p
}

// failing fails so often, then answers.
func failing(
	times int, code codes.Code, trailers ...string,
) func(context.Context, int) (*testingv1.EchoResponse, error) {
	return func(ctx context.Context, number int) (*testingv1.EchoResponse, error) {
		if number > times {
			return &testingv1.EchoResponse{Payload: strconv.AppendInt(nil, int64(number), 10)}, nil
		}
		_ = grpc.SetTrailer(ctx, metadata.Pairs(trailers...))
		return nil, status.Errorf(code, "failure %d", number)
	}
}

// standard are the rules of a method that says nothing, changed.
func standard(change func(r *callRules)) *callRules {
	rules := rulesOf(protoregistry.GlobalFiles, "/nobody.v1.NobodyService/Call")
	if change != nil {
		change(rules)
	}
	return rules
}

// call makes one call of Echo by these rules.
func (p *port) call(
	t *testing.T, g *guard, rules *callRules, limit time.Duration,
) (*testingv1.EchoResponse, *ended, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	deadline, _ := ctx.Deadline()
	reply := &testingv1.EchoResponse{}
	c := &calling{
		conn: p.conn, path: echoPath, args: &testingv1.EchoRequest{}, reply: reply, guard: g,
		rules: rules, endMs: clockMs(deadline),
	}
	found, err := c.run(ctx)
	if err != nil {
		return nil, nil, err
	}
	return reply, found, found.err
}

func TestCalling_RetriesSayWhichAttemptTheyAre(t *testing.T) {
	t.Parallel()
	p := openPort(t, failing(2, codes.Unavailable))
	rules := standard(nil)
	answer, _, err := p.call(t, newGuards().of(echoPath, rules), rules, time.Minute)
	if err != nil || string(answer.GetPayload()) != "3" {
		t.Fatalf("answer = %v, %v", answer, err)
	}
	if seen := p.seen(); !slices.Equal(seen, []string{"", "1", "2"}) {
		t.Errorf("seen = %q", seen)
	}
}

func TestCalling_AttemptsAfterTheFirstAreEventsOfItsSpan(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	ctx, span := provider.Tracer("test").Start(t.Context(), "call")
	p, rules := openPort(t, failing(2, codes.Unavailable)), standard(nil)
	c := &calling{
		conn: p.conn, path: echoPath, args: &testingv1.EchoRequest{}, rules: rules, span: span,
		reply: &testingv1.EchoResponse{}, guard: newGuards().of(echoPath, rules),
		endMs: clockMs(time.Now().Add(time.Minute)),
	}
	if found, err := c.run(ctx); err != nil || found.err != nil {
		t.Fatalf("run: %v, %v", found, err)
	}
	span.End()
	var got []int64
	for _, event := range recorder.Ended()[0].Events() {
		if event.Name == "attempt" && event.Attributes[0].Key == attrAttemptNumber {
			got = append(got, event.Attributes[0].Value.AsInt64())
		}
	}
	if !slices.Equal(got, []int64{2, 3}) {
		t.Errorf("attempts %v", got)
	}
}

func TestCalling_WhatIsSentAgain(t *testing.T) {
	t.Parallel()
	idempotent := func(r *callRules) { r.idempotent = true }
	for name, c := range map[string]struct {
		change   func(*callRules)
		code     codes.Code
		trailer  string
		attempts int
	}{
		"unavailable":            {nil, codes.Unavailable, "", 3},
		"internal":               {nil, codes.Internal, "", 1},
		"internal, idempotent":   {idempotent, codes.Internal, "", 3},
		"not found":              {idempotent, codes.NotFound, "", 1},
		"exhausted":              {nil, codes.ResourceExhausted, "", 1},
		"exhausted, told when":   {nil, codes.ResourceExhausted, "0", 3},
		"told to stop":           {nil, codes.Unavailable, "-1", 1},
		"told what is no number": {nil, codes.Unavailable, "soon", 1},
		"one attempt":            {func(r *callRules) { r.maxAttempts = 1 }, codes.Unavailable, "", 1},
		"never by contract": {
			func(r *callRules) { r.never = codeSet{codes.Unavailable: true} }, codes.Unavailable, "", 1,
		},
		"a small budget": {func(r *callRules) { r.budgetTokens = 2 }, codes.Unavailable, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var trailers []string
			if c.trailer != "" {
				trailers = []string{pushbackKey, c.trailer}
			}
			p := openPort(t, failing(9, c.code, trailers...))
			rules := standard(c.change)
			_, found, err := p.call(t, newGuards().of(echoPath, rules), rules, time.Minute)
			if status.Code(err) != c.code {
				t.Errorf("err = %v", err)
			}
			if last := "failure " + strconv.Itoa(c.attempts); status.Convert(err).Message() != last {
				t.Errorf("err = %v, want %s", err, last)
			}
			if c.trailer != "" && found.trailer.Get(pushbackKey)[0] != c.trailer {
				t.Errorf("trailer = %v", found.trailer)
			}
			if seen := p.seen(); len(seen) != c.attempts {
				t.Errorf("seen = %q", seen)
			}
		})
	}
}

func TestCalling_TheLongerPushbackCounts(t *testing.T) {
	t.Parallel()
	st, err := status.New(codes.Unavailable, "wait").WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(50 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]int64{"70": 70, "20": 50} {
		e := &ended{err: st.Err(), trailer: metadata.Pairs(pushbackKey, said)}
		if got := e.pushbackMs(); got == nil || *got != want {
			t.Errorf("%s gave %v, want %d", said, got, want)
		}
	}
	if got := (&ended{}).pushbackMs(); got != nil {
		t.Errorf("nothing gave %v", *got)
	}
}

func TestCalling_AnAnswerThatHadBegunIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	p := openPort(t, func(ctx context.Context, _ int) (*testingv1.EchoResponse, error) {
		if err := grpc.SendHeader(ctx, metadata.MD{}); err != nil {
			return nil, err
		}
		return nil, status.Error(codes.Unavailable, "late")
	})
	rules := standard(nil)
	_, _, err := p.call(t, newGuards().of(echoPath, rules), rules, time.Minute)
	wantCode(t, err, codes.Unavailable, 0)
	if seen := p.seen(); len(seen) != 1 {
		t.Errorf("seen = %q", seen)
	}
}

func TestCalling_AnOpenBreakerRefuses(t *testing.T) {
	t.Parallel()
	p := openPort(t, failing(9, codes.Unavailable))
	rules := standard(func(r *callRules) { r.maxAttempts, r.breaker.MinCalls = 1, 2 })
	g := newGuards().of(echoPath, rules)
	for range 2 {
		_, _, _ = p.call(t, g, rules, time.Minute)
	}
	left := g.budget.tokens.TokensMilli()
	_, _, err := p.call(t, g, rules, time.Minute)
	wantCode(t, err, codes.Unavailable, plaitv1.ErrorReason_ERROR_REASON_BREAKER_OPEN)
	if after, ok := RetryAfter(err); !ok || after > 5*time.Second || after < 4*time.Second {
		t.Errorf("retry after %v", after)
	}
	if len(p.seen()) != 2 || g.budget.tokens.TokensMilli() != left {
		t.Errorf("it was sent, or cost a token")
	}
}

func TestCalling_AHedgeWins(t *testing.T) {
	t.Parallel()
	begun, gone := make(chan struct{}), make(chan struct{})
	p := openPort(t, func(ctx context.Context, _ int) (*testingv1.EchoResponse, error) {
		if in, _ := metadata.FromIncomingContext(ctx); len(in.Get(previousKey)) == 0 {
			close(begun)
			<-ctx.Done()
			close(gone)
			return nil, ctx.Err()
		}
		// On a busy machine a hedge may arrive before the first attempt does.
		<-begun
		return &testingv1.EchoResponse{Payload: []byte("hedge")}, nil
	})
	rules := standard(func(r *callRules) { r.idempotent, r.hedge, r.hedgeDelayMs = true, true, 5 })
	answer, _, err := p.call(t, newGuards().of(echoPath, rules), rules, time.Minute)
	if err != nil || string(answer.GetPayload()) != "hedge" {
		t.Fatalf("answer = %v, %v", answer, err)
	}
	<-gone
	if seen := slices.Sorted(slices.Values(p.seen())); !slices.Equal(seen, []string{"", "1"}) {
		t.Errorf("seen = %q", seen)
	}
}

func TestCalling_AHedgedCallEndsWithItsDeadline(t *testing.T) {
	t.Parallel()
	p := openPort(t, func(ctx context.Context, _ int) (*testingv1.EchoResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	rules := standard(func(r *callRules) { r.idempotent, r.hedge, r.hedgeDelayMs = true, true, 60_000 })
	_, _, err := p.call(t, newGuards().of(echoPath, rules), rules, 200*time.Millisecond)
	wantCode(t, err, codes.DeadlineExceeded, 0)
	if seen := p.seen(); len(seen) > 1 {
		t.Errorf("seen = %q", seen)
	}
}

func TestCalling_TheCallersCancellationEndsIt(t *testing.T) {
	t.Parallel()
	// Waits for the next attempt, or beside the hedge that has no answer either.
	p := openPort(t, failing(9, codes.Unavailable, pushbackKey, "50000"))
	for _, hedge := range []bool{false, true} {
		rules := standard(func(r *callRules) { r.idempotent, r.hedge, r.hedgeDelayMs = true, hedge, 60_000 })
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		c := &calling{
			conn: p.conn, path: echoPath, args: &testingv1.EchoRequest{}, rules: rules,
			reply: &testingv1.EchoResponse{}, guard: newGuards().of(echoPath, rules),
			endMs: clockMs(time.Now().Add(time.Minute)),
		}
		began := time.Now()
		found, err := c.run(ctx)
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, found.err, codes.Canceled, 0)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

func TestGuard_ThoseWhoWaitComeInByTurns(t *testing.T) {
	t.Parallel()
	rules := standard(func(r *callRules) { r.limiter.Initial, r.limiter.Max, r.limiter.WaitingMax = 1, 1, 2 })
	g := newGuards().of(echoPath, rules)
	first, err := g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	order := make(chan int, 2)
	for number := range 2 {
		go func() {
			if place, err := g.enter(t.Context()); err == nil {
				order <- number
				place.ended(codes.OK)
			}
		}()
		waitUntil(t, func() bool { g.mu.Lock(); defer g.mu.Unlock(); return len(g.line) == number+1 })
	}
	_, err = g.enter(t.Context())
	wantCode(t, err, codes.ResourceExhausted, plaitv1.ErrorReason_ERROR_REASON_QUEUE_FULL)
	if _, ok := RetryAfter(err); !ok {
		t.Error("it does not say when to come back")
	}
	if g.enterNow() != nil {
		t.Error("a hedge has a place that there is none of")
	}
	first.ended(codes.OK)
	if a, b := <-order, <-order; a != 0 || b != 1 {
		t.Errorf("order %d, %d", a, b)
	}
}

func TestGuard_WhoGivesUpWaitingLeavesNoGap(t *testing.T) {
	t.Parallel()
	rules := standard(func(r *callRules) { r.limiter.Initial, r.limiter.Max = 1, 1 })
	g := newGuards().of(echoPath, rules)
	first, err := g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = g.enter(ctx)
	wantCode(t, err, codes.DeadlineExceeded, 0)
	first.ended(codes.OK)
	if g.enterNow() == nil {
		t.Error("its place is lost")
	}
}

// waitUntil waits for what nobody tells.
func waitUntil(t *testing.T, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-limit.C:
			t.Fatal("not within 30 s")
		}
	}
}

func TestCallRules_AreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	of := func(method string) *callRules {
		return rulesOf(protoregistry.GlobalFiles, "/testing.v1.EchoService/"+method)
	}
	if echo := of("Echo"); echo.breaker == nil || echo.idempotent || echo.maxAttempts != 3 {
		t.Errorf("Echo: %+v", echo)
	}
	if fail := of("Fail"); fail.breaker != nil || fail.timeoutMs != 30_000 {
		t.Errorf("Fail: %+v", fail)
	}
	if add := of("Append"); !add.idempotent || add.hedge {
		t.Errorf("Append: %+v", add)
	}
	if once, sleep := of("Once"), of("Sleep"); once.maxAttempts != 1 || sleep.timeoutMs != 5_000 {
		t.Errorf("Once: %+v, Sleep: %+v", once, sleep)
	}
}

func TestCallRules_APolicyIsLaidOverTheServicesFieldByField(t *testing.T) {
	t.Parallel()
	attempts := int32(2)
	under := &plaitv1.TaskPolicy{
		AttemptTimeout: durationpb.New(500 * time.Millisecond),
		Retry:          &plaitv1.RetryPolicy{MaxAttempts: &attempts},
	}
	over := &plaitv1.TaskPolicy{
		AttemptTimeout: durationpb.New(time.Second), Retry: &plaitv1.RetryPolicy{},
	}
	lay(over.ProtoReflect(), under.ProtoReflect())
	if under.GetAttemptTimeout().AsDuration() != time.Second || under.GetRetry().GetMaxAttempts() != 2 {
		t.Errorf("merged: %v", under)
	}
}

func TestDirect_OptionsOfACallAreItsOwn(t *testing.T) {
	t.Parallel()
	rules := standard(nil)
	var header, trailer metadata.MD
	var from peer.Peer
	var finished []error
	own, passed, wanted := rules.forCall([]grpc.CallOption{
		WithMaxAttempts(9), WithHedge(true), WithIdempotent(true), WithHedgeDelay(0),
		grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from),
		grpc.OnFinish(func(err error) { finished = append(finished, err) }), grpc.WaitForReady(true),
	})
	if own.maxAttempts != 5 || !own.hedge || !own.idempotent || own.hedgeDelayMs != 1 {
		t.Errorf("rules: %+v", own)
	}
	if rules.maxAttempts != 3 || rules.hedge || len(passed) != 1 {
		t.Errorf("the method's rules changed, or %d options are passed", len(passed))
	}
	failure := status.Error(codes.Aborted, "no")
	told := &ended{err: failure, header: metadata.Pairs("a", "1"), trailer: metadata.Pairs("b", "2")}
	if err := wanted.finish(told); !errors.Is(err, failure) || len(finished) != 1 {
		t.Errorf("finished with %v, then %v", finished, err)
	}
	if !maps.EqualFunc(header, told.header, slices.Equal) || len(trailer) != 1 {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
}

func TestDirect_ChannelsCountTogetherUnlessTheySayOtherwise(t *testing.T) {
	t.Parallel()
	client := connect(t, "127.0.0.1:1")
	if client.Direct().guards != client.Direct(WithMaxAttempts(1)).guards {
		t.Error("two channels count apart")
	}
	if client.Direct().guards == client.Direct(WithBreaker(nil)).guards {
		t.Error("a channel without a breaker counts with the others")
	}
}

func TestListener_AFailureBelowIsNotTriedAgainAbove(t *testing.T) {
	t.Parallel()
	s := startScript(t)
	below, code := make(chan bool, 1), make(chan codes.Code, 1)
	_, stub, _ := listening(t, s,
		func(ctx context.Context, _ *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			if <-below {
				stopAbove(ctx)
			}
			return nil, status.Error(<-code, "below")
		})
	for _, c := range []struct {
		below  bool
		code   codes.Code
		marked bool
	}{{true, codes.Unavailable, true}, {false, codes.Unavailable, false}, {true, codes.NotFound, false}} {
		below <- c.below
		code <- c.code
		var trailer metadata.MD
		_, err := stub.Echo(t.Context(), request("a"), grpc.Trailer(&trailer))
		wantCode(t, err, c.code, 0)
		if said := trailer.Get(pushbackKey); (len(said) == 1 && said[0] == "-1") != c.marked {
			t.Errorf("%+v: trailer = %v", c, trailer)
		}
	}
}
