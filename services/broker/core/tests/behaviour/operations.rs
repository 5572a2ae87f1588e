//! What operators and the scheduler do: pause, redrive, watch, list, keys, retention.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use std::collections::BTreeMap;

const WATCHER: ConnId = ConnId(50);
const TAG: ReplyTag = ReplyTag(1);

fn watched(effects: &[Effect]) -> Vec<TaskState> {
    let found = effects.iter().filter_map(|effect| match effect {
        Effect::TaskChanged {
            conn: WATCHER,
            task,
        } => Some(task.state),
        _ => None,
    });
    found.collect()
}

fn pause(queue: &str) -> Command {
    Command::PauseQueue {
        tag: TAG,
        queue: name(queue),
        reason: name("incident"),
    }
}

fn resume(queue: &str) -> Command {
    Command::ResumeQueue {
        tag: TAG,
        queue: name(queue),
    }
}

fn redrive(tasks: &[TaskId], dry_run: bool) -> Command {
    Command::Redrive {
        tag: TAG,
        tasks: tasks.to_vec(),
        archived: BTreeMap::new(),
        dry_run,
    }
}

#[test]
fn a_paused_queue_takes_submits_and_starts_nothing() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    assert!(matches!(reply(&h.apply(pause("orders"))), Reply::Done));
    let (id, effects) = h.submit_one(task(METHOD));
    assert!(attempts(&effects, WORKER).is_empty());
    assert_eq!(h.state(id), TaskState::Parked);
    let queue = &h.partition.queues()[0];
    assert_eq!(queue.paused, Some(name("incident")));
    assert_eq!(queue.counts, [(TaskState::Parked, 1)]);
    h.restart();
    h.attach(ConnId(9), "w1", &[METHOD], 4);
    assert_eq!(h.state(id), TaskState::Parked, "a pause survives a restart");
    let effects = h.apply(resume("orders"));
    assert_eq!(attempt(&effects, ConnId(9)).task, id);
}

#[test]
fn running_attempts_of_a_paused_queue_finish() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(task(METHOD));
    h.apply(pause("orders"));
    h.succeed(WORKER, &attempt(&effects, WORKER));
    assert_eq!(h.state(id), TaskState::Succeeded);
}

#[test]
fn pausing_twice_records_once_and_an_unknown_queue_is_not_found() {
    let mut h = Harness::new();
    h.apply(pause("orders"));
    let records = h.log.len();
    h.apply(pause("orders"));
    assert_eq!(h.log.len(), records);
    for command in [pause("nowhere"), resume("nowhere")] {
        let missing = reply(&h.apply(command));
        assert!(
            matches!(missing, Reply::Error(Error::QueueNotFound { .. })),
            "{missing:?}"
        );
    }
}

#[test]
fn a_failed_task_is_run_again_from_its_first_attempt() {
    let mut policy = policy(METHOD);
    policy.dead_letter_retention_ms = 1_000_000;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(keyed(METHOD, "k", 1));
    h.fail(WORKER, &attempt(&effects, WORKER), INVALID_ARGUMENT);
    assert!(h.view(id).dead_letter);
    assert_eq!(h.partition.queues()[0].dead_letters, 1);
    h.now += 500;
    assert!(matches!(
        reply(&h.apply(redrive(&[id], true))),
        Reply::Count(1)
    ));
    assert_eq!(h.state(id), TaskState::Failed, "a dry run changes nothing");
    let effects = h.apply(redrive(&[id, id], false));
    assert!(matches!(reply(&effects), Reply::Count(1)));
    let again = attempt(&effects, WORKER);
    assert_eq!((again.task, again.attempt), (id, 1));
    assert_eq!(again.request.len, 7, "with its first payload");
    let view = h.view(id);
    assert_eq!(
        (view.dead_letter, view.expire_at),
        (false, h.now + 3_600_000)
    );
    assert_eq!(h.partition.queues()[0].dead_letters, 0);
    h.succeed(WORKER, &again);
    assert_eq!(h.state(id), TaskState::Succeeded);
}

#[test]
fn redriving_what_is_not_failed_tells_why() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(task(METHOD));
    let refused = reply(&h.apply(redrive(&[id], false)));
    let state = TaskState::Ready;
    assert!(
        matches!(&refused, Reply::Error(Error::StateConflict { task, state: s }) if *task == id && *s == state),
        "{refused:?}"
    );
    let missing = reply(&h.apply(redrive(&[TaskId(9)], false)));
    assert!(matches!(
        missing,
        Reply::Error(Error::TaskNotFound { task: TaskId(9) })
    ));
    assert!(matches!(
        reply(&h.apply(redrive(&[], false))),
        Reply::Count(0)
    ));
}

