//! Cancelling.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::record::*;

fn cancel(task: TaskId) -> Command {
    Command::Cancel {
        tag: ReplyTag(1),
        task,
        reason: name("not wanted"),
    }
}

fn told(effects: &[Effect]) -> TaskState {
    match reply(effects) {
        Reply::Task(view) => view.state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cancelled_task_never_starts() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(task(METHOD));
    let effects = h.apply(cancel(id));
    assert_eq!(told(&effects), TaskState::Cancelled);
    let (state, failure) = results(&effects, CLIENT)[0]
        .result
        .clone()
        .expect_err("cancelled");
    assert_eq!((state, failure.code), (TaskState::Cancelled, 1));
    assert_eq!(failure.reason, Some(Reason::TaskCancelled));
    assert_eq!(&*failure.message, "not wanted");
    assert!(attempts(&h.attach(WORKER, "w1", &[METHOD], 1), WORKER).is_empty());
}

#[test]
fn a_delayed_task_and_one_in_backoff_can_be_cancelled() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let options = SubmitOptions {
        delay_ms: 500,
        ..SubmitOptions::default()
    };
    let (delayed, _) = h.submit_one(with(task(METHOD), options));
    let (failing, effects) = h.submit_one(task(METHOD));
    let token = attempt(&effects, WORKER).token;
    h.outcome(
        WORKER,
        failing,
        token,
        Err((status(UNAVAILABLE), Some(500))),
    );
    h.apply(cancel(delayed));
    h.apply(cancel(failing));
    assert!(attempts(&h.advance(10_000), WORKER).is_empty());
}

#[test]
fn a_running_attempt_is_told_at_once_and_its_outcome_is_refused() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 1);
    let (id, effects) = h.submit_one(task(METHOD));
    let first = attempt(&effects, WORKER);
    h.accept(WORKER, 1);
    let effects = h.apply(cancel(id));
    assert_eq!(told(&effects), TaskState::Cancelled);
    assert_eq!(
        stops(&effects, WORKER),
        [(id, first.token, StopReason::Cancelled)]
    );
    assert_eq!(refused(&h.succeed(WORKER, &first)).len(), 1);
    assert_eq!(h.state(id), TaskState::Cancelled);
    let effects = h.submit(vec![task(METHOD)]);
    assert_eq!(
        attempts(&effects, WORKER).len(),
        1,
        "its room is free again"
    );
}

#[test]
fn a_task_that_was_done_first_stays_done() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 1);
    let (id, effects) = h.submit_one(task(METHOD));
    h.succeed(WORKER, &attempt(&effects, WORKER));
    let records = h.log.len();
    assert_eq!(told(&h.apply(cancel(id))), TaskState::Succeeded);
    assert_eq!(h.log.len(), records);
}

#[test]
fn cancelling_twice_tells_the_same_and_an_unknown_task_is_not_found() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(task(METHOD));
    h.apply(cancel(id));
    assert_eq!(told(&h.apply(cancel(id))), TaskState::Cancelled);
    let missing = reply(&h.apply(cancel(TaskId(99))));
    assert!(matches!(
        missing,
        Reply::Error(Error::TaskNotFound { task: TaskId(99) })
    ));
}
