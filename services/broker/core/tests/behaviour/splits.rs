//! Splits: which tasks of a service a version of its workers gets.

use crate::harness::*;
use bytes::Bytes;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::Limits;
use plait_broker_core::record::Record;
use plait_broker_core::split::{Split, Sticky, place_of};
use std::collections::BTreeSet;

const OLD: ConnId = ConnId(20);
const NEW: ConnId = ConnId(30);
const LATER: &str = "/shop.v1.Orders/Charge@2";

fn split(share: u32) -> Split {
    Split {
        service: "shop.v1.Orders".into(),
        version: "2".into(),
        share,
        sticky: Sticky::Task,
        salt: "r".into(),
        fallback_ms: 10_000,
    }
}

fn set(h: &mut Harness, splits: Vec<Split>) -> Vec<Effect> {
    let record = Bytes::from(format!("{splits:?}"));
    h.apply(Command::SetSplits {
        tag: ReplyTag(7),
        splits,
        record,
    })
}

fn join(h: &mut Harness, conn: ConnId, version: &str, methods: &[&str], slots: u32) -> Vec<Effect> {
    h.apply(Command::WorkerAttached(WorkerAttach {
        conn,
        worker: format!("w{}", conn.0).into(),
        version: version.into(),
        methods: methods.iter().map(|m| (*m).into()).collect(),
        slots,
        held: Vec::new(),
    }))
}

fn leave(h: &mut Harness, conn: ConnId) -> Vec<Effect> {
    h.apply(Command::WorkerDetached {
        conn,
        reason: "left".into(),
    })
}

fn ids(effects: &[Effect], conn: ConnId) -> BTreeSet<u64> {
    let begun = attempts(effects, conn);
    begun.iter().map(|attempt| attempt.task.0).collect()
}

fn is_new(id: u64, share: u32) -> bool {
    place_of("r", &id.to_le_bytes()) < share
}

/// A worker of each version, and as many tasks submitted. What began at each.
fn begun(share: u32, count: usize) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 10_000);
    join(&mut h, NEW, "2", &[METHOD], 10_000);
    set(&mut h, vec![split(share)]);
    let effects = h.submit((0..count).map(|_| task(METHOD)).collect());
    (ids(&effects, OLD), ids(&effects, NEW))
}

#[test]
fn the_version_gets_its_share_exactly_by_the_hash() {
    for share in [0, 100, 1_000, 5_000, 10_000] {
        let (old, new) = begun(share, 2_000);
        assert_eq!(old.len() + new.len(), 2_000, "nothing waits");
        assert!(new.iter().all(|id| is_new(*id, share)), "{share}");
        assert!(old.iter().all(|id| !is_new(*id, share)), "{share}");
    }
    let (_, new) = begun(1_000, 2_000);
    assert!((150..250).contains(&new.len()), "{} of 2,000", new.len());
}

#[test]
fn a_share_that_grows_only_adds() {
    let shares = [100, 1_000, 5_000, 10_000];
    let news = shares.map(|share| begun(share, 1_000).1);
    assert!(news.windows(2).all(|pair| pair[0].is_subset(&pair[1])));
}

#[test]
fn without_a_split_versions_do_not_matter() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 8);
    join(&mut h, NEW, "2", &[METHOD], 8);
    let effects = h.submit((0..20).map(|_| task(METHOD)).collect());
    assert_eq!(
        (ids(&effects, OLD).len(), ids(&effects, NEW).len()),
        (10, 10)
    );
}

#[test]
fn one_key_stays_with_one_version() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    join(&mut h, NEW, "2", &[METHOD], 1_000);
    let by_key = Split {
        sticky: Sticky::OrderingKey,
        ..split(3_000)
    };
    set(&mut h, vec![by_key]);
    let mut news = 0;
    for round in 0..300 {
        let key = format!("k{}", round % 30);
        let (_, effects) = h.submit_one(ordered(METHOD, &key));
        let to = if place_of("r", key.as_bytes()) < 3_000 {
            NEW
        } else {
            OLD
        };
        news += u32::from(to == NEW);
        let attempt = attempt(&effects, to);
        h.succeed(to, &attempt);
    }
    assert!((1..300).contains(&news));
    // Without the key the task decides.
    let (id, effects) = h.submit_one(task(METHOD));
    let to = if is_new(id.0, 3_000) { NEW } else { OLD };
    attempt(&effects, to);
}

#[test]
fn what_waits_follows_a_share_that_changes() {
    let mut h = Harness::new();
    h.submit((0..1_000).map(|_| task(METHOD)).collect());
    set(&mut h, vec![split(1_000)]);
    set(&mut h, vec![split(4_000)]);
    set(&mut h, vec![split(2_000)]);
    let mut effects = join(&mut h, OLD, "1", &[METHOD], 1);
    effects.extend(join(&mut h, NEW, "2", &[METHOD], 10_000));
    effects.extend(h.apply(Command::WorkerResized {
        conn: OLD,
        slots: 10_000,
    }));
    let (old, new) = (ids(&effects, OLD), ids(&effects, NEW));
    assert_eq!(old.len() + new.len(), 1_000);
    // The old worker took two while it was alone.
    let early = old.iter().filter(|id| is_new(**id, 2_000)).count();
    assert!(early <= 2, "{early}");
    assert!(new.iter().all(|id| is_new(*id, 2_000)));
}

