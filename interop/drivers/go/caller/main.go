// caller-go calls testing.v1.EchoService directly and says who answered: with grpc-go alone, as any
// program that dials xds:///, or with -direct by the SDK. A failure counts under its code.
//
//	caller-go -calls 50 -method Echo      ends after so many calls
//	caller-go -direct                     calls until SIGTERM, eight at a time
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"plait.dev/plait"
	testingv1 "plait.dev/plait/gen/testing/v1"
	_ "plait.dev/plait/xds" // For -direct, and with it grpc-go's own.
)

const (
	target  = "xds:///testing.v1.EchoService"
	callers = 8
)

// said is a line of the output.
type said struct {
	Event   string         `json:"event"`
	Answers map[string]int `json:"answers"`
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "caller-go:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("caller-go", flag.ContinueOnError)
	direct := flags.Bool("direct", false, "call by the SDK")
	calls := flags.Int("calls", 0, "so many calls; 0: until SIGTERM")
	method := flags.String("method", "Echo", "Echo or Sleep")
	if err := flags.Parse(args); err != nil {
		return err
	}
	conn, end, err := open(ctx, *direct)
	if err != nil {
		return err
	}
	defer end()
	c := &caller{stub: testingv1.NewEchoServiceClient(conn), method: *method, answers: map[string]int{}}
	write := json.NewEncoder(out)
	if *calls > 0 {
		for range *calls {
			c.call(ctx)
		}
		return write.Encode(said{"ready", c.answers})
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	c.call(ctx)
	if err := write.Encode(said{"ready", c.answers}); err != nil {
		return err
	}
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for ctx.Err() == nil {
				c.call(context.WithoutCancel(ctx))
			}
		})
	}
	running.Wait()
	return write.Encode(said{"done", c.answers})
}

// open answers a channel, and what closes it.
func open(ctx context.Context, direct bool) (grpc.ClientConnInterface, func(), error) {
	if direct {
		mesh, err := plait.Connect(ctx)
		if err != nil {
			return nil, nil, err
		}
		return mesh.Direct(), func() { _ = mesh.Close() }, nil
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	return conn, func() { _ = conn.Close() }, nil
}

type caller struct {
	stub   testingv1.EchoServiceClient
	method string

	mu      sync.Mutex
	answers map[string]int
}

// call makes one call and counts its answer.
func (c *caller) call(ctx context.Context) {
	answer := ""
	var err error
	if c.method == "Sleep" {
		_, err = c.stub.Sleep(ctx, &testingv1.SleepRequest{})
	} else {
		var echo *testingv1.EchoResponse
		echo, err = c.stub.Echo(ctx, &testingv1.EchoRequest{Payload: []byte("payload")})
		answer = string(echo.GetPayload())
	}
	if err != nil {
		answer = status.Code(err).String() + ": " + status.Convert(err).Message()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[answer]++
}
