// The Go worker of the airport example: adds aircraft and weather to flights, from a reference service over HTTP.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"

	"plait.dev/airport/enrichment/internal/enrich"
	"plait.dev/airport/enrichment/internal/lookup"
	"plait.dev/plait"
	airportv1 "plait.dev/plait/gen/airport/v1"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "airport-enrichment:", err)
		os.Exit(1)
	}
}

// run serves airport.v1.EnrichmentService until the process is told to stop.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("airport-enrichment", flag.ContinueOnError)
	reference := flags.String("reference", "http://127.0.0.1:7480", "base URL of the reference service")
	concurrency := flags.Int("concurrency", 32, "attempts at once")
	timeout := flags.Duration("timeout", 2*time.Second, "time for one request to the reference service")
	if err := flags.Parse(args); err != nil {
		return err
	}
	stop, err := plait.ConfigureTracing(ctx, "airport-enrichment")
	if err != nil {
		return err
	}
	defer func() { _ = stop(ctx) }()

	mesh, err := plait.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = mesh.Close() }()
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	worker := mesh.Worker(plait.WithName("airport-enrichment"), plait.WithConcurrency(*concurrency))
	airportv1.RegisterEnrichmentServiceServer(worker, enrich.NewServer(lookup.NewClient(*reference, client)))
	return worker.Run(ctx)
}
