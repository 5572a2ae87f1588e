package plait

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
)

// The vectors of direct calls that all languages share; interop/vectors/README.md says what they are.
const callVectorsFile = "../../interop/vectors/calls.json"

var callKinds = map[string]func(config json.RawMessage) (machine, error){
	"call_limiter": callLimiterMachine,
	"hedge":        hedgeMachine,
	"hedge_delay":  hedgeDelayMachine,
	"limiter_drop": dropMachine,
	"retry":        retryMachine,
	"status_class": statusClassMachine,
}

func TestCallVectors_AllMachinesAgree(t *testing.T) {
	t.Parallel()
	runVectors(t, callVectorsFile, 16, callKinds)
}

func TestCallVectors_UnknownOpIsAnError(t *testing.T) {
	t.Parallel()
	refuseUnknown(t, callKinds)
}

// codeNamed is a code by the name that gRPC has for it.
func codeNamed(name string) (code codes.Code, err error) {
	err = code.UnmarshalJSON([]byte(strconv.Quote(name)))
	return code, err
}

func statusClassMachine(raw json.RawMessage) (machine, error) {
	if err := strict(raw, &struct{}{}); err != nil {
		return nil, err
	}
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			Code       string `json:"code"`
			Idempotent bool   `json:"idempotent"`
			PushbackMs *int64 `json:"pushback_ms"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		code, err := codeNamed(in.Code)
		if err != nil {
			return nil, err
		}
		found := verdictOf(code, in.Idempotent, in.PushbackMs, nil)
		budget := "none"
		if code == codes.OK {
			budget = "success"
		} else if found.costs {
			budget = "failure"
		}
		return map[string]any{
			"retry": found.retry, "budget": budget, "breaker": forBreaker(code),
			"limiter": forLimiter(code),
		}, nil
	}, nil
}

func retryMachine(raw json.RawMessage) (machine, error) {
	var c struct {
		MaxAttempts        int   `json:"max_attempts"`
		DeadlineMs         int64 `json:"deadline_ms"`
		Idempotent         bool  `json:"idempotent"`
		InitialMs          int64 `json:"initial_ms"`
		MaxMs              int64 `json:"max_ms"`
		MultiplierPermille int64 `json:"multiplier_permille"`
		JitterLowPermille  int64 `json:"jitter_low_permille"`
		JitterHighPermille int64 `json:"jitter_high_permille"`
		MaxTokens          int64 `json:"max_tokens"`
		TokenRatioPermille int64 `json:"token_ratio_permille"`
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	budget := NewRetryBudget(c.MaxTokens, c.TokenRatioPermille)
	var r *retrying
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			Op         string `json:"op"`
			T          int64  `json:"t"`
			Code       string `json:"code"`
			PushbackMs *int64 `json:"pushback_ms"`
			RndPPM     int64  `json:"rnd_ppm"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		switch in.Op {
		case "start":
			r = &retrying{
				budget: budget, maxAttempts: c.MaxAttempts, endMs: in.T + c.DeadlineMs,
				idempotent: c.Idempotent, backoff: Backoff{
					c.InitialMs, c.MaxMs, c.MultiplierPermille, c.JitterLowPermille, c.JitterHighPermille,
				},
			}
			r.start()
			return map[string]any{"send": 1}, nil
		case "status":
		default:
			return nil, fmt.Errorf("unknown op %q", in.Op)
		}
		code, err := codeNamed(in.Code)
		if err != nil {
			return nil, err
		}
		next := r.status(in.T, code, in.PushbackMs, in.RndPPM)
		if next.send == 0 {
			return map[string]any{
				"end": true, "stop_above": next.stopAbove, "tokens_milli": budget.TokensMilli(),
			}, nil
		}
		return map[string]any{
			"send": next.send, "at": next.atMs, "tokens_milli": budget.TokensMilli(),
		}, nil
	}, nil
}

