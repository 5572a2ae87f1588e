package gate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"plait.dev/plait"
	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// clocked is a gate whose clock is that of the bubble it is made in.
func clocked(concurrency int) *Gate {
	start := time.Now()
	return New(plait.DefaultBreakerConfig(), concurrency,
		func() int64 { return time.Since(start).Milliseconds() })
}

func unavailable() error { return status.Error(codes.Unavailable, "no") }

func enter(t *testing.T, g *Gate) *Pass {
	t.Helper()
	pass, err := g.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return pass
}

func wantMode(t *testing.T, g *Gate, want Mode) {
	t.Helper()
	if mode, reason, _, _ := g.Mode(); mode != want {
		t.Fatalf("mode %d (%s), want %d", mode, reason, want)
	}
}

func TestGate_WaitsForAServerThatIsBackInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := clocked(1)
		wantMode(t, g, Paused)
		time.AfterFunc(patience-time.Second, func() { g.Serving(true, "") })
		enter(t, g).Leave(nil)
		wantMode(t, g, Open)
	})
}

func TestGate_GivesUpOnAServerThatIsNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := clocked(1)
		g.Serving(false, "it sleeps")
		start := time.Now()
		_, err := g.Enter(t.Context())
		if status.Code(err) != codes.Unavailable || time.Since(start) != patience {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Enter(ctx); status.Code(err) != codes.DeadlineExceeded {
			t.Error(err)
		}
	})
}

func TestGate_NeverLetsMoreThroughAtOnceThanItWasTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := clocked(3)
		g.Serving(true, "")
		var mu sync.Mutex
		inside, most, done := 0, 0, 0
		for range 50 {
			go func() {
				pass, err := g.Enter(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				timer := time.NewTimer(time.Minute) // Longer than its patience for a server.
				<-timer.C
				mu.Lock()
				inside--
				done++
				mu.Unlock()
				pass.Leave(nil)
			}()
		}
		<-time.After(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if most != 3 || done != 50 {
			t.Errorf("at most %d at once, %d done", most, done)
		}
	})
}

func TestGate_BreakerOpensPausesAndClosesByProbing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := clocked(100)
		g.Serving(true, "")
		for range 20 {
			wantMode(t, g, Open)
			enter(t, g).Leave(unavailable())
		}
		mode, _, _, retry := g.Mode()
		if mode != Paused || retry != 5*time.Second {
			t.Fatalf("mode %d for %s", mode, retry)
		}
		<-time.After(retry)
		wantMode(t, g, Probing)
		probes := []*Pass{enter(t, g), enter(t, g), enter(t, g)}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Enter(ctx); status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("a fourth probe: %v", err)
		}
		waiting := make(chan error, 1)
		go func() {
			pass, err := g.Enter(t.Context())
			if err == nil {
				pass.Leave(nil)
			}
			waiting <- err
		}()
		for _, pass := range probes {
			pass.Leave(nil)
		}
		wantMode(t, g, Open)
		if err := <-waiting; err != nil {
			t.Error(err)
		}
	})
}

func TestGate_AProbeThatFailsOpensTheBreakerAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := clocked(100)
		g.Serving(true, "")
		for range 20 {
			enter(t, g).Leave(unavailable())
		}
		<-time.After(5 * time.Second)
		first, second := enter(t, g), enter(t, g)
		first.Leave(unavailable())
		second.Leave(unavailable())
		mode, _, _, retry := g.Mode()
		if mode != Paused || retry != 10*time.Second {
			t.Fatalf("mode %d for %s", mode, retry)
		}
		// The open time is over before its patience is, and so it becomes a probe.
		<-time.After(time.Second)
		enter(t, g).Leave(nil)
	})
}

func TestGate_AnOpenBreakerIsToldWithItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := plait.DefaultBreakerConfig()
		config.OpenMs = 30_000
		start := time.Now()
		g := New(config, 9, func() int64 { return time.Since(start).Milliseconds() })
		g.Serving(true, "")
		for range 20 {
			enter(t, g).Leave(unavailable())
		}
		_, err := g.Enter(t.Context())
		if plait.Reason(err) != plaitv1.ErrorReason_ERROR_REASON_BREAKER_OPEN {
			t.Error(err)
		}
	})
}

func TestGate_OnlyAServerThatDoesNotAnswerCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := clocked(100)
		g.Serving(true, "")
		for range 100 {
			for _, code := range []codes.Code{
				codes.Internal, codes.Unknown, codes.NotFound, codes.DeadlineExceeded, codes.Canceled,
			} {
				enter(t, g).Leave(status.Error(code, "no"))
			}
			enter(t, g).Leave(errors.New("no status"))
		}
		wantMode(t, g, Open)
	})
}