#[test]
fn a_version_that_is_not_there_strands_nothing() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    set(&mut h, vec![split(5_000)]);
    let effects = h.submit((0..100).map(|_| task(METHOD)).collect());
    assert_eq!(ids(&effects, OLD).len(), 100);
    join(&mut h, NEW, "2", &[METHOD], 1);
    let effects = h.submit((0..100).map(|_| task(METHOD)).collect());
    let (old, new) = (ids(&effects, OLD), ids(&effects, NEW));
    assert_eq!(new.len(), 2);
    assert!(old.iter().all(|id| !is_new(*id, 5_000)));
    // The version's only worker goes: its tasks are for the others at once.
    let effects = leave(&mut h, NEW);
    let effects = [effects, h.advance(1_000)].concat();
    assert_eq!(ids(&effects, OLD).len(), 100 - old.len());
}

#[test]
fn a_worker_that_drains_counts_as_gone() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    join(&mut h, NEW, "2", &[METHOD], 1);
    set(&mut h, vec![split(5_000)]);
    let effects = h.submit((0..100).map(|_| task(METHOD)).collect());
    let old = ids(&effects, OLD);
    let effects = h.apply(Command::WorkerDraining { conn: NEW });
    assert_eq!(ids(&effects, OLD).len(), 100 - old.len() - 2);
}

#[test]
fn the_others_tasks_wait_a_while_for_them() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    join(&mut h, NEW, "2", &[METHOD], 1_000);
    set(&mut h, vec![split(5_000)]);
    leave(&mut h, OLD);
    let effects = h.submit((0..100).map(|_| task(METHOD)).collect());
    let new = ids(&effects, NEW);
    assert!(new.iter().all(|id| is_new(*id, 5_000)));
    assert!(ids(&h.advance(9_999), NEW).is_empty());
    assert_eq!(ids(&h.advance(1), NEW).len(), 100 - new.len());
    // They are back: all is as before.
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    let effects = h.submit((0..100).map(|_| task(METHOD)).collect());
    assert!(ids(&effects, NEW).iter().all(|id| is_new(*id, 5_000)));
}

#[test]
fn a_version_without_a_share_gets_nothing_whoever_is_away() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    join(&mut h, NEW, "2", &[METHOD], 1_000);
    set(&mut h, vec![split(0)]);
    leave(&mut h, OLD);
    let (id, effects) = h.submit_one(task(METHOD));
    assert!(ids(&[effects, h.advance(60_000)].concat(), NEW).is_empty());
    // Any other version will do.
    let effects = join(&mut h, OLD, "1.1", &[METHOD], 1);
    assert_eq!(ids(&effects, OLD), BTreeSet::from([id.0]));
}

#[test]
fn a_roll_back_gives_the_others_what_waits_for_the_version() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    join(&mut h, NEW, "2", &[METHOD], 1);
    set(&mut h, vec![split(5_000)]);
    let effects = h.submit((0..100).map(|_| task(METHOD)).collect());
    let left = 100 - ids(&effects, OLD).len() - 2;
    let running = attempts(&effects, NEW);
    let effects = set(&mut h, vec![split(0)]);
    assert_eq!(ids(&effects, OLD).len(), left);
    // What the version has begun it may end.
    let effects = h.fail(NEW, &running[0], UNAVAILABLE);
    let effects = [effects, h.advance(5_000)].concat();
    assert!(ids(&effects, NEW).is_empty());
    assert_eq!(ids(&effects, OLD), BTreeSet::from([running[0].task.0]));
    h.succeed(NEW, &running[1]);
    assert_eq!(h.state(running[1].task), TaskState::Succeeded);
}

#[test]
fn an_older_contracts_tasks_stay_with_who_can_decode_them() {
    let policies = [METHOD, LATER].map(policy).to_vec();
    let mut h = Harness::with_policies(config(), policies);
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    join(&mut h, NEW, "2", &[LATER], 1_000);
    set(&mut h, vec![split(10_000)]);
    let (old, effects) = h.submit_one(task(METHOD));
    assert_eq!(ids(&effects, OLD), BTreeSet::from([old.0]));
    set(&mut h, vec![split(0)]);
    let (new, effects) = h.submit_one(task(LATER));
    let effects = [effects, h.advance(10_000)].concat();
    assert_eq!(ids(&effects, NEW), BTreeSet::from([new.0]));
}

#[test]
fn a_split_that_is_over_leaves_nothing_apart() {
    let mut h = Harness::new();
    set(&mut h, vec![split(5_000)]);
    h.submit((0..100).map(|_| task(METHOD)).collect());
    set(&mut h, Vec::new());
    let effects = join(&mut h, NEW, "2", &[METHOD], 1_000);
    assert_eq!(ids(&effects, NEW).len(), 100);
    assert!(h.partition.take_figures(h.now).splits.is_empty());
}

