// The reference service of the airport example: the register of aircraft and the weather, over HTTP. By flag it is slow
// or fails some of the time, as such services do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"plait.dev/airport/enrichment/internal/reference"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "airport-reference:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("airport-reference", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:7480", "address to listen on; port 0 picks one")
	data := flags.String("data", "", "folder with planes.csv and weather.csv")
	faults := reference.Faults{}
	flags.DurationVar(&faults.Latency, "latency", 0, "time that every answer takes")
	flags.IntVar(&faults.FailPermille, "fail-permille", 0, "share of requests that fail with 503")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := faults.Validate(); err != nil {
		return err
	}
	register, err := reference.Load(*data)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: reference.NewHandler(register, faults), ReadHeaderTimeout: 5 * time.Second}
	if _, err := fmt.Fprintf(os.Stdout, "{\"event\":\"ready\",\"address\":%q}\n", listener.Addr()); err != nil {
		return err
	}
	done := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer done()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