func hedgeMachine(raw json.RawMessage) (machine, error) {
	var c struct {
		MaxAttempts        int   `json:"max_attempts"`
		DelayMs            int64 `json:"delay_ms"`
		DeadlineMs         int64 `json:"deadline_ms"`
		MaxTokens          int64 `json:"max_tokens"`
		TokenRatioPermille int64 `json:"token_ratio_permille"`
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	budget := NewRetryBudget(c.MaxTokens, c.TokenRatioPermille)
	var h *hedging
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			Op         string `json:"op"`
			T          int64  `json:"t"`
			Attempt    int    `json:"attempt"`
			Code       string `json:"code"`
			PushbackMs *int64 `json:"pushback_ms"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		var move hedgeMove
		switch in.Op {
		case "start":
			h = &hedging{
				budget: budget, maxAttempts: c.MaxAttempts, delayMs: c.DelayMs, endMs: in.T + c.DeadlineMs,
			}
			move = h.start(in.T)
		case "wake":
			move = h.wake(in.T)
		case "refused":
			move = h.refused(in.Attempt)
		case "status":
			code, err := codeNamed(in.Code)
			if err != nil {
				return nil, err
			}
			move = h.status(in.T, in.Attempt, code, in.PushbackMs)
		default:
			return nil, fmt.Errorf("unknown op %q", in.Op)
		}
		return hedgeOut(move, budget), nil
	}, nil
}

func hedgeOut(move hedgeMove, budget *RetryBudget) map[string]any {
	out := map[string]any{
		"send": nil, "wake": nil, "cancel": append([]int{}, move.cancel...), "end": nil,
		"tokens_milli": budget.TokensMilli(),
	}
	if move.send != 0 {
		out["send"] = move.send
	}
	if !move.over {
		out["wake"] = move.wakeMs
	}
	if end := move.end; end != nil {
		name := map[codes.Code]string{
			codes.OK: "OK", codes.Unavailable: "UNAVAILABLE", codes.Internal: "INTERNAL",
			codes.NotFound: "NOT_FOUND", codes.DeadlineExceeded: "DEADLINE_EXCEEDED",
			codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
		}[end.code]
		out["end"] = map[string]any{
			"attempt": end.attempt, "code": name, "stop_above": end.stopAbove,
		}
	}
	return out
}

func hedgeDelayMachine(raw json.RawMessage) (machine, error) {
	var c struct {
		Samples    int   `json:"samples"`
		SamplesMin int   `json:"samples_min"`
		Permille   int64 `json:"permille"`
		DelayMsMin int64 `json:"delay_ms_min"`
	}
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	d := &hedgeDelay{
		samples: c.Samples, samplesMin: c.SamplesMin, permille: c.Permille, delayMin: c.DelayMsMin,
	}
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			LatencyMs int64 `json:"latency_ms"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		d.add(in.LatencyMs)
		if ms, ok := d.delayMs(); ok {
			return map[string]any{"delay_ms": ms}, nil
		}
		return map[string]any{"delay_ms": nil}, nil
	}, nil
}

// gradientVector is what a vector says of a limiter.
type gradientVector struct {
	Initial           int64 `json:"initial"`
	Min               int64 `json:"min"`
	Max               int64 `json:"max"`
	Queue             int64 `json:"queue"`
	TolerancePermille int64 `json:"tolerance_permille"`
	SmoothingPermille int64 `json:"smoothing_permille"`
	LongWindow        int64 `json:"long_window"`
	Warmup            int64 `json:"warmup"`
	WindowMs          int64 `json:"window_ms"`
	WindowCalls       int64 `json:"window_calls"`
	WaitingMax        int64 `json:"waiting_max"`
}

func limiterMachine(raw json.RawMessage) (machine, error) {
	var c gradientVector
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	g := newGradient(LimiterConfig(c))
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			RttUs    int64 `json:"rtt_us"`
			Inflight int64 `json:"inflight"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		return map[string]any{"limit": g.sample(in.RttUs, in.Inflight, false)}, nil
	}, nil
}

func dropMachine(raw json.RawMessage) (machine, error) {
	var c gradientVector
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	g := newGradient(LimiterConfig(c))
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			RttUs    int64 `json:"rtt_us"`
			Inflight int64 `json:"inflight"`
			Dropped  bool  `json:"dropped"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		return map[string]any{"limit": g.sample(in.RttUs, in.Inflight, in.Dropped)}, nil
	}, nil
}

func callLimiterMachine(raw json.RawMessage) (machine, error) {
	var c gradientVector
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	l := newCallLimiter(LimiterConfig(c))
	return func(raw json.RawMessage) (map[string]any, error) {
		var in struct {
			Op      string         `json:"op"`
			T       int64          `json:"t"`
			RttUs   int64          `json:"rtt_us"`
			Outcome limiterOutcome `json:"outcome"`
		}
		if err := strict(raw, &in); err != nil {
			return nil, err
		}
		out := map[string]any{}
		switch in.Op {
		case "acquire":
			out["admit"] = l.acquire()
		case "leave":
			l.leave()
		case "release":
			switch in.Outcome {
			case limiterOK, limiterDrop, limiterIgnore:
			default:
				return nil, fmt.Errorf("unknown outcome %q", in.Outcome)
			}
			out["admitted"] = l.release(in.T, in.RttUs, in.Outcome)
		default:
			return nil, fmt.Errorf("unknown op %q", in.Op)
		}
		out["limit"], out["inflight"], out["waiting"] = l.gradient.limit(), l.inflight, l.waiting
		return out, nil
	}, nil
}
