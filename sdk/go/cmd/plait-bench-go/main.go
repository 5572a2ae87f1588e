// Command plait-bench-go measures the Go SDK against a running broker: a client and a worker in
// this process, echo tasks of one size. It prints one JSON line. The broker's address is
// PLAIT_ADDRESS.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "plait-bench-go:", err)
		os.Exit(1)
	}
}
