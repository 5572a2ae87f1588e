//! interop/vectors/calls.json, and the limiter of resilience.json: the machines of a direct call give exactly the
//! outputs of every other language's.

use super::attempts::{Hedge, HedgeDelay, Move, Next, Retry};
use super::gradient;
use super::gradient::{Admission, Gradient, Limiter, Outcome};
use super::verdicts::{Codes, for_breaker, for_limiter, verdict};
use crate::breaker;
use crate::limiter::Config;
use crate::retry::{Backoff, Budget};
use serde_json::{Value, json};
use tonic::Code;

const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const KINDS: [&str; 7] = [
    "status_class",
    "retry",
    "hedge",
    "hedge_delay",
    "limiter_drop",
    "call_limiter",
    "limiter",
];

fn vectors_of(file: &str) -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../interop/vectors/");
    let text = std::fs::read_to_string(format!("{folder}{file}")).expect("the vectors");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["schema"], 1);
    document["vectors"].as_array().expect("vectors").clone()
}

#[test]
fn every_step_of_every_vector_is_the_same() {
    let mut vectors = vectors_of("calls.json");
    let others = vectors_of("resilience.json").into_iter();
    vectors.extend(others.filter(|vector| vector["kind"] == "limiter"));
    let mut kinds = Vec::new();
    for vector in &vectors {
        let kind = vector["kind"].as_str().expect("a kind");
        kinds.push(kind);
        let mut machine = machine(kind, &vector["config"]);
        let steps = vector["steps"].as_array().expect("steps");
        for (number, step) in steps.iter().enumerate() {
            let got = machine(&step["in"]);
            let name = &vector["name"];
            assert_eq!(got, step["out"], "{name} step {number}: {}", step["in"]);
        }
    }
    for kind in KINDS {
        assert!(kinds.contains(&kind), "no vector of {kind} was run");
    }
}

#[test]
#[should_panic(expected = "unknown kind")]
fn an_unknown_kind_is_an_error() {
    drop(machine("guess", &json!({})));
}

#[test]
fn a_step_that_says_more_is_an_error() {
    let config = json!({
        "max_attempts": 1, "deadline_ms": 1, "idempotent": false, "initial_ms": 1, "max_ms": 1,
        "multiplier_permille": 1,
        "jitter_low_permille": 1, "jitter_high_permille": 1, "max_tokens": 1, "token_ratio_permille": 1, "delay_ms": 1,
        "samples": 1, "samples_min": 1, "permille": 1, "delay_ms_min": 1, "initial": 1, "min": 1, "max": 1, "queue": 1,
        "tolerance_permille": 1, "smoothing_permille": 1, "long_window": 1, "warmup": 1, "window_ms": 1,
        "window_calls": 1, "waiting_max": 1,
    });
    for kind in KINDS {
        for step in [json!({"op": "guess", "t": 0}), json!({"more": 1})] {
            let mut machine = machine(kind, &config);
            let run = std::panic::AssertUnwindSafe(|| machine(&step));
            assert!(std::panic::catch_unwind(run).is_err(), "{kind} took {step}");
        }
    }
}

type Machine = Box<dyn FnMut(&Value) -> Value>;

fn machine(kind: &str, config: &Value) -> Machine {
    match kind {
        "status_class" => Box::new(status_class),
        "retry" => retry(config),
        "hedge" => hedge(config),
        "hedge_delay" => hedge_delay(config),
        "limiter_drop" => gradient_of(config, &["rtt_us", "inflight", "dropped"]),
        "limiter" => gradient_of(config, &["rtt_us", "inflight"]),
        "call_limiter" => call_limiter(config),
        _ => panic!("unknown kind {kind:?}"),
    }
}

/// Refuses a step that says more than its machine knows.
fn only(step: &Value, known: &[&str]) {
    for field in step.as_object().expect("a step").keys() {
        assert!(known.contains(&field.as_str()), "{field} in {step}");
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} of {value}"))
}

fn small(value: &Value, key: &str) -> u32 {
    u32::try_from(number(value, key)).expect("a small number")
}

fn code(step: &Value) -> Code {
    let found = CODES.iter().position(|code| step["code"] == *code);
    Code::from_i32(i32::try_from(found.expect("a code")).expect("small"))
}

fn budget(config: &Value) -> Budget {
    let ratio = number(config, "token_ratio_permille");
    Budget::new(number(config, "max_tokens"), ratio)
}

fn status_class(step: &Value) -> Value {
    only(step, &["code", "idempotent", "pushback_ms"]);
    let idempotent = step["idempotent"].as_bool().expect("a flag");
    let found = code(step);
    let told = verdict(
        found,
        idempotent,
        step["pushback_ms"].as_i64(),
        Codes::default(),
    );
    let pays = match (found, told.costs) {
        (Code::Ok, _) => "success",
        (_, true) => "failure",
        _ => "none",
    };
    let breaker = match for_breaker(found) {
        breaker::Outcome::Success => "success",
        breaker::Outcome::Failure => "failure",
        breaker::Outcome::Ignore => "ignore",
    };
    let limiter = match for_limiter(found) {
        gradient::Outcome::Ok => "ok",
        gradient::Outcome::Drop => "drop",
        gradient::Outcome::Ignore => "ignore",
    };
    json!({"retry": told.retry, "budget": pays, "breaker": breaker, "limiter": limiter})
}

