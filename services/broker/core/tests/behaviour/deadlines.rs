//! Deadlines, delays, attempt timeouts.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::record::*;

fn short(deadline_ms: u64) -> SubmitTask {
    let options = SubmitOptions {
        deadline_ms: Some(deadline_ms),
        ..SubmitOptions::default()
    };
    with(task(METHOD), options)
}

fn delayed(delay_ms: u64, deadline_ms: Option<u64>) -> SubmitTask {
    with(
        task(METHOD),
        SubmitOptions {
            delay_ms,
            deadline_ms,
            ..SubmitOptions::default()
        },
    )
}

#[test]
fn a_task_that_cannot_start_in_time_expires_at_its_deadline() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(short(1_000));
    assert!(h.advance(999).is_empty());
    assert_eq!(h.state(id), TaskState::Ready);
    let effects = h.advance(1);
    assert_eq!(h.state(id), TaskState::Expired);
    let (state, failure) = results(&effects, CLIENT)[0]
        .result
        .clone()
        .expect_err("it expired");
    assert_eq!(state, TaskState::Expired);
    assert_eq!(
        (failure.code, failure.reason),
        (4, Some(Reason::ExpiredBeforeStart))
    );
    assert_eq!(h.view(id).ended_at, START + 1_000);
}

#[test]
fn a_task_that_runs_past_its_deadline_expires_and_its_attempt_is_stopped() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(short(1_000));
    let first = attempt(&effects, WORKER);
    assert_eq!(
        first.timeout_ms, 1_000,
        "the shorter of remainder and attempt timeout"
    );
    h.accept(WORKER, 1);
    let effects = h.advance(1_000);
    assert_eq!(
        stops(&effects, WORKER),
        [(id, first.token, StopReason::Expired)]
    );
    let (_, failure) = results(&effects, CLIENT)[0]
        .result
        .clone()
        .expect_err("it expired");
    assert_eq!(failure.reason, Some(Reason::ExpiredWhileRunning));
    let late = h.succeed(WORKER, &first);
    assert_eq!(refused(&late).len(), 1);
    assert_eq!(h.state(id), TaskState::Expired);
}

#[test]
fn a_handler_that_ends_at_the_deadline_before_the_timer_does_is_expired_too() {
    for (told_at, code, want) in [
        (1_000, 4, TaskState::Expired),
        (1_030, 4, TaskState::Expired),
        (1_000, 3, TaskState::Failed),
        // The times of groups that began earlier.
        (600, 4, TaskState::Expired),
        (400, 4, TaskState::Failed),
    ] {
        let mut policy = policy(METHOD);
        policy.retryable.0 = 0;
        let mut h = Harness::with_policies(config(), vec![policy]);
        h.attach(WORKER, "w1", &[METHOD], 4);
        let (id, effects) = h.submit_one(short(1_000));
        let first = attempt(&effects, WORKER);
        h.accept(WORKER, 1);
        h.now += told_at;
        let effects = h.fail(WORKER, &first, code);
        assert!(
            refused(&effects).is_empty(),
            "it is this attempt's own word"
        );
        assert!(stops(&effects, WORKER).is_empty(), "nothing runs any more");
        assert_eq!(h.state(id), want);
        let (_, failure) = results(&effects, CLIENT)[0]
            .result
            .clone()
            .expect_err("it did not succeed");
        let expired = failure.reason == Some(Reason::ExpiredWhileRunning);
        assert_eq!(expired, want == TaskState::Expired);
    }
}

#[test]
fn no_attempt_starts_at_or_past_the_deadline_even_if_no_tick_came() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(short(1_000));
    h.now += 1_000;
    let effects = h.attach(WORKER, "w1", &[METHOD], 4);
    assert!(attempts(&effects, WORKER).is_empty());
    assert_eq!(h.state(id), TaskState::Expired);
}

#[test]
fn a_policys_deadline_cannot_be_lengthened() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(short(u64::MAX));
    assert_eq!(h.view(id).expire_at, START + 3_600_000);
}

#[test]
fn a_delayed_task_starts_at_its_time_and_once() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(delayed(90_000, None));
    assert!(attempts(&effects, WORKER).is_empty());
    assert_eq!(h.state(id), TaskState::Scheduled);
    assert!(attempts(&h.advance(89_999), WORKER).is_empty());
    let effects = h.advance(1);
    assert_eq!(attempt(&effects, WORKER).task, id);
    assert!(attempts(&h.advance(50_000), WORKER).is_empty());
}

#[test]
fn a_delay_beyond_the_deadline_expires_without_a_start() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, _) = h.submit_one(delayed(2_000, Some(1_000)));
    assert!(attempts(&h.advance(5_000), WORKER).is_empty());
    assert_eq!(h.state(id), TaskState::Expired);
}

#[test]
fn an_attempt_that_takes_too_long_is_stopped_and_repeated() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(task(METHOD));
    let first = attempt(&effects, WORKER);
    h.accept(WORKER, 1);
    let effects = h.advance(60_000);
    assert_eq!(
        stops(&effects, WORKER),
        [(id, first.token, StopReason::AttemptTimedOut)]
    );
    let second = attempts(&[effects, h.advance(200)].concat(), WORKER);
    assert_eq!((second.len(), second[0].attempt), (1, 2));
    let failure = h.view(id).failure.expect("the timeout is told");
    assert_eq!(
        (failure.code, failure.reason),
        (4, Some(Reason::AttemptTimedOut))
    );
    assert_eq!(refused(&h.succeed(WORKER, &first)).len(), 1);
}

#[test]
fn an_attempt_timeout_is_final_where_the_policy_does_not_retry_it() {
    let mut policy = policy(METHOD);
    policy.retryable.0 &= !(1 << 4);
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, _) = h.submit_one(task(METHOD));
    h.accept(WORKER, 1);
    h.advance(60_000);
    assert_eq!(h.state(id), TaskState::Failed);
}

#[test]
fn an_expiry_keeps_the_failure_that_came_before() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(short(1_000));
    let token = attempt(&effects, WORKER).token;
    h.outcome(WORKER, id, token, Err((status(UNAVAILABLE), Some(900))));
    h.apply(Command::WorkerDetached {
        conn: WORKER,
        reason: name("gone"),
    });
    h.advance(1_000);
    let failure = h.view(id).failure.expect("it expired");
    assert_eq!(failure.reason, Some(Reason::ExpiredBeforeStart));
    assert!(failure.message.contains("code 14"), "{}", failure.message);
}

#[test]
fn times_never_overflow() {
    let mut policy = policy(METHOD);
    policy.deadline_ms = u64::MAX;
    policy.retention_ms = u64::MAX;
    policy.attempt_timeout_ms = u64::MAX;
    policy.idempotency_window_ms = u64::MAX;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (_, effects) = h.submit_one(task(METHOD));
    h.succeed(WORKER, &attempt(&effects, WORKER));
    let options = SubmitOptions {
        delay_ms: u64::MAX,
        envelope: Bytes::from_static(b"e"),
        ..SubmitOptions::default()
    };
    let (id, _) = h.submit_one(with(keyed(METHOD, "k", 1), options));
    h.advance(1_000_000);
    assert_eq!(h.state(id), TaskState::Scheduled);
}
