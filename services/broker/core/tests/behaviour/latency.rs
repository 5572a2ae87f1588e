//! Latency classes: what is lower leaves free slots to what is higher, where that is served, and only there.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::{ConnId, ReplyTag};
use plait_broker_core::policy::{Latency, MethodPolicy};

const CRITICAL: &str = "/shop.v1.Orders/Quote";
const BACKGROUND: &str = "/shop.v1.Orders/Reindex";
const SECOND: ConnId = ConnId(3);

fn of(method: &str, latency: Latency) -> MethodPolicy {
    MethodPolicy {
        latency,
        ..policy(method)
    }
}

fn mesh() -> Harness {
    let policies = vec![
        of(CRITICAL, Latency::Critical),
        of(METHOD, Latency::Standard),
        of(BACKGROUND, Latency::Background),
    ];
    Harness::with_policies(config(), policies)
}

fn count(effects: &[Effect], conn: ConnId) -> usize {
    attempts(effects, conn).len()
}

#[test]
fn background_work_leaves_a_quarter_of_the_slots_free_and_what_is_critical_begins_at_once() {
    let mut h = mesh();
    h.submit(vec![task(BACKGROUND); 100]);
    let effects = h.attach(WORKER, "w1", &[CRITICAL, BACKGROUND], 8);
    assert_eq!(count(&effects, WORKER), 6);
    let effects = h.submit(vec![task(CRITICAL); 3]);
    // The third goes ahead, as it would to a worker that serves nothing else.
    assert_eq!(count(&effects, WORKER), 3);
}

#[test]
fn a_slot_that_becomes_free_is_used_again() {
    let mut h = mesh();
    h.submit(vec![task(BACKGROUND); 100]);
    let effects = h.attach(WORKER, "w1", &[CRITICAL, BACKGROUND], 8);
    let effects = h.succeed(WORKER, &attempts(&effects, WORKER)[0]);
    assert_eq!(count(&effects, WORKER), 1);
    let effects = h.apply(Command::WorkerResized {
        conn: WORKER,
        slots: 16,
    });
    assert_eq!(count(&effects, WORKER), 6);
}

#[test]
fn where_nothing_higher_is_served_nothing_is_kept() {
    let mut h = mesh();
    h.submit(vec![task(BACKGROUND); 100]);
    let effects = h.attach(WORKER, "w1", &[BACKGROUND], 8);
    assert_eq!(count(&effects, WORKER), 16);
}

#[test]
fn each_higher_class_has_slots_of_its_own() {
    let mut h = mesh();
    h.submit(vec![task(BACKGROUND); 100]);
    h.submit(vec![task(METHOD); 100]);
    let effects = h.attach(WORKER, "w1", &[CRITICAL, METHOD, BACKGROUND], 8);
    assert_eq!(count(&effects, WORKER), 6);
    h.apply(Command::WorkerDraining { conn: WORKER });
    let mut h = mesh();
    h.submit(vec![task(BACKGROUND); 100]);
    let effects = h.attach(WORKER, "w1", &[CRITICAL, METHOD, BACKGROUND], 8);
    assert_eq!(count(&effects, WORKER), 4);
    let effects = h.submit(vec![task(METHOD); 100]);
    assert_eq!(count(&effects, WORKER), 2);
}

#[test]
fn the_only_slot_is_not_kept_free() {
    let mut h = mesh();
    h.submit(vec![task(BACKGROUND); 100]);
    let effects = h.attach(WORKER, "w1", &[CRITICAL, BACKGROUND], 1);
    assert_eq!(count(&effects, WORKER), 1);
    h.submit(vec![task(CRITICAL)]);
    let effects = h.succeed(WORKER, &attempts(&effects, WORKER)[0]);
    // Who is critical runs, and nothing is given ahead.
    assert_eq!(count(&effects, WORKER), 0);
}

#[test]
fn of_workers_with_one_slot_one_is_kept_free() {
    let mut h = mesh();
    let conns = [WORKER, SECOND, ConnId(4)];
    for (at, conn) in conns.into_iter().enumerate() {
        h.attach(conn, &format!("w{at}"), &[CRITICAL, BACKGROUND], 1);
    }
    let effects = h.submit(vec![task(BACKGROUND); 100]);
    let counts = conns.map(|conn| count(&effects, conn));
    assert_eq!(counts.iter().sum::<usize>(), 2);
    let effects = h.submit(vec![task(CRITICAL)]);
    for (conn, before) in conns.into_iter().zip(counts) {
        assert_eq!(count(&effects, conn), 1 - before, "to the free one");
    }
}

