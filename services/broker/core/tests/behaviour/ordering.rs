//! Ordering keys.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use std::collections::BTreeMap;

fn harness() -> Harness {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD, OTHER], 100);
    h
}

fn only(effects: &[Effect]) -> Attempt {
    attempt(effects, WORKER)
}

#[test]
fn tasks_of_one_key_run_one_at_a_time_in_submit_order() {
    let mut h = harness();
    let effects = h.submit(vec![ordered(METHOD, "a"); 5]);
    let ids = acceptance(&effects).tasks;
    let mut current = only(&effects);
    for id in &ids {
        assert_eq!(current.task.0, *id);
        let effects = h.succeed(WORKER, &current);
        if id == ids.last().expect("five") {
            assert!(attempts(&effects, WORKER).is_empty());
        } else {
            current = only(&effects);
        }
    }
}

#[test]
fn other_keys_and_tasks_without_one_are_not_held_up() {
    let mut h = harness();
    let effects = h.submit(vec![
        ordered(METHOD, "a"),
        ordered(METHOD, "a"),
        ordered(METHOD, "b"),
        task(METHOD),
    ]);
    assert_eq!(attempts(&effects, WORKER).len(), 3);
}

#[test]
fn the_methods_of_a_queue_share_its_keys() {
    let mut h = harness();
    let effects = h.submit(vec![ordered(METHOD, "a"), ordered(OTHER, "a")]);
    let first = only(&effects);
    let second = only(&h.succeed(WORKER, &first));
    assert_eq!(second.method, 1);
}

#[test]
fn a_retry_holds_the_line() {
    let mut h = harness();
    let effects = h.submit(vec![ordered(METHOD, "a"), ordered(METHOD, "a")]);
    let first = only(&effects);
    let token = first.token;
    let failed = h.outcome(
        WORKER,
        first.task,
        token,
        Err((status(UNAVAILABLE), Some(5_000))),
    );
    assert!(attempts(&failed, WORKER).is_empty());
    assert!(attempts(&h.advance(4_999), WORKER).is_empty());
    let again = only(&h.advance(1));
    assert_eq!((again.task, again.attempt), (first.task, 2));
}

#[test]
fn a_delayed_task_keeps_its_place_in_line() {
    let mut h = harness();
    let delayed = with(
        ordered(METHOD, "a"),
        SubmitOptions {
            delay_ms: 1_000,
            ..SubmitOptions::default()
        },
    );
    let effects = h.submit(vec![delayed, ordered(METHOD, "a")]);
    assert!(attempts(&effects, WORKER).is_empty());
    let ids = acceptance(&effects).tasks;
    assert_eq!(only(&h.advance(1_000)).task.0, ids[0]);
}

#[test]
fn every_final_state_frees_the_line() {
    let mut h = harness();
    let effects = h.submit(vec![ordered(METHOD, "a"); 6]);
    let ids: Vec<TaskId> = acceptance(&effects).tasks.into_iter().map(TaskId).collect();
    let cancel = |task| Command::Cancel {
        tag: ReplyTag(1),
        task,
        reason: name("x"),
    };
    let second = only(&h.fail(WORKER, &only(&effects), INVALID_ARGUMENT));
    assert_eq!(second.task, ids[1]);
    assert!(
        attempts(&h.apply(cancel(ids[3])), WORKER).is_empty(),
        "one that only waited"
    );
    let third = only(&h.apply(cancel(ids[1])));
    assert_eq!(third.task, ids[2]);
    let fifth = only(&h.succeed(WORKER, &third));
    assert_eq!(fifth.task, ids[4], "the fourth was cancelled");
}

#[test]
fn a_worker_that_vanishes_does_not_let_the_next_one_pass() {
    let mut h = harness();
    let effects = h.submit(vec![ordered(METHOD, "a"), ordered(METHOD, "a")]);
    let ids = acceptance(&effects).tasks;
    h.apply(Command::WorkerDetached {
        conn: WORKER,
        reason: name("gone"),
    });
    let effects = h.attach(ConnId(9), "w2", &[METHOD], 4);
    assert!(
        attempts(&effects, ConnId(9)).is_empty(),
        "it may have begun"
    );
    let effects = h.advance(5_000);
    assert_eq!(attempt(&effects, ConnId(9)).task.0, ids[0]);
}

#[test]
fn order_survives_a_restart() {
    let mut h = harness();
    let effects = h.submit(vec![ordered(METHOD, "a"); 4]);
    let ids = acceptance(&effects).tasks;
    h.succeed(WORKER, &only(&effects));
    h.restart();
    h.attach(ConnId(9), "w2", &[METHOD], 4);
    let mut order = Vec::new();
    let mut effects = h.advance(5_000);
    while let Some(next) = attempts(&effects, ConnId(9)).pop() {
        order.push(next.task.0);
        effects = h.succeed(ConnId(9), &next);
    }
    assert_eq!(order, ids[1..]);
}

#[test]
fn a_task_that_is_run_again_stands_before_younger_ones() {
    let mut h = harness();
    let effects = h.submit(vec![
        ordered(METHOD, "a"),
        ordered(METHOD, "a"),
        ordered(METHOD, "a"),
    ]);
    let ids: Vec<TaskId> = acceptance(&effects).tasks.into_iter().map(TaskId).collect();
    let second = only(&h.fail(WORKER, &only(&effects), INVALID_ARGUMENT));
    h.apply(Command::Redrive {
        tag: ReplyTag(1),
        tasks: vec![ids[0]],
        archived: BTreeMap::new(),
        dry_run: false,
    });
    let next = only(&h.succeed(WORKER, &second));
    assert_eq!(next.task, ids[0]);
    let last = only(&h.succeed(WORKER, &next));
    assert_eq!(last.task, ids[2]);
}
