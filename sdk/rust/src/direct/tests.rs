//! What stands before the attempts of direct calls, and what holds for them. The machines have their vectors, and the
//! whole has tests/system.

use super::call::pushback_of;
use super::guards::{Entry, Guard, Guards};
use super::marks::{Mark, PUSHBACK, stop_above};
use super::rules::{Rules, Said, methods};
use super::verdicts::Codes;
use crate::errors::{self, ErrorReason};
use crate::pb::v1::{GetContractResponse, KeyPath, MethodInfo};
use crate::{breaker, clock, limiter, pb};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};

const SERVICE: &str = "testing.v1.EchoService";
const MINUTE: Duration = Duration::from_secs(60);

fn guard(rules: &Rules) -> Arc<Guard> {
    Guards::default().of(&format!("/{SERVICE}/Echo"), rules)
}

async fn enter(guard: &Arc<Guard>) -> Result<Entry, Status> {
    guard.enter(clock::now() + MINUTE).await
}

fn limited(max: u32, waiting_max: u32) -> Rules {
    let limiter = limiter::Config {
        initial: max,
        max,
        waiting_max,
        ..limiter::Config::default()
    };
    Rules {
        breaker: None,
        limiter: Some(limiter),
        ..Rules::default()
    }
}

#[tokio::test]
async fn those_over_the_limit_come_in_by_turns_and_too_many_are_refused() {
    let guard = guard(&limited(1, 2));
    let first = enter(&guard).await.expect("a place");
    let mut second = tokio_test::task::spawn(enter(&guard));
    let mut third = tokio_test::task::spawn(enter(&guard));
    assert!(second.poll().is_pending() && third.poll().is_pending());
    let refused = enter(&guard).await.expect_err("the line is full");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(errors::reason(&refused), Some(ErrorReason::QueueFull));
    assert!(errors::retry_after(&refused) >= Some(Duration::from_millis(10)));
    assert!(guard.enter_now().is_none());
    first.end(Code::Ok);
    assert!(third.poll().is_pending());
    let second = second.await.expect("a place");
    second.end(Code::Ok);
    third.await.expect("a place").end(Code::Ok);
    assert!(guard.enter_now().is_some());
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_no_gap() {
    let guard = guard(&limited(1, 2));
    let first = enter(&guard).await.expect("a place");
    let mut gone = tokio_test::task::spawn(enter(&guard));
    let mut admitted = tokio_test::task::spawn(enter(&guard));
    assert!(gone.poll().is_pending() && admitted.poll().is_pending());
    drop(gone);
    let mut last = tokio_test::task::spawn(enter(&guard));
    assert!(last.poll().is_pending());
    first.end(Code::Ok);
    // It is let in, and does not come.
    drop(admitted);
    last.await.expect("a place").end(Code::Ok);
}

#[tokio::test]
async fn the_wait_ends_with_the_deadline() {
    let guard = guard(&limited(1, 2));
    let _first = enter(&guard).await.expect("a place");
    let late = guard.enter(clock::now()).await.expect_err("no time");
    assert_eq!(late.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn an_open_breaker_refuses_and_a_probe_that_was_left_gives_its_permit_back() {
    let breaker = breaker::Config {
        min_calls: 1,
        open_ms: 1,
        half_open_probes: 1,
        ..breaker::Config::default()
    };
    let guard = guard(&Rules {
        breaker: Some(breaker),
        limiter: None,
        ..Rules::default()
    });
    enter(&guard).await.expect("a place").end(Code::Unavailable);
    let probe = loop {
        match enter(&guard).await {
            Ok(entry) => break entry,
            Err(status) => {
                assert_eq!(errors::reason(&status), Some(ErrorReason::BreakerOpen));
                assert!(errors::retry_after(&status).is_some());
            }
        }
    };
    let refused = enter(&guard).await.expect_err("one probe is under way");
    assert_eq!(refused.code(), Code::Unavailable);
    drop(probe);
    enter(&guard).await.expect("another probe").end(Code::Ok);
}

#[test]
fn a_budget_is_one_for_a_service() {
    let guards = Guards::default();
    let [one, other] = ["Echo", "Fail"].map(|name| {
        let path = format!("/{SERVICE}/{name}");
        guards.of(&path, &Rules::default())
    });
    one.budget().failure();
    assert_eq!(other.budget().tokens_milli(), 9_000);
}

#[test]
fn the_longer_pushback_counts_and_an_unreadable_one_is_stop() {
    let said = |values: &[&'static str]| {
        let mut status = Status::unavailable("down");
        for value in values {
            let value = value.parse().expect("a value");
            status
                .metadata_mut()
                .append("grpc-retry-pushback-ms", value);
        }
        pushback_of(&status)
    };
    assert_eq!(said(&[]), None);
    assert_eq!(said(&["20", "30"]), Some(30));
    assert_eq!(said(&["20", "-1"]), Some(-1));
    assert_eq!(said(&["soon"]), Some(-1));
    let message = "in a while".to_owned();
    let after = Duration::from_millis(70);
    let mut status = errors::refusal_after(ErrorReason::Draining, message, [], after);
    assert_eq!(pushback_of(&status), Some(70));
    let shorter = "50".parse().expect("a value");
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", shorter);
    assert_eq!(pushback_of(&status), Some(70));
}

#[tokio::test]
async fn only_a_failure_to_retry_is_marked() {
    for (code, below, told) in [
        (Code::Unavailable, true, true),
        (Code::Unavailable, false, false),
        (Code::NotFound, true, false),
    ] {
        let mark = Mark::default();
        let handler = async {
            if below {
                stop_above();
            }
        };
        mark.around(handler).await;
        let response = Status::new(code, "no").into_http::<()>();
        let mut headers = response.headers().clone();
        mark.tell(&mut headers);
        assert_eq!(headers.contains_key(&PUSHBACK), told, "{code:?} {below}");
    }
}

fn info(name: &str) -> MethodInfo {
    MethodInfo {
        method: format!("/{SERVICE}/{name}"),
        ..MethodInfo::default()
    }
}

#[test]
fn rules_are_those_of_the_contract() {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let keyed = MethodInfo {
        idempotency_key: Some(KeyPath::default()),
        ..info("Append")
    };
    let short = MethodInfo {
        attempt_timeout: seconds(5),
        deadline: seconds(600),
        ..info("Sleep")
    };
    let answer = GetContractResponse {
        descriptor_set: pb::FILE_DESCRIPTOR_SET.into(),
        methods: vec![info("Echo"), info("Fail"), info("Once"), keyed, short],
        ..GetContractResponse::default()
    };
    let found = methods(SERVICE, &answer);
    let of = |name: &str| &found[&format!("/{SERVICE}/{name}")];
    assert_eq!((of("Once").max_attempts, of("Fail").max_attempts), (1, 3));
    assert!(of("Append").idempotent && !of("Echo").idempotent);
    assert!(of("Echo").breaker.is_some() && of("Fail").breaker.is_none());
    assert_eq!(of("Sleep").timeout, Duration::from_secs(5));
    assert!(!of("Echo").hedge);
    assert_eq!(of("Echo").never, Codes::default());
}

#[test]
fn options_win_over_the_contract_within_bounds() {
    let rules = Rules::default();
    assert_eq!(rules.clone().under(&Said::default()), rules);
    let said = Said {
        max_attempts: Some(9),
        hedge_delay: Some(Duration::ZERO),
        breaker: Some(None),
        limiter: Some(None),
        ..Said::default()
    };
    let found = rules.under(&said);
    assert_eq!((found.max_attempts, found.hedge_delay_ms), (5, Some(1)));
    assert_eq!((found.breaker, found.limiter), (None, None));
}