#[test]
fn a_free_slot_is_found_beside_fuller_workers_of_other_sizes() {
    let mut h = mesh();
    h.attach(WORKER, "w1", &[CRITICAL, BACKGROUND], 12);
    h.attach(SECOND, "w2", &[CRITICAL, BACKGROUND], 1);
    // Of 13 slots three are kept; the least loaded by its window would be the small one.
    h.submit(vec![task(BACKGROUND); 100]);
    let effects = h.submit(vec![task(CRITICAL); 3]);
    assert_eq!((count(&effects, WORKER), count(&effects, SECOND)), (3, 0));
}

#[test]
fn a_worker_that_drains_counts_for_nothing() {
    let mut h = mesh();
    h.submit(vec![task(BACKGROUND); 100]);
    h.attach(WORKER, "w1", &[CRITICAL, BACKGROUND], 4);
    let effects = h.attach(SECOND, "w2", &[CRITICAL, BACKGROUND], 4);
    // Of eight slots two are kept: the first worker's fourth is used now.
    assert_eq!((count(&effects, WORKER), count(&effects, SECOND)), (1, 2));
    let effects = h.apply(Command::WorkerDraining { conn: WORKER });
    assert_eq!(count(&effects, SECOND), 1);
    let effects = h.apply(Command::WorkerResized {
        conn: SECOND,
        slots: 8,
    });
    assert_eq!(count(&effects, SECOND), 3);
}

#[test]
fn critical_work_that_fills_all_slots_starves_nobody() {
    let mut h = mesh();
    h.submit(vec![task(CRITICAL); 200]);
    h.submit(vec![task(BACKGROUND); 5]);
    let effects = h.attach(WORKER, "w1", &[CRITICAL, BACKGROUND], 2);
    let mut running = attempts(&effects, WORKER);
    let mut started: Vec<u64> = running.iter().map(|attempt| attempt.task.0).collect();
    while !running.is_empty() && started.len() < 64 {
        let effects = h.succeed(WORKER, &running.remove(0));
        started.extend(
            attempts(&effects, WORKER)
                .iter()
                .map(|attempt| attempt.task.0),
        );
        running.extend(attempts(&effects, WORKER));
    }
    // Of every 16 starts that could have been one of them; while one runs, for three more, the others could not.
    let at = |id| started.iter().position(|other| *other == id);
    assert_eq!([201, 202, 203].map(at), [Some(15), Some(34), Some(53)]);
}

#[test]
fn the_class_goes_before_the_priority() {
    let mut h = mesh();
    let options = SubmitOptions {
        priority: Some(9),
        ..SubmitOptions::default()
    };
    h.submit(vec![with(task(BACKGROUND), options.clone())]);
    h.submit(vec![with(task(METHOD), options)]);
    h.submit(vec![task(CRITICAL)]);
    let effects = h.attach(WORKER, "w1", &[BACKGROUND, METHOD, CRITICAL], 8);
    let order: Vec<u64> = attempts(&effects, WORKER)
        .iter()
        .map(|attempt| attempt.task.0)
        .collect();
    assert_eq!(order, [3, 2, 1]);
}

#[test]
fn another_class_holds_at_once() {
    let mut h = mesh();
    h.submit(vec![task(BACKGROUND); 100]);
    let effects = h.attach(WORKER, "w1", &[METHOD, BACKGROUND], 8);
    assert_eq!(count(&effects, WORKER), 6);
    let effects = h.apply(Command::ApplyPolicies {
        tag: ReplyTag(0),
        policies: vec![of(BACKGROUND, Latency::Standard)],
    });
    assert_eq!(count(&effects, WORKER), 10);
    let effects = h.submit(vec![task(METHOD)]);
    assert_eq!(count(&effects, WORKER), 0);
    let effects = h.apply(Command::ApplyPolicies {
        tag: ReplyTag(0),
        policies: vec![of(METHOD, Latency::Critical)],
    });
    assert_eq!(count(&effects, WORKER), 0);
}

#[test]
fn attempts_keep_counting_as_what_they_began_as() {
    let mut h = mesh();
    let (id, _) = h.submit_one(task(BACKGROUND));
    let effects = h.attach(WORKER, "w1", &[CRITICAL, BACKGROUND], 2);
    h.apply(Command::ApplyPolicies {
        tag: ReplyTag(0),
        policies: vec![of(BACKGROUND, Latency::Critical)],
    });
    h.submit(vec![task(BACKGROUND); 5]);
    let first = attempts(&effects, WORKER).remove(0);
    assert_eq!(first.task, id);
    h.succeed(WORKER, &first);
    let figures = h.partition.in_flight();
    assert_eq!(figures, 4);
}
