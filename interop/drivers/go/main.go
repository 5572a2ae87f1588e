// echo-worker-go serves testing.v1.EchoService on the Go SDK: it does what the requests say.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"plait.dev/plait"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "echo-worker-go:", err)
		os.Exit(1)
	}
}

// run serves until the process is told to stop.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("echo-worker-go", flag.ContinueOnError)
	concurrency := flags.Int("concurrency", 256, "attempts at once")
	listen := flags.String("listen", "", "where it is called directly, such as 127.0.0.1:0")
	client := flags.Bool("client", false, "be the conformance runner's client")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *client {
		return drive(ctx)
	}
	stop, err := plait.ConfigureTracing(ctx, "echo-go")
	if err != nil {
		return err
	}
	defer func() { _ = stop(ctx) }()
	mesh, err := plait.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = mesh.Close() }()

	service, err := newEcho(testingv1.NewEchoServiceClient(mesh.Channel()))
	if err != nil {
		return err
	}
	worker := mesh.Worker(plait.WithName("echo-go"), plait.WithConcurrency(*concurrency),
		plait.WithListen(*listen))
	testingv1.RegisterEchoServiceServer(worker, service)
	go func() {
		select {
		case <-worker.Attached():
			_, _ = fmt.Fprintf(os.Stdout, "{\"event\":\"ready\",\"endpoint\":%q}\n", worker.Endpoint())
		case <-ctx.Done():
		}
	}()
	return worker.Run(ctx)
}
