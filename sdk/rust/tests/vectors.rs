//! The shared vectors of interop/vectors: this SDK's state machines give exactly the outputs of every other one's.

use plait::breaker::{Breaker, Config, Outcome, Permit, State};
use plait::deadline::Policy;
use plait::retry::{Backoff, Budget};
use serde_json::{Value, json};

/// Kinds whose machines are not public; the tests of the channel of direct calls run them.
const ELSEWHERE: [&str; 1] = ["limiter"];

#[test]
fn every_step_of_every_vector_is_the_same() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../interop/vectors/resilience.json"
    );
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors")).expect("JSON");
    assert_eq!(document["schema"], 1);
    let mut kinds = Vec::new();
    for vector in document["vectors"].as_array().expect("vectors") {
        let kind = vector["kind"].as_str().expect("a kind");
        if ELSEWHERE.contains(&kind) {
            continue;
        }
        kinds.push(kind);
        let mut machine = machine(kind, &vector["config"]);
        for (number, step) in vector["steps"]
            .as_array()
            .expect("steps")
            .iter()
            .enumerate()
        {
            let got = machine(&step["in"]);
            assert_eq!(
                got, step["out"],
                "{} step {number}: {}",
                vector["name"], step["in"]
            );
        }
    }
    for kind in ["breaker", "retry_budget", "backoff", "deadline"] {
        assert!(kinds.contains(&kind), "no vector of {kind} was run");
    }
}

#[test]
#[should_panic(expected = "unknown kind")]
fn an_unknown_kind_is_an_error() {
    drop(machine("hedge", &json!({})));
}

#[test]
#[should_panic(expected = "unknown op")]
fn an_unknown_op_is_an_error() {
    machine(
        "retry_budget",
        &json!({"max_tokens": 1, "token_ratio_permille": 1}),
    )(&json!({"op": "no"}));
}

#[test]
fn a_step_that_says_more_is_an_error() {
    let config = json!({
        "initial_ms": 1, "max_ms": 1, "multiplier_permille": 1, "jitter_low_permille": 1,
        "jitter_high_permille": 1, "default_ms": 1, "hop_margin_ms": 1, "min_useful_ms": 1,
    });
    for kind in ["backoff", "deadline"] {
        let mut machine = machine(kind, &config);
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            machine(&json!({"op": "guess"}))
        }));
        assert!(refused.is_err(), "{kind} took an unknown operation");
    }
}

type Machine = Box<dyn FnMut(&Value) -> Value>;

fn machine(kind: &str, config: &Value) -> Machine {
    match kind {
        "breaker" => breaker(config),
        "retry_budget" => budget(config),
        "backoff" => backoff(config),
        "deadline" => deadline(config),
        _ => panic!("unknown kind {kind:?}"),
    }
}

/// Refuses a step that says more than its machine knows.
fn only(step: &Value, known: &[&str]) {
    for field in step.as_object().expect("a step").keys() {
        assert!(
            known.contains(&field.as_str()),
            "unknown op: {field} in {step}"
        );
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} of {value}"))
}

fn breaker(config: &Value) -> Machine {
    let mut breaker = Breaker::new(Config {
        window_ms: number(config, "window_ms"),
        buckets: number(config, "buckets"),
        min_calls: number(config, "min_calls"),
        failure_permille: number(config, "failure_permille"),
        open_ms: number(config, "open_ms"),
        open_max_ms: number(config, "open_max_ms"),
        half_open_probes: number(config, "half_open_probes"),
        half_open_max_ms: number(config, "half_open_max_ms"),
    });
    Box::new(move |step| {
        only(step, &["op", "t", "gen", "outcome"]);
        let now = number(step, "t");
        match step["op"].as_str() {
            Some("acquire") => match breaker.acquire(now) {
                Permit::Granted { generation } => {
                    json!({"allow": true, "state": state(&breaker), "gen": generation})
                }
                Permit::Refused { retry_after_ms } => {
                    json!({"allow": false, "state": state(&breaker), "retry_after_ms": retry_after_ms})
                }
            },
            Some("report") => {
                let outcome = match step["outcome"].as_str() {
                    Some("success") => Outcome::Success,
                    Some("failure") => Outcome::Failure,
                    Some("ignore") => Outcome::Ignore,
                    other => panic!("unknown outcome {other:?}"),
                };
                let counted = breaker.report(now, number(step, "gen"), outcome);
                json!({"state": state(&breaker), "counted": counted})
            }
            op => panic!("unknown op {op:?}"),
        }
    })
}

fn state(breaker: &Breaker) -> &'static str {
    match breaker.state() {
        State::Closed => "CLOSED",
        State::Open => "OPEN",
        State::HalfOpen => "HALF_OPEN",
    }
}

fn budget(config: &Value) -> Machine {
    let mut budget = Budget::new(
        number(config, "max_tokens"),
        number(config, "token_ratio_permille"),
    );
    Box::new(move |step| {
        only(step, &["op"]);
        match step["op"].as_str() {
            Some("may_retry") => {
                return json!({"allow": budget.may_retry(), "tokens_milli": budget.tokens_milli()});
            }
            Some("failure") => budget.failure(),
            Some("success") => budget.success(),
            Some("ignored") => {}
            op => panic!("unknown op {op:?}"),
        }
        json!({"tokens_milli": budget.tokens_milli()})
    })
}

fn backoff(config: &Value) -> Machine {
    let backoff = Backoff {
        initial_ms: number(config, "initial_ms"),
        max_ms: number(config, "max_ms"),
        multiplier_permille: number(config, "multiplier_permille"),
        jitter_low_permille: number(config, "jitter_low_permille"),
        jitter_high_permille: number(config, "jitter_high_permille"),
    };
    Box::new(move |step| {
        only(step, &["attempt", "rnd_ppm", "pushback_ms"]);
        if let Some(pushback) = step["pushback_ms"].as_i64() {
            return match Backoff::pushback(pushback) {
                Some(delay) => json!({"delay_ms": delay}),
                None => json!({"delay_ms": -1}),
            };
        }
        let small = |key| u32::try_from(number(step, key)).expect("a small number");
        json!({"delay_ms": backoff.delay_ms(small("attempt"), small("rnd_ppm"))})
    })
}

fn deadline(config: &Value) -> Machine {
    let signed = |key: &str| {
        config[key]
            .as_i64()
            .unwrap_or_else(|| panic!("{key} of {config}"))
    };
    let policy = Policy {
        default_ms: signed("default_ms"),
        max_ms: signed("max_ms"),
        hop_margin_ms: signed("hop_margin_ms"),
        min_useful_ms: signed("min_useful_ms"),
    };
    Box::new(move |step| {
        only(step, &["inbound_left_ms", "want_ms"]);
        match policy.timeout_ms(step["inbound_left_ms"].as_i64(), step["want_ms"].as_i64()) {
            Some(timeout) => json!({"timeout_ms": timeout}),
            None => json!({"refuse": "DEADLINE_EXCEEDED"}),
        }
    })
}
