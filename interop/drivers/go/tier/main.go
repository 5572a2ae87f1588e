// tier-go is a worker in the middle of a chain: it serves one method of testing.v1.EchoService by
// calling another one, and answers with the milliseconds that were left to it and to those below.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"plait.dev/plait"
	testingv1 "plait.dev/plait/gen/testing/v1"
	_ "plait.dev/plait/xds" // For direct calls.
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tier-go:", err)
		os.Exit(1)
	}
}

// run serves until the process is told to stop.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("tier-go", flag.ContinueOnError)
	serve := flags.String("serve", "Echo", "the method, Echo or Scalars")
	call := flags.String("call", "Fail", "the method that it calls: Scalars, Fail or Inspect")
	said := flags.String("options", "{}", "of the direct channel, in JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	options, err := optionsOf(*said)
	if err != nil {
		return err
	}
	mesh, err := plait.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = mesh.Close() }()
	worker := mesh.Worker(plait.WithName("tier-"+*serve), plait.WithVersion("tier"),
		plait.WithListen("127.0.0.1:0"), plait.WithMethods(*serve))
	testingv1.RegisterEchoServiceServer(worker, &tier{
		direct:  testingv1.NewEchoServiceClient(mesh.Direct(options...)),
		durable: testingv1.NewEchoServiceClient(mesh.Channel()),
		call:    *call,
	})
	go func() {
		select {
		case <-worker.Attached():
			_, _ = fmt.Fprintln(os.Stdout, `{"event":"ready"}`)
		case <-ctx.Done():
		}
	}()
	return worker.Run(ctx)
}

// optionsOf reads the options of a channel. A breaker or limiter that is null is turned off.
func optionsOf(text string) ([]plait.DirectOption, error) {
	breaker, limiter := plait.DefaultBreakerConfig(), plait.DefaultLimiterConfig()
	var said map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		return nil, err
	}
	var attempts int
	var tokens, delayMs int64
	var yes bool
	var options []plait.DirectOption
	for name, value := range said {
		var into any
		var option func() plait.DirectOption
		switch name {
		case "max_attempts":
			into, option = &attempts, func() plait.DirectOption { return plait.WithMaxAttempts(attempts) }
		case "budget_tokens":
			into, option = &tokens, func() plait.DirectOption { return plait.WithBudgetTokens(tokens) }
		case "hedge_delay_ms":
			into, option = &delayMs, func() plait.DirectOption {
				return plait.WithHedgeDelay(time.Duration(delayMs) * time.Millisecond)
			}
		case "hedge":
			into, option = &yes, func() plait.DirectOption { return plait.WithHedge(yes) }
		case "idempotent":
			into, option = &yes, func() plait.DirectOption { return plait.WithIdempotent(yes) }
		case "breaker":
			b := &breakerSaid{MinCalls: &breaker.MinCalls, OpenMs: &breaker.OpenMs}
			into, option = b, func() plait.DirectOption {
				if string(value) == "null" {
					return plait.WithBreaker(nil)
				}
				return plait.WithBreaker(&breaker)
			}
		case "limiter":
			l := &limiterSaid{
				Initial: &limiter.Initial, Max: &limiter.Max, WaitingMax: &limiter.WaitingMax,
			}
			into, option = l, func() plait.DirectOption {
				if string(value) == "null" {
					return plait.WithLimiter(nil)
				}
				return plait.WithLimiter(&limiter)
			}
		default:
			return nil, fmt.Errorf("no option %q", name)
		}
		if err := json.Unmarshal(value, into); err != nil {
			return nil, fmt.Errorf("read option %s: %w", name, err)
		}
		options = append(options, option())
	}
	return options, nil
}

type breakerSaid struct {
	MinCalls *int64 `json:"min_calls"`
	OpenMs   *int64 `json:"open_ms"`
}

type limiterSaid struct {
	Initial    *int64 `json:"initial"`
	Max        *int64 `json:"max"`
	WaitingMax *int64 `json:"waiting_max"`
}

// tier serves by calling.
type tier struct {
	testingv1.UnimplementedEchoServiceServer

	direct, durable testingv1.EchoServiceClient
	call            string
}

func (t *tier) Echo(
	ctx context.Context, request *testingv1.EchoRequest,
) (*testingv1.EchoResponse, error) {
	below := t.direct
	if string(request.GetPayload()) == "durable" {
		below = t.durable
	}
	found, err := t.lefts(ctx, below)
	if err != nil {
		return nil, err
	}
	return &testingv1.EchoResponse{Payload: found}, nil
}

func (t *tier) Scalars(
	ctx context.Context, _ *testingv1.ScalarsRequest,
) (*testingv1.ScalarsResponse, error) {
	found, err := t.lefts(ctx, t.direct)
	if err != nil {
		return nil, err
	}
	return &testingv1.ScalarsResponse{Values: &testingv1.Scalars{StringValue: string(found)}}, nil
}

// lefts calls the next tier; a failure of it is this one's.
func (t *tier) lefts(ctx context.Context, below testingv1.EchoServiceClient) ([]byte, error) {
	var all []int64
	if deadline, ok := ctx.Deadline(); ok {
		all = append(all, time.Until(deadline).Milliseconds())
	}
	switch t.call {
	case "Scalars":
		answer, err := below.Scalars(ctx, &testingv1.ScalarsRequest{})
		if err != nil {
			return nil, err
		}
		var lower []int64
		if err := json.Unmarshal([]byte(answer.GetValues().GetStringValue()), &lower); err != nil {
			return nil, err
		}
		all = append(all, lower...)
	case "Inspect":
		answer, err := below.Inspect(ctx, &testingv1.InspectRequest{})
		if err != nil {
			return nil, err
		}
		all = append(all, answer.GetTimeRemaining().AsDuration().Milliseconds())
	default:
		if _, err := below.Fail(ctx, &testingv1.FailRequest{}); err != nil {
			return nil, err
		}
	}
	return json.Marshal(all)
}
