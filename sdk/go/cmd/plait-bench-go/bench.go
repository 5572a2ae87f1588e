package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"slices"
	"time"

	"plait.dev/plait"
	testingv1 "plait.dev/plait/gen/testing/v1"
)

// settings are what the flags say.
type settings struct {
	tasks, size, single, concurrency int
	profile                          string
}

// report is the line that is printed.
type report struct {
	Language   string  `json:"language"`
	TasksPerS  float64 `json:"tasks_per_s"`
	P50Ms      float64 `json:"p50_ms"`
	P99Ms      float64 `json:"p99_ms"`
	Synced     bool    `json:"synced"`
	Tasks      int     `json:"tasks"`
	SizeBytes  int     `json:"size_bytes"`
	SingleRuns int     `json:"single_runs"`
}

func parse(args []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("plait-bench-go", flag.ContinueOnError)
	flags.IntVar(&s.tasks, "tasks", 300_000, "tasks that are submitted in bulk, with their results")
	flags.IntVar(&s.size, "size", 256, "bytes of a request and of a response")
	flags.IntVar(&s.single, "single", 2000, "calls that are made one at a time")
	flags.IntVar(&s.concurrency, "concurrency", 4096, "slots of the worker")
	flags.StringVar(&s.profile, "cpuprofile", "", "write a CPU profile of the bulk part here")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.tasks < 1 || s.single < 1 || s.size < 0 {
		return s, errors.New("-tasks and -single are at least 1, -size at least 0")
	}
	return s, nil
}

// run measures and writes one JSON line.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	client, err := plait.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	w := client.Worker(
		plait.WithName("bench-go"), plait.WithConcurrency(s.concurrency), plait.WithoutSignals())
	testingv1.RegisterEchoServiceServer(w, echo{})
	worked := make(chan error, 1)
	go func() { worked <- w.Run(ctx) }()
	result, err := measure(ctx, testingv1.NewEchoServiceClient(client.Channel()), s)
	w.Stop()
	if err := errors.Join(err, <-worked); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(result)
}

type echo struct {
	testingv1.UnimplementedEchoServiceServer
}

func (echo) Echo(_ context.Context, r *testingv1.EchoRequest) (*testingv1.EchoResponse, error) {
	return &testingv1.EchoResponse{Payload: r.GetPayload()}, nil
}

func measure(ctx context.Context, c testingv1.EchoServiceClient, s settings) (report, error) {
	r := report{
		Language: "go", Tasks: s.tasks, SizeBytes: s.size, SingleRuns: s.single,
	}
	var err error
	if r.Synced, err = synced(ctx); err != nil {
		return r, err
	}
	// Neither announcing the contract nor growing the first buffers is what is measured.
	if err := bulk(ctx, c, s.size, s.tasks/10+1); err != nil {
		return r, err
	}
	stop, err := profile(s.profile)
	if err != nil {
		return r, err
	}
	start := time.Now()
	err = bulk(ctx, c, s.size, s.tasks)
	r.TasksPerS = float64(s.tasks) / time.Since(start).Seconds()
	stop()
	if err != nil {
		return r, err
	}
	took, err := single(ctx, c, s)
	if err != nil {
		return r, err
	}
	slices.Sort(took)
	r.P50Ms, r.P99Ms = quantile(took, 0.5), quantile(took, 0.99)
	return r, nil
}

// bulk submits tasks and reads their results, pipelined as deep as the SDK allows.
func bulk(ctx context.Context, c testingv1.EchoServiceClient, size, tasks int) error {
	payload := bytes.Repeat([]byte{'x'}, size)
	requests := func(yield func(*testingv1.EchoRequest) bool) {
		for range tasks {
			if !yield(&testingv1.EchoRequest{Payload: payload}) {
				return
			}
		}
	}
	n := 0
	for response, err := range plait.CallMany(ctx, c.Echo, requests) {
		if err != nil {
			return err
		}
		if len(response.GetPayload()) != size {
			return fmt.Errorf("response %d has %d bytes", n, len(response.GetPayload()))
		}
		n++
	}
	if n != tasks {
		return fmt.Errorf("%d responses to %d tasks", n, tasks)
	}
	return nil
}

// single makes calls one at a time and returns how long each took.
func single(
	ctx context.Context, c testingv1.EchoServiceClient, s settings,
) ([]time.Duration, error) {
	request := &testingv1.EchoRequest{Payload: bytes.Repeat([]byte{'x'}, s.size)}
	took := make([]time.Duration, 0, s.single)
	for range s.single {
		start := time.Now()
		if _, err := c.Echo(ctx, request); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

func quantile(sorted []time.Duration, q float64) float64 {
	return float64(sorted[int(q*float64(len(sorted)-1))]) / float64(time.Millisecond)
}

// profile starts a CPU profile, if one is wanted.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = file.Close()
	}, nil
}
