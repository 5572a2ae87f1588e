package plait

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestTrailer_GoesWithTheHandlersStatus(t *testing.T) {
	t.Parallel()
	sent := status.Error(codes.NotFound, "no")
	got := withTrailer(failureOf(sent, metadata.Pairs("x-failed-by", "a worker")))
	wrapped := fmt.Errorf("while charging: %w", got)
	if by := Trailer(wrapped).Get("x-failed-by"); len(by) != 1 || by[0] != "a worker" {
		t.Fatalf("trailer = %v", Trailer(wrapped))
	}
	if status.Code(wrapped) != codes.NotFound || got.Error() != sent.Error() || !errors.Is(got, sent) {
		t.Fatalf("got %v, want %v", got, sent)
	}
	for _, other := range []error{nil, sent, withTrailer(failureOf(sent, nil))} {
		if trailer := Trailer(other); trailer != nil {
			t.Errorf("Trailer(%v) = %v", other, trailer)
		}
	}
}