fn retry(config: &Value) -> Machine {
    let (config, mut budget) = (config.clone(), budget(config));
    let mut retry = None;
    Box::new(move |step| {
        only(step, &["op", "t", "code", "pushback_ms", "rnd_ppm"]);
        let now = number(step, "t");
        match step["op"].as_str() {
            Some("start") => {
                let end = now + number(&config, "deadline_ms");
                let idempotent = config["idempotent"].as_bool().expect("a flag");
                let attempts = small(&config, "max_attempts");
                let mut made = Retry::new(attempts, end, idempotent, Codes::default());
                made.backoff = Backoff {
                    initial_ms: number(&config, "initial_ms"),
                    max_ms: number(&config, "max_ms"),
                    multiplier_permille: number(&config, "multiplier_permille"),
                    jitter_low_permille: number(&config, "jitter_low_permille"),
                    jitter_high_permille: number(&config, "jitter_high_permille"),
                };
                retry = Some(made);
                json!({"send": 1})
            }
            Some("status") => {
                let retry = retry.as_mut().expect("a start");
                let drawn = (now, small(step, "rnd_ppm"));
                let pushback = step["pushback_ms"].as_i64();
                let next = retry.status(&mut budget, drawn, code(step), pushback);
                let tokens = budget.tokens_milli();
                match next {
                    Next::Send { attempt, at_ms } => {
                        json!({"send": attempt, "at": at_ms, "tokens_milli": tokens})
                    }
                    Next::End { stop_above } => {
                        json!({"end": true, "stop_above": stop_above, "tokens_milli": tokens})
                    }
                }
            }
            op => panic!("unknown op {op:?}"),
        }
    })
}

fn hedge(config: &Value) -> Machine {
    let (config, mut budget) = (config.clone(), budget(config));
    let mut hedge = None;
    Box::new(move |step| {
        only(step, &["op", "t", "attempt", "code", "pushback_ms"]);
        let now = number(step, "t");
        let made = if step["op"] == "start" {
            let (attempts, delay) = (small(&config, "max_attempts"), number(&config, "delay_ms"));
            let end = now + number(&config, "deadline_ms");
            hedge.insert(Hedge::new(attempts, delay, end, Codes::default()))
        } else {
            hedge.as_mut().expect("a start")
        };
        let moved = match step["op"].as_str() {
            Some("start") => made.start(now),
            Some("wake") => made.wake(&budget, now),
            Some("refused") => made.refused(small(step, "attempt")),
            Some("status") => {
                let about = (now, small(step, "attempt"));
                let pushback = step["pushback_ms"].as_i64();
                made.status(&mut budget, about, code(step), pushback)
            }
            op => panic!("unknown op {op:?}"),
        };
        told(&moved, budget.tokens_milli())
    })
}

fn told(moved: &Move, tokens: u64) -> Value {
    let end = moved.end.map(|end| {
        let code = CODES[end.code as usize];
        json!({"attempt": end.attempt, "code": code, "stop_above": end.stop_above})
    });
    json!({
        "send": moved.send, "wake": moved.wake_ms, "cancel": moved.cancel, "end": end, "tokens_milli": tokens,
    })
}

fn hedge_delay(config: &Value) -> Machine {
    let size = |key| usize::try_from(number(config, key)).expect("small");
    let least = number(config, "delay_ms_min");
    let mut delay = HedgeDelay::new(
        size("samples"),
        size("samples_min"),
        size("permille"),
        least,
    );
    Box::new(move |step| {
        only(step, &["latency_ms"]);
        delay.add(number(step, "latency_ms"));
        json!({"delay_ms": delay.delay_ms()})
    })
}

fn config_of(config: &Value) -> Config {
    Config {
        initial: small(config, "initial"),
        min: small(config, "min"),
        max: small(config, "max"),
        queue: small(config, "queue"),
        tolerance_permille: small(config, "tolerance_permille"),
        smoothing_permille: small(config, "smoothing_permille"),
        long_window: small(config, "long_window"),
        warmup: small(config, "warmup"),
        ..Config::default()
    }
}

fn gradient_of(config: &Value, known: &'static [&'static str]) -> Machine {
    let mut gradient = Gradient::new(config_of(config));
    Box::new(move |step| {
        only(step, known);
        let dropped = step["dropped"].as_bool().unwrap_or(false);
        let limit = gradient.sample(small(step, "rtt_us"), small(step, "inflight"), dropped);
        json!({"limit": limit})
    })
}

fn call_limiter(config: &Value) -> Machine {
    let mut limiter = Limiter::new(Config {
        window_ms: number(config, "window_ms"),
        window_calls: number(config, "window_calls"),
        waiting_max: small(config, "waiting_max"),
        ..config_of(config)
    });
    Box::new(move |step| {
        only(step, &["op", "t", "rtt_us", "outcome"]);
        let mut out = match step["op"].as_str() {
            Some("acquire") => match limiter.acquire() {
                Admission::Now => json!({"admit": "now"}),
                Admission::Wait => json!({"admit": "wait"}),
                Admission::Refuse => json!({"admit": "refuse"}),
            },
            Some("leave") => {
                limiter.leave();
                json!({})
            }
            Some("release") => {
                let outcome = match step["outcome"].as_str() {
                    Some("ok") => Outcome::Ok,
                    Some("drop") => Outcome::Drop,
                    Some("ignore") => Outcome::Ignore,
                    other => panic!("unknown outcome {other:?}"),
                };
                let (now, rtt) = (number(step, "t"), small(step, "rtt_us"));
                json!({"admitted": limiter.release(now, rtt, outcome)})
            }
            op => panic!("unknown op {op:?}"),
        };
        out["limit"] = limiter.limit().into();
        out["inflight"] = limiter.inflight().into();
        out["waiting"] = limiter.waiting().into();
        out
    })
}
