//! Payloads in memory and in the log.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::Config;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

fn sized(len: usize) -> SubmitTask {
    SubmitTask {
        request: Bytes::from(vec![7; len]),
        ..task(METHOD)
    }
}

#[test]
fn blobs_are_found_where_they_were_placed() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 1);
    let options = SubmitOptions {
        envelope: Bytes::from_static(b"env"),
        ..SubmitOptions::default()
    };
    let effects = h.submit(vec![with(sized(10), options), sized(0), sized(20)]);
    h.partition.place(1000);
    let held = attempts(&effects, WORKER);
    h.succeed(WORKER, &held[0]);
    h.succeed(WORKER, &held[1]);
    h.partition.place(5000);
    let at = |h: &Harness, id| {
        let view = h.view(TaskId(id));
        (view.request.at, view.envelope.at, view.response.at)
    };
    assert_eq!(at(&h, 1), (Some(1000), Some(1010), Some(5000)));
    assert_eq!(at(&h, 2), (None, None, Some(5008)));
    assert_eq!(at(&h, 3), (Some(1013), None, None));
}

#[test]
fn a_dropped_task_does_not_shift_the_places_of_others() {
    let mut policy = policy(METHOD);
    policy.retention_ms = 0;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.submit(vec![sized(10), sized(20)]);
    h.apply(Command::Cancel {
        tag: ReplyTag(1),
        task: TaskId(1),
        reason: name(""),
    });
    h.advance(0);
    assert!(h.partition.task(TaskId(1)).is_none());
    h.partition.place(100);
    assert_eq!(h.view(TaskId(2)).request.at, Some(110));
}

#[test]
fn beyond_the_limit_the_newest_blobs_leave_memory_once_they_are_placed() {
    let limits = Config {
        resident_bytes_max: 420, // two of them, each with 160 of its own
        ..config()
    };
    let mut h = Harness::with_policies(limits, vec![policy(METHOD)]);
    h.submit(vec![sized(60); 3]);
    assert_eq!(
        h.partition.load().0,
        180,
        "what is not in the log yet must stay"
    );
    h.partition.place(0);
    assert_eq!(h.partition.load().0, 60);
    h.submit(vec![sized(30)]);
    h.partition.place(180);
    let effects = h.attach(WORKER, "w1", &[METHOD], 4);
    let kept: Vec<bool> = attempts(&effects, WORKER)
        .iter()
        .map(|a| a.request.bytes.is_some())
        .collect();
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 2);
    assert!(
        attempts(&effects, WORKER)
            .iter()
            .all(|a| a.request.at.is_some())
    );
}

#[test]
fn a_finished_task_keeps_no_bytes_in_memory() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let effects = h.submit(vec![sized(60); 3]);
    h.partition.place(0);
    for attempt in attempts(&effects, WORKER) {
        h.succeed(WORKER, &attempt);
    }
    assert_eq!(
        h.partition.load().0,
        24,
        "three responses that are not placed"
    );
    h.partition.place(500);
    assert_eq!(h.partition.load().0, 0);
}

#[test]
fn a_waiting_blob_does_not_pin_the_buffer_it_came_in() {
    let mut h = Harness::new();
    let buffer = Bytes::from(vec![1; 100_000]);
    let request = buffer.slice(10..20);
    h.submit(vec![SubmitTask {
        request,
        ..task(METHOD)
    }]);
    h.log.clear();
    h.partition.place(0);
    assert!(buffer.is_unique(), "nobody but the test holds the buffer");
    assert_eq!(
        h.view(TaskId(1)).request.bytes.map(|bytes| bytes.len()),
        Some(10)
    );
}

