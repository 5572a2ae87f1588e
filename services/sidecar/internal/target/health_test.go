package target

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// heard is what Watch reported, without repetitions.
type heard struct {
	t       *testing.T
	reports chan string
}

// watched watches a server until the test ends.
func watched(t *testing.T, address string) *heard {
	t.Helper()
	conn, err := Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	h := &heard{t, make(chan string, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, conn, func(serving bool, reason string) {
			if serving {
				reason = "serving"
			}
			h.reports <- reason
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = conn.Close()
	})
	return h
}

// until waits for a report.
func (h *heard) until(want string) {
	h.t.Helper()
	over := time.After(patience)
	for last := ""; ; {
		select {
		case last = <-h.reports:
			if last == want {
				return
			}
		case <-over:
			h.t.Fatalf("the last report was %q, not %q", last, want)
		}
	}
}

// server is one that can be started again at its address.
func server(t *testing.T, address string, register func(*grpc.Server)) (*grpc.Server, string) {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(listener)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return s, listener.Addr().String()
}

func TestWatch_FollowsTheHealthOfTheServer(t *testing.T) {
	t.Parallel()
	status := health.NewServer()
	register := func(s *grpc.Server) { healthpb.RegisterHealthServer(s, status) }
	first, address := server(t, "127.0.0.1:0", register)
	h := watched(t, address)
	h.until("serving")
	status.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	h.until("the server's health is NOT_SERVING")
	status.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	h.until("serving")
	first.Stop()
	h.until("the server is not connected")
	_, _ = server(t, address, register)
	h.until("serving")
}

func TestWatch_WithoutAHealthServiceTheConnectionCounts(t *testing.T) {
	t.Parallel()
	first, address := server(t, "127.0.0.1:0", func(*grpc.Server) {})
	h := watched(t, address)
	h.until("the server is not connected")
	h.until("serving")
	first.Stop()
	h.until("the server is not connected")
	_, _ = server(t, address, func(*grpc.Server) {})
	h.until("serving")
}

func TestWatch_AServerThatKnowsOnlyItsServicesServes(t *testing.T) {
	t.Parallel()
	_, address := server(t, "127.0.0.1:0", func(s *grpc.Server) {
		healthpb.RegisterHealthServer(s, unaware{})
	})
	watched(t, address).until("serving")
}

// unaware knows nothing of the server as a whole.
type unaware struct {
	healthpb.UnimplementedHealthServer
}

func (unaware) Watch(
	_ *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer,
) error {
	const unknown = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	if err := stream.Send(&healthpb.HealthCheckResponse{Status: unknown}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}