#[test]
fn a_watcher_sees_each_change_until_the_task_is_final() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    h.apply(pause("orders"));
    let (id, _) = h.submit_one(task(METHOD));
    let watch = |task| Command::Watch {
        conn: WATCHER,
        task,
    };
    assert_eq!(watched(&h.apply(watch(id))), [TaskState::Parked]);
    let effects = h.apply(resume("orders"));
    assert_eq!(
        watched(&effects),
        [TaskState::Ready],
        "sent, not yet received"
    );
    assert_eq!(watched(&h.accept(WORKER, 1)), [TaskState::Running]);
    let first = attempt(&effects, WORKER);
    let entries = vec![(id, first.token, 0.5, name("half"))];
    let effects = h.apply(Command::Progress {
        conn: WORKER,
        entries,
    });
    assert_eq!(watched(&effects).len(), 1);
    assert_eq!(watched(&h.succeed(WORKER, &first)), [TaskState::Succeeded]);
    assert_eq!(
        watched(&h.apply(watch(id))),
        [TaskState::Succeeded],
        "final: told once"
    );
    let missing = h.apply(watch(TaskId(99)));
    assert!(matches!(
        missing[..],
        [Effect::WatchFailed { conn: WATCHER, .. }]
    ));
}

#[test]
fn unwatching_ends_it() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(task(METHOD));
    h.apply(Command::Watch {
        conn: WATCHER,
        task: id,
    });
    h.apply(Command::Unwatch { conn: WATCHER });
    let effects = h.apply(Command::Cancel {
        tag: TAG,
        task: id,
        reason: name(""),
    });
    assert!(watched(&effects).is_empty());
}

#[test]
fn finished_tasks_are_forgotten_after_their_retention() {
    let mut policy = policy(METHOD);
    policy.retention_ms = 10_000;
    policy.dead_letter_retention_ms = 50_000;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let held = attempts(&h.submit(vec![task(METHOD); 2]), WORKER);
    h.succeed(WORKER, &held[0]);
    h.fail(WORKER, &held[1], INVALID_ARGUMENT);
    h.advance(9_999);
    assert_eq!(h.partition.load().1, 2);
    h.advance(1);
    assert!(h.partition.task(held[0].task).is_none());
    assert!(
        h.view(held[1].task).dead_letter,
        "dead letters are kept longer"
    );
    h.advance(40_000);
    assert_eq!(h.partition.load(), (0, 0));
}

#[test]
fn tasks_are_listed_newest_first_in_pages() {
    let mut h = Harness::new();
    let ids =
        acceptance(&h.submit(vec![task(METHOD), task(OTHER), task(METHOD), task(METHOD)])).tasks;
    let keep = |view: &TaskView| &*view.method == METHOD;
    let newest = TaskId(u64::MAX);
    let (page, next) = h.partition.tasks_before(newest, 2, 100, &keep);
    assert_eq!(
        page.iter().map(|view| view.id.0).collect::<Vec<_>>(),
        [ids[3], ids[2]]
    );
    let (page, end) = h.partition.tasks_before(next.expect("more"), 2, 100, &keep);
    assert_eq!(
        page.iter().map(|view| view.id.0).collect::<Vec<_>>(),
        [ids[0]]
    );
    assert_eq!(end, None);
    let (page, next) = h.partition.tasks_before(TaskId(ids[2]), 2, 1, &keep);
    assert!(page.is_empty(), "a page may be empty with more to come");
    assert_eq!(next, Some(TaskId(ids[1])));
}

#[test]
fn queues_tell_their_tasks_methods_and_workers() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 1);
    h.now += 10;
    h.submit(vec![task(METHOD), task(METHOD), task(METHOD), task(OTHER)]);
    let queue = &h.partition.queues()[0];
    assert_eq!(
        queue.counts,
        [(TaskState::Ready, 2), (TaskState::Running, 2)]
    );
    assert_eq!(queue.oldest_ready, Some(START + 10));
    assert_eq!((queue.methods.len(), queue.workers), (2, 1));
}

