package plait

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Retries stay next to the failure: a handler whose own call was tried again, or was not to be, and
// failed for good tells its caller not to try it once more.

// pushbackKey is the trailer in which a server says how long to wait before trying again (A6).
const pushbackKey = "grpc-retry-pushback-ms"

// mark is what a call that is being served knows of those it makes.
type mark struct {
	// Whether one of them failed for good.
	stop atomic.Bool
}

type markKey struct{}

func withMark(ctx context.Context) (context.Context, *mark) {
	m := &mark{}
	return context.WithValue(ctx, markKey{}, m), m
}

// stopAbove says that a call which was made here failed, and is not to be tried again above.
func stopAbove(ctx context.Context) {
	if m, ok := ctx.Value(markKey{}).(*mark); ok {
		m.stop.Store(true)
	}
}

// tell adds the word to the trailer of a call that failed.
func (m *mark) tell(ctx context.Context, err error) {
	code := status.Code(err)
	if _, ok := status.FromError(err); !ok {
		code = codes.Unknown
	}
	if err != nil && m.stop.Load() && isCandidate(code) {
		// An error means that the call is over for gRPC; then nobody hears it.
		_ = grpc.SetTrailer(ctx, metadata.Pairs(pushbackKey, "-1"))
	}
}
