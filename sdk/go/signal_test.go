//go:build unix

package plait

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	plaitv1 "plait.dev/plait/gen/plait/v1"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

//nolint:paralleltest // the whole process gets the signals
func TestWorker_SignalDrainsAndASecondOneEndsItAtOnce(t *testing.T) {
	s := startScript(t)
	w := connect(t, s.address).Worker(WithGrace(time.Hour))
	hold := make(chan struct{})
	defer close(hold)
	running := make(chan struct{}, 1)
	ran := runWorker(t, s, w, handlers{
		echo: func(ctx context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
			running <- struct{}{}
			<-hold // It does not heed its context.
			return same(ctx, r)
		},
	})
	l, _ := s.attached(t, time.Minute)
	assign(t, l, echoAttempt(t, 1, 7, 70, "a"))
	next(t, running)
	kill := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	until(t, l, func(m *plaitv1.AttachRequest) bool { return m.GetDrain() != nil })
	kill()
	err := next(t, ran).err
	if err == nil || !strings.Contains(err.Error(), "1 attempts were cut off") {
		t.Fatalf("err = %v", err)
	}
}