#[test]
fn the_timeline_keeps_the_first_and_the_last_events() {
    let mut policy = policy(METHOD);
    policy.max_attempts = 30;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(task(METHOD));
    let causes = |h: &Harness| {
        h.view(id)
            .events
            .iter()
            .map(|e| e.cause)
            .collect::<Vec<_>>()
    };
    let mut next = attempt(&effects, WORKER);
    assert_eq!(causes(&h), ["SUBMITTED", "STARTED"]);
    for _ in 0..20 {
        h.outcome(WORKER, id, next.token, Err((status(UNAVAILABLE), Some(10))));
        next = attempt(&h.advance(10), WORKER);
    }
    h.succeed(WORKER, &next);
    let view = h.view(id);
    assert_eq!(view.events.len(), 16);
    assert_eq!(
        causes(&h)[..4],
        ["SUBMITTED", "STARTED", "FAILED", "STARTED"]
    );
    assert_eq!(causes(&h)[13..], ["FAILED", "STARTED", "COMPLETED"]);
    assert_eq!(view.events[15].worker, Some(name("w1")));
    assert_eq!(view.events[14].attempt, 21);
    assert!(
        view.events
            .iter()
            .all(|event| CAUSES.contains(&event.cause))
    );
}

#[test]
fn keys_are_written_by_compare_and_swap() {
    let mut h = Harness::new();
    let put = |key: &str, expected| Command::KvPut {
        tag: TAG,
        key: name(key),
        value: Bytes::from_static(b"v"),
        expected,
    };
    let delete = |key: &str, expected| Command::KvDelete {
        tag: TAG,
        key: name(key),
        expected,
    };
    assert!(matches!(
        reply(&h.apply(put("a/1", Some(0)))),
        Reply::Version(1)
    ));
    let again = reply(&h.apply(put("a/1", Some(0))));
    assert!(matches!(
        again,
        Reply::Error(Error::VersionMismatch { version: 1 })
    ));
    assert!(matches!(
        reply(&h.apply(put("a/2", None))),
        Reply::Version(2)
    ));
    assert!(matches!(
        reply(&h.apply(put("a/1", Some(1)))),
        Reply::Version(3)
    ));
    assert!(matches!(reply(&h.apply(put("b", None))), Reply::Version(4)));
    let list = |after: &str, limit| {
        let keys = h.partition.kv_list("a/", after, limit);
        keys.into_iter()
            .map(|(key, _, version)| (key.to_string(), version))
            .collect::<Vec<_>>()
    };
    assert_eq!(list("", 10), [("a/1".to_owned(), 3), ("a/2".to_owned(), 2)]);
    assert_eq!(list("a/1", 10), [("a/2".to_owned(), 2)]);
    assert_eq!(list("", 1), [("a/1".to_owned(), 3)]);
    let stale = reply(&h.apply(delete("a/1", Some(1))));
    assert!(matches!(
        stale,
        Reply::Error(Error::VersionMismatch { version: 3 })
    ));
    assert!(matches!(
        reply(&h.apply(delete("a/1", Some(3)))),
        Reply::Done
    ));
    assert!(matches!(reply(&h.apply(delete("a/1", None))), Reply::Done));
    h.restart();
    assert_eq!(h.partition.kv_get("a/1"), None);
    assert_eq!(
        h.partition.kv_get("a/2"),
        Some((Bytes::from_static(b"v"), 2))
    );
    assert!(
        matches!(reply(&h.apply(put("c", None))), Reply::Version(5)),
        "never given twice"
    );
}

#[test]
fn a_policy_takes_its_tasks_to_another_queue() {
    let mut h = Harness::new();
    h.submit(vec![task(METHOD); 3]);
    h.apply(pause("orders"));
    let mut moved = policy(METHOD);
    moved.queue = name("express");
    h.attach(WORKER, "w1", &[METHOD], 4);
    let effects = h.apply(Command::ApplyPolicies {
        tag: TAG,
        policies: vec![moved],
    });
    assert_eq!(
        attempts(&effects, WORKER).len(),
        3,
        "the new queue is not paused"
    );
    let queues = h.partition.queues();
    assert_eq!(&*queues[0].name, "express");
    assert_eq!(queues[0].counts, [(TaskState::Running, 3)]);
    assert!(queues[1].counts.is_empty());
    assert_eq!(
        h.partition.policy(METHOD).map(|p| p.queue.clone()),
        Some(name("express"))
    );
    assert_eq!(h.partition.policies().len(), 2);
}
