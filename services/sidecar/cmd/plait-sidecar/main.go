// plait-sidecar makes a plain gRPC server a durable worker, with no SDK and no change in the server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"plait.dev/sidecar/internal/sidecar"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	// After the first signal the next one has its usual effect: it ends the process at once.
	context.AfterFunc(ctx, stop)
	err := sidecar.Run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "plait-sidecar:", err)
		os.Exit(1)
	}
}