#[test]
fn a_region_of_the_log_is_needed_while_a_live_blob_lies_in_it() {
    let mut policy = policy(METHOD);
    policy.retention_ms = 1_000;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (_, effects) = h.submit_one(sized(100));
    h.partition.place(5 * MIB - 50);
    let held = attempt(&effects, WORKER);
    h.succeed(WORKER, &held);
    h.partition.place(9 * MIB);
    assert!(!h.partition.needs(0, 4 * MIB));
    assert!(h.partition.needs(4 * MIB, 5 * MIB));
    assert!(
        h.partition.needs(5 * MIB, 6 * MIB),
        "it lies across the border"
    );
    assert!(!h.partition.needs(6 * MIB, 9 * MIB));
    assert!(h.partition.needs(9 * MIB, 10 * MIB));
    assert!(!h.partition.needs(10 * MIB, u64::MAX) && !h.partition.needs(7, 7));
    let effects = h.advance(1_000 + 1_024);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::LogReleasable))
    );
    assert!(!h.partition.needs(0, u64::MAX));
}

#[test]
fn places_survive_a_snapshot() {
    let mut h = Harness::new();
    h.submit(vec![sized(100)]);
    h.partition.place(7 * MIB);
    h.log = h
        .image()
        .into_iter()
        .map(|record| (h.now, record))
        .collect();
    h.restart();
    let request = h.view(TaskId(1)).request;
    assert_eq!(
        (request.at, request.len, request.bytes),
        (Some(7 * MIB), 100, None)
    );
    assert!(h.partition.needs(7 * MIB, 8 * MIB));
    h.apply(Command::SessionOpened {
        conn: CLIENT,
        session: SESSION,
    });
    h.submit(vec![sized(10)]);
    h.partition.place(8 * MIB);
    assert_eq!(
        h.view(TaskId(2)).request.at,
        Some(8 * MIB),
        "what was restored is not placed again"
    );
}

#[test]
fn a_finished_task_reads_the_same_when_it_is_kept_in_short() {
    let mut policy = policy(METHOD);
    policy.retention_ms = 5_000;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(sized(10));
    h.now += 3;
    h.succeed(WORKER, &attempt(&effects, WORKER));
    let told = |h: &Harness| {
        let mut view = h.view(id);
        (view.request, view.response) = Default::default();
        format!("{view:?}")
    };
    let (before, image) = (told(&h), h.image());
    h.partition.place(1_000);
    assert_eq!(told(&h), before);
    assert_eq!(h.view(id).response.at, Some(1_010));
    let cancel = Command::Cancel {
        tag: ReplyTag(1),
        task: id,
        reason: name(""),
    };
    let told = reply(&h.apply(cancel));
    assert!(matches!(told, Reply::Task(view) if view.state == TaskState::Succeeded));
    let redrive = Command::Redrive {
        tag: ReplyTag(1),
        tasks: vec![id],
        archived: BTreeMap::new(),
        dry_run: false,
    };
    assert!(matches!(
        reply(&h.apply(redrive)),
        Reply::Error(Error::StateConflict { .. })
    ));
    let watched = h.apply(Command::Watch {
        conn: ConnId(9),
        task: id,
    });
    assert!(matches!(&watched[..], [Effect::TaskChanged { .. }]));
    let wait = Command::Await {
        conn: CLIENT,
        tasks: vec![id],
        forget: vec![],
        parent: None,
    };
    let sent = results(&h.apply(wait), CLIENT);
    assert_eq!(
        sent[0].result.as_ref().map(|blob| blob.at).ok(),
        Some(Some(1_010))
    );
    let listed = h
        .partition
        .tasks_before(TaskId(u64::MAX), 9, 9, &|_| true)
        .0;
    assert_eq!(listed.len(), 1);
    assert_eq!(h.partition.queues()[0].counts, [(TaskState::Succeeded, 1)]);
    assert_eq!(h.image().len(), image.len());
    h.log = h
        .image()
        .into_iter()
        .map(|record| (h.now, record))
        .collect();
    h.restart();
    assert_eq!(h.partition.queues()[0].counts, [(TaskState::Succeeded, 1)]);
    h.advance(5_000 + 1_024);
    assert_eq!(h.partition.load(), (0, 0));
    assert!(h.partition.queues()[0].counts.is_empty());
}
