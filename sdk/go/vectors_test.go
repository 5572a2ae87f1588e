package plait

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// The vectors that all languages share; interop/vectors/README.md says what they are.
const vectorsFile = "../../interop/vectors/resilience.json"

type vectors struct {
	Schema  int `json:"schema"`
	Vectors []struct {
		Kind   string          `json:"kind"`
		Name   string          `json:"name"`
		Config json.RawMessage `json:"config"`
		Steps  []struct {
			In  json.RawMessage `json:"in"`
			Out map[string]any  `json:"out"`
		} `json:"steps"`
	} `json:"vectors"`
}

// machine answers one step of a vector.
type machine func(in json.RawMessage) (map[string]any, error)

var kinds = map[string]func(config json.RawMessage) (machine, error){
	"breaker":      breakerMachine,
	"retry_budget": budgetMachine,
	"backoff":      backoffMachine,
	"deadline":     deadlineMachine,
	"limiter":      limiterMachine,
}

func TestVectors_AllMachinesAgree(t *testing.T) {
	t.Parallel()
	runVectors(t, vectorsFile, 14, kinds)
}

func TestVectors_UnknownOpIsAnError(t *testing.T) {
	t.Parallel()
	refuseUnknown(t, kinds)
}

// runVectors runs a file with at least so many vectors, each of which has one of these kinds.
func runVectors(
	t *testing.T, path string, countMin int,
	kinds map[string]func(config json.RawMessage) (machine, error),
) {
	t.Helper()
	raw, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	var file vectors
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if file.Schema != 1 || len(file.Vectors) < countMin {
		t.Fatalf("schema %d with %d vectors", file.Schema, len(file.Vectors))
	}
	seen := map[string]bool{}
	for _, v := range file.Vectors {
		seen[v.Kind] = true
		t.Run(v.Kind+"/"+v.Name, func(t *testing.T) {
			t.Parallel()
			build, ok := kinds[v.Kind]
			if !ok {
				t.Fatalf("unknown kind %q", v.Kind)
			}
			step, err := build(v.Config)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range v.Steps {
				got, err := step(s.In)
				if err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if !reflect.DeepEqual(normal(t, got), s.Out) {
					t.Fatalf("step %d: %s gave %v, want %v", i, s.In, got, s.Out)
				}
			}
		})
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no vector of kind %q", kind)
		}
	}
}

func refuseUnknown(t *testing.T, kinds map[string]func(config json.RawMessage) (machine, error)) {
	t.Helper()
	for kind, build := range kinds {
		step, err := build(json.RawMessage(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := step(json.RawMessage(`{"op": "guess"}`)); err == nil {
			t.Errorf("%s took an unknown step", kind)
		}
	}
}

// normal is a value as JSON has it, so that numbers compare.
func normal(t *testing.T, v map[string]any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// strict refuses fields that the reader does not know: a vector must not ask for more than is
// checked.
func strict(raw json.RawMessage, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

func breakerMachine(raw json.RawMessage) (machine, error) {
	var c struct {
		WindowMs        int64 `json:"window_ms"`
		Buckets         int64 `json:"buckets"`
		MinCalls        int64 `json:"min_calls"`
		FailurePermille int64 `json:"failure_permille"`
		OpenMs          int64 `json:"open_ms"`
		OpenMaxMs       int64 `json:"open_max_ms"`
		HalfOpenProbes  int64 `json:"half_open_probes"`
		HalfOpenMaxMs   int64 `json:"half_open_max_ms"`
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	b := NewBreaker(BreakerConfig(c))
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			Op      string         `json:"op"`
			T       int64          `json:"t"`
			Gen     int64          `json:"gen"`
			Outcome BreakerOutcome `json:"outcome"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		switch in.Op {
		case "acquire":
			p := b.Acquire(in.T)
			if p.Allow {
				return map[string]any{"allow": true, "state": p.State, "gen": p.Generation}, nil
			}
			return map[string]any{
				"allow":          false,
				"state":          p.State,
				"retry_after_ms": p.RetryAfterMs,
			}, nil
		case "report":
			switch in.Outcome {
			case BreakerSuccess, BreakerFailure, BreakerIgnore:
			default:
				return nil, fmt.Errorf("unknown outcome %q", in.Outcome)
			}
			state, counted := b.Report(in.T, in.Gen, in.Outcome)
			return map[string]any{"state": state, "counted": counted}, nil
		}
		return nil, fmt.Errorf("unknown op %q", in.Op)
	}, nil
}

func budgetMachine(raw json.RawMessage) (machine, error) {
	var c struct {
		MaxTokens          int64 `json:"max_tokens"`
		TokenRatioPermille int64 `json:"token_ratio_permille"`
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	b := NewRetryBudget(c.MaxTokens, c.TokenRatioPermille)
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			Op string `json:"op"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		switch in.Op {
		case "may_retry":
			return map[string]any{"allow": b.MayRetry(), "tokens_milli": b.TokensMilli()}, nil
		case "failure":
			b.Failure()
		case "success":
			b.Success()
		case "ignored":
		default:
			return nil, fmt.Errorf("unknown op %q", in.Op)
		}
		return map[string]any{"tokens_milli": b.TokensMilli()}, nil
	}, nil
}

func backoffMachine(raw json.RawMessage) (machine, error) {
	var c struct {
		InitialMs          int64 `json:"initial_ms"`
		MaxMs              int64 `json:"max_ms"`
		MultiplierPermille int64 `json:"multiplier_permille"`
		JitterLowPermille  int64 `json:"jitter_low_permille"`
		JitterHighPermille int64 `json:"jitter_high_permille"`
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	b := Backoff(c)
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			Attempt    int    `json:"attempt"`
			RndPPM     int64  `json:"rnd_ppm"`
			PushbackMs *int64 `json:"pushback_ms"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		if in.PushbackMs != nil {
			return map[string]any{"delay_ms": PushbackDelayMs(*in.PushbackMs)}, nil
		}
		return map[string]any{"delay_ms": b.DelayMs(in.Attempt, in.RndPPM)}, nil
	}, nil
}

func deadlineMachine(raw json.RawMessage) (machine, error) {
	var c struct {
		DefaultMs   int64 `json:"default_ms"`
		MaxMs       int64 `json:"max_ms"`
		HopMarginMs int64 `json:"hop_margin_ms"`
		MinUsefulMs int64 `json:"min_useful_ms"`
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	p := DeadlinePolicy(c)
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			InboundLeftMs *int64 `json:"inbound_left_ms"`
			WantMs        *int64 `json:"want_ms"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		timeout, ok := p.TimeoutMs(in.InboundLeftMs, in.WantMs)
		if !ok {
			return map[string]any{"refuse": "DEADLINE_EXCEEDED"}, nil
		}
		return map[string]any{"timeout_ms": timeout}, nil
	}, nil
}