#[test]
fn limits_by_key_hold_over_both_sides() {
    let limited = plait_broker_core::policy::MethodPolicy {
        limits: Limits {
            running_per_key_max: 1,
            ..Limits::default()
        },
        ..policy(METHOD)
    };
    let mut h = Harness::with_policies(config(), vec![limited]);
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    join(&mut h, NEW, "2", &[METHOD], 1_000);
    set(&mut h, vec![split(5_000)]);
    let limited = |n: usize| SubmitTask {
        limit_key: Some(format!("k{}", n % 3).into()),
        ..task(METHOD)
    };
    let tasks = (0..60).map(limited);
    let mut effects = h.submit(tasks.collect());
    let mut done = 0;
    loop {
        let running = [OLD, NEW].map(|conn| attempts(&effects, conn));
        if running.iter().all(Vec::is_empty) {
            break;
        }
        effects = Vec::new();
        for (conn, begun) in [OLD, NEW].into_iter().zip(running) {
            for attempt in begun {
                assert_eq!(conn == NEW, is_new(attempt.task.0, 5_000));
                effects.extend(h.succeed(conn, &attempt));
                done += 1;
            }
        }
        if done == 30 {
            effects.extend(set(&mut h, vec![split(5_000)]));
        }
    }
    assert_eq!(done, 60);
}

#[test]
fn a_flow_and_its_children_are_of_one_version() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD, OTHER], 1_000);
    join(&mut h, NEW, "2", &[METHOD, OTHER], 1_000);
    set(&mut h, vec![split(5_000)]);
    for _ in 0..50 {
        let (id, effects) = h.submit_one(task(METHOD));
        let to = if is_new(id.0, 5_000) { NEW } else { OLD };
        let parent = attempt(&effects, to);
        let (_, effects) = h.submit_one(child(OTHER, 1, (id, parent.token), None));
        let own = attempt(&effects, to);
        let (_, effects) = h.submit_one(child(OTHER, 1, (own.task, own.token), None));
        attempt(&effects, to);
    }
}

#[test]
fn each_side_tells_how_it_did() {
    let mut h = Harness::new();
    join(&mut h, OLD, "1", &[METHOD], 1_000);
    join(&mut h, NEW, "2", &[METHOD], 1_000);
    set(&mut h, vec![split(5_000)]);
    let effects = h.submit((0..40).map(|_| task(METHOD)).collect());
    let (old, new) = (attempts(&effects, OLD), attempts(&effects, NEW));
    h.advance(100);
    for attempt in &old {
        h.succeed(OLD, attempt);
    }
    for attempt in &new[1..] {
        h.fail(NEW, attempt, INVALID_ARGUMENT);
    }
    leave(&mut h, NEW);
    let figures = h.partition.take_figures(h.now).splits;
    let charge = figures.iter().find(|each| *each.method == *METHOD);
    let charge = charge.expect("the method is split");
    assert_eq!(&*charge.version, "2");
    assert_eq!((charge.own.workers, charge.others.workers), (0, 1));
    assert_eq!(charge.own.outcomes[3], new.len() as u64 - 1);
    assert_eq!(charge.own.lost, 1);
    assert_eq!(charge.others.outcomes[0], old.len() as u64);
    assert_eq!(charge.others.busy_ms, 100 * old.len() as u64);
    // 96 ms to 111 ms.
    assert_eq!(charge.others.spans[22], old.len() as u64);
    let again = h.partition.take_figures(h.now).splits;
    assert_eq!(again[0].others.outcomes[0], 0);
}

#[test]
fn splits_are_kept_and_come_back() {
    let mut h = Harness::new();
    set(&mut h, vec![split(5_000)]);
    set(&mut h, vec![split(5_000)]);
    let kept = h.log.iter().filter(|(_, record)| match record {
        Record::KvPut { key, .. } => **key == *plait_broker_core::split::SPLITS_KEY,
        _ => false,
    });
    assert_eq!(kept.count(), 1, "what did not change is not written");
    h.submit((0..100).map(|_| task(METHOD)).collect());
    h.restart();
    h.partition.restore_splits(vec![split(5_000)], h.now);
    let mut effects = join(&mut h, OLD, "1", &[METHOD], 1);
    effects.extend(join(&mut h, NEW, "2", &[METHOD], 1_000));
    let early = ids(&effects, OLD);
    let new = ids(&effects, NEW);
    assert_eq!(early.len(), 2);
    assert!(new.iter().all(|id| is_new(*id, 5_000)));
    let all = (1..=100).filter(|id| is_new(*id, 5_000) && !early.contains(id));
    assert_eq!(new.len(), all.count());
}

#[test]
fn what_is_no_split_is_refused() {
    let mut h = Harness::new();
    let nameless = Split {
        version: "".into(),
        ..split(1)
    };
    for bad in [
        vec![split(10_001)],
        vec![split(1), split(2)],
        vec![nameless],
    ] {
        let effects = set(&mut h, bad);
        assert!(matches!(
            reply(&effects),
            Reply::Error(Error::Invalid { .. })
        ));
    }
    let logged = h.log.iter().any(|(_, r)| matches!(r, Record::KvPut { .. }));
    assert!(!logged);
}
