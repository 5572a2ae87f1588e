//! Retries, pushback, dead letters.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::MethodPolicy;
use plait_broker_core::record::*;

fn harness(change: impl Fn(&mut MethodPolicy)) -> Harness {
    let mut policy = policy(METHOD);
    change(&mut policy);
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    h
}

/// Fails every attempt of a task until none comes any more; tells how many there were.
fn fail_all(h: &mut Harness, first: Attempt, code: u32) -> u32 {
    let mut attempt = Some(first);
    let mut count = 0;
    while let Some(current) = attempt.take() {
        count += 1;
        assert_eq!(current.attempt, count);
        attempt = attempts(&h.fail(WORKER, &current, code), WORKER).pop();
        for _ in 0..70 {
            attempt = attempt.or_else(|| attempts(&h.advance(1_000), WORKER).pop());
        }
    }
    count
}

#[test]
fn a_retryable_failure_is_repeated_after_a_backoff() {
    let mut h = harness(|_| ());
    let (id, effects) = h.submit_one(task(METHOD));
    let first = attempt(&effects, WORKER);
    let effects = h.fail(WORKER, &first, UNAVAILABLE);
    assert!(results(&effects, CLIENT).is_empty());
    let view = h.view(id);
    assert!(
        matches!(view.state, TaskState::Backoff | TaskState::Ready),
        "{:?}",
        view.state
    );
    assert!(
        view.start_at < h.now + 200,
        "the first wait is below the initial backoff"
    );
    assert_eq!(view.failure, Some(status(UNAVAILABLE)));
    let second = attempts(&[effects, h.advance(200)].concat(), WORKER);
    assert_eq!(second.len(), 1);
    assert_eq!((second[0].task, second[0].attempt), (id, 2));
    assert!(second[0].token > first.token, "tokens only grow");
    h.succeed(WORKER, &second[0]);
    assert_eq!(
        h.view(id).failure,
        None,
        "an error is kept until the task succeeds"
    );
}

#[test]
fn a_failure_that_is_not_retryable_ends_the_task_with_the_handlers_own_status() {
    let mut h = harness(|_| ());
    let (id, effects) = h.submit_one(task(METHOD));
    let effects = h.fail(WORKER, &attempt(&effects, WORKER), INVALID_ARGUMENT);
    let results = results(&effects, CLIENT);
    let (state, failure) = results[0].result.clone().expect_err("it failed");
    assert_eq!(
        (state, failure),
        (TaskState::Failed, status(INVALID_ARGUMENT))
    );
    assert!(!h.view(id).dead_letter, "the policy keeps no dead letters");
}

#[test]
fn a_poisonous_task_is_a_dead_letter_after_exactly_its_attempts_and_once() {
    let mut h = harness(|policy| {
        policy.max_attempts = 5;
        policy.dead_letter_retention_ms = 1_000_000;
    });
    let (id, effects) = h.submit_one(task(METHOD));
    assert_eq!(fail_all(&mut h, attempt(&effects, WORKER), UNAVAILABLE), 5);
    let view = h.view(id);
    assert_eq!(
        (view.state, view.dead_letter, view.attempt),
        (TaskState::Failed, true, 5)
    );
    let failed = h.log.iter().filter(|(_, record)| {
        matches!(
            record,
            Record::Failed {
                dead_letter: true,
                ..
            }
        )
    });
    assert_eq!(failed.count(), 1);
}

#[test]
fn a_pushback_is_obeyed_exactly_and_starts_the_backoff_anew() {
    let mut h = harness(|_| ());
    let (id, effects) = h.submit_one(task(METHOD));
    let first = attempt(&effects, WORKER);
    h.outcome(
        WORKER,
        id,
        first.token,
        Err((status(UNAVAILABLE), Some(7_000))),
    );
    assert_eq!(h.view(id).start_at, h.now + 7_000);
    assert!(attempts(&h.advance(6_999), WORKER).is_empty());
    assert_eq!(attempts(&h.advance(1), WORKER).len(), 1);
    assert!(matches!(
        h.log
            .iter()
            .rev()
            .find(|(_, r)| matches!(r, Record::Retried { .. })),
        Some((
            _,
            Record::Retried {
                backoff_step: 0,
                ..
            }
        ))
    ));
}

#[test]
fn a_negative_pushback_means_no_retry() {
    let mut h = harness(|_| ());
    let (id, effects) = h.submit_one(task(METHOD));
    let first = attempt(&effects, WORKER);
    h.outcome(
        WORKER,
        id,
        first.token,
        Err((status(UNAVAILABLE), Some(u64::MAX))),
    );
    assert_eq!(h.state(id), TaskState::Failed);
}

#[test]
fn there_is_no_retry_whose_delay_is_not_below_the_remaining_time() {
    let mut h = harness(|policy| policy.deadline_ms = 10_000);
    for (pushback, state) in [(10_000, TaskState::Failed), (9_999, TaskState::Backoff)] {
        let (id, effects) = h.submit_one(task(METHOD));
        let token = attempt(&effects, WORKER).token;
        h.outcome(
            WORKER,
            id,
            token,
            Err((status(UNAVAILABLE), Some(pushback))),
        );
        assert_eq!(h.state(id), state);
    }
}

#[test]
fn at_most_once_is_never_repeated_whatever_the_failure() {
    let mut h = harness(|policy| policy.at_most_once = true);
    let (id, effects) = h.submit_one(task(METHOD));
    let effects = h.fail(WORKER, &attempt(&effects, WORKER), UNAVAILABLE);
    assert_eq!(results(&effects, CLIENT).len(), 1);
    assert_eq!(h.state(id), TaskState::Failed);
}

#[test]
fn an_outcome_under_an_old_token_is_refused_and_changes_nothing() {
    let mut h = harness(|_| ());
    let (id, effects) = h.submit_one(task(METHOD));
    let first = attempt(&effects, WORKER);
    h.fail(WORKER, &first, UNAVAILABLE);
    let second = attempts(&h.advance(200), WORKER).pop();
    let image = h.image();
    let effects = h.outcome(WORKER, id, first.token, Ok(Bytes::from_static(b"late")));
    assert_eq!(
        refused(&effects),
        [(id, first.token, Error::LeaseLost { task: id })]
    );
    let foreign = h.outcome(ConnId(99), id, Token(7), Ok(Bytes::new()));
    assert_eq!(refused(&foreign).len(), 1);
    let unknown = h.outcome(WORKER, TaskId(999), Token(7), Ok(Bytes::new()));
    assert_eq!(refused(&unknown).len(), 1);
    assert_eq!(h.image(), image);
    drop(second);
}

#[test]
fn one_frame_settles_a_task_once() {
    let mut h = harness(|_| ());
    let (id, effects) = h.submit_one(task(METHOD));
    let token = attempt(&effects, WORKER).token;
    let twice = || plait_broker_core::command::Outcome {
        task: id,
        token,
        result: Ok(Bytes::from_static(b"x")),
    };
    let effects = h.apply(plait_broker_core::command::Command::Outcomes {
        conn: WORKER,
        sequence: 1,
        outcomes: vec![twice(), twice()],
    });
    assert_eq!(refused(&effects).len(), 1);
    assert_eq!(results(&effects, CLIENT).len(), 1);
}
