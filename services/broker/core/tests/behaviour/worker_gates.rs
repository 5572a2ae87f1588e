//! Gates of workers, what is said of a worker since, and who is told when attempts begin to fail.

use crate::harness::*;
use plait_broker_core::WorkerSaid;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;

const SECOND: ConnId = ConnId(3);
const LATER: &str = "/shop.v1.Orders/Charge@2";
const CANCELLED: u32 = 1;
const NOT_FOUND: u32 = 5;

fn gate(h: &mut Harness, worker: &str, permits: Option<u32>, valid_ms: u64) -> Vec<Effect> {
    h.apply(Command::SetWorkerGates {
        tag: ReplyTag(7),
        gates: vec![WorkerGate {
            worker: name(worker),
            permits,
            valid_ms,
        }],
    })
}

fn await_failures(h: &mut Harness, tag: u64) -> Vec<Effect> {
    h.apply(Command::AwaitFailures { tag: ReplyTag(tag) })
}

fn said(h: &mut Harness, worker: &str) -> WorkerSaid {
    let workers = h.partition.take_figures(h.now).workers;
    let found = workers.into_iter().find(|each| *each.worker == *worker);
    found.expect("an attached worker").said
}

fn two_workers() -> Harness {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    h.attach(SECOND, "w2", &[METHOD], 8);
    h
}

/// Attempts that begin and fail, one after the other.
fn fail(h: &mut Harness, code: u32, count: usize) -> Vec<Effect> {
    let mut last = Vec::new();
    for _ in 0..count {
        let (_, effects) = h.submit_one(task(METHOD));
        let begun = attempt(&effects, WORKER);
        last = h.fail(WORKER, &begun, code);
    }
    last
}

fn told(effects: &[Effect]) -> Vec<u64> {
    let tags = effects.iter().filter_map(|effect| match effect {
        Effect::Reply { tag, .. } => Some(tag.0),
        _ => None,
    });
    tags.collect()
}

#[test]
fn a_worker_without_permits_gets_nothing_and_others_get_its_share() {
    let mut h = two_workers();
    gate(&mut h, "w1", Some(0), 60_000);
    let effects = h.submit((0..10).map(|_| task(METHOD)).collect());
    assert!(attempts(&effects, WORKER).is_empty());
    assert_eq!(attempts(&effects, SECOND).len(), 10);
    assert_eq!(said(&mut h, "w1").permits, Some(0));
    gate(&mut h, "w1", None, 0);
    let effects = h.submit((0..10).map(|_| task(METHOD)).collect());
    assert!(!attempts(&effects, WORKER).is_empty());
    assert_eq!(said(&mut h, "w1").permits, None);
}

#[test]
fn as_many_probes_begin_as_may() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    gate(&mut h, "w1", Some(0), 60_000);
    h.submit((0..5).map(|_| task(METHOD)).collect());
    let effects = gate(&mut h, "w1", Some(2), 60_000);
    let begun = attempts(&effects, WORKER);
    assert_eq!(begun.len(), 2);
    // An end is no permit.
    let effects = h.succeed(WORKER, &begun[0]);
    assert!(attempts(&effects, WORKER).is_empty());
    let effects = gate(&mut h, "w1", None, 0);
    assert_eq!(attempts(&effects, WORKER).len(), 3);
}

#[test]
fn a_gate_that_nobody_sets_again_is_over() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    gate(&mut h, "w1", Some(0), 10_000);
    let (id, _) = h.submit_one(task(METHOD));
    h.advance(9_999);
    assert_eq!(h.state(id), TaskState::Ready);
    let effects = h.advance(1);
    assert_eq!(attempt(&effects, WORKER).task, id);
}

#[test]
fn a_gate_ends_with_its_worker() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    gate(&mut h, "w1", Some(0), 10_000);
    h.apply(Command::WorkerDetached {
        conn: WORKER,
        reason: name("gone"),
    });
    let (id, _) = h.submit_one(task(METHOD));
    // Another one may stand in its place, with a gate of its own, when its time is over.
    let effects = h.attach(SECOND, "w2", &[METHOD], 8);
    assert_eq!(attempt(&effects, SECOND).task, id);
    gate(&mut h, "w2", Some(0), 60_000);
    h.advance(10_000);
    assert_eq!(said(&mut h, "w2").permits, Some(0));
}

#[test]
fn a_worker_that_is_not_attached_has_no_gate() {
    let mut h = Harness::new();
    let effects = gate(&mut h, "nobody", Some(0), 1);
    let Reply::Unknown(unknown) = reply(&effects) else {
        panic!("{effects:?}");
    };
    assert_eq!(unknown, [name("nobody")]);
}

#[test]
fn ends_are_told_by_method_and_by_what_they_say() {
    let policies = [METHOD, LATER, OTHER].map(policy).to_vec();
    let mut h = Harness::with_policies(config(), policies);
    h.attach(WORKER, "w1", &[OTHER, METHOD, LATER], 8);
    for (method, code) in [
        (METHOD, UNAVAILABLE),
        (LATER, UNAVAILABLE),
        (METHOD, NOT_FOUND),
        (METHOD, CANCELLED),
        (OTHER, NOT_FOUND),
    ] {
        let (_, effects) = h.submit_one(task(method));
        let begun = attempt(&effects, WORKER);
        h.fail(WORKER, &begun, code);
    }
    let figures = h.partition.take_figures(h.now);
    let said = &figures.workers[0].said;
    let by_name = said.methods.iter().map(|(place, well, ill)| {
        let method = &figures.methods[*place as usize].method;
        (&**method, *well, *ill)
    });
    assert_eq!(by_name.collect::<Vec<_>>(), [(METHOD, 1, 2), (OTHER, 1, 0)]);
    assert_eq!(said.nothing, 1);
}

#[test]
fn attempts_that_began_before_say_nothing_of_a_worker() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    let (_, effects) = h.submit_one(task(METHOD));
    let before = attempt(&effects, WORKER);
    gate(&mut h, "w1", Some(1), 60_000);
    let (_, effects) = h.submit_one(task(METHOD));
    let probe = attempt(&effects, WORKER);
    h.fail(WORKER, &before, UNAVAILABLE);
    assert!(said(&mut h, "w1").methods.is_empty());
    h.fail(WORKER, &probe, UNAVAILABLE);
    assert_eq!(said(&mut h, "w1").methods, [(0, 0, 1)]);
}

#[test]
fn a_worker_that_is_closed_off_says_nothing_of_its_methods() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    let (_, effects) = h.submit_one(task(METHOD));
    let before = attempt(&effects, WORKER);
    gate(&mut h, "w1", Some(1), 60_000);
    h.fail(WORKER, &before, UNAVAILABLE);
    fail(&mut h, UNAVAILABLE, 1);
    let figures = h.partition.take_figures(h.now);
    let (outcomes, fresh) = (figures.methods[0].outcomes, figures.methods[0].fresh);
    let (ill, nothing) = (UNAVAILABLE as usize, CANCELLED as usize);
    assert_eq!(outcomes[ill], 2);
    assert_eq!((fresh[ill], fresh[nothing]), (0, 2));
}

#[test]
fn who_waits_for_failures_is_told_at_the_tenth_and_once() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    await_failures(&mut h, 40);
    assert!(told(&fail(&mut h, UNAVAILABLE, 9)).is_empty());
    assert_eq!(told(&fail(&mut h, UNAVAILABLE, 1)), [40]);
    assert!(told(&fail(&mut h, UNAVAILABLE, 1)).is_empty());
    // Whoever comes before they are told is told at once; afterwards only of new ones.
    assert_eq!(told(&await_failures(&mut h, 41)), [41]);
    let early = h.partition.take_early_figures();
    assert_eq!(early.methods[0].fresh[UNAVAILABLE as usize], 11);
    assert_eq!(early.workers[0].said.methods, [(0, 0, 11)]);
    assert!(told(&await_failures(&mut h, 42)).is_empty());
    assert_eq!(told(&fail(&mut h, UNAVAILABLE, 10)), [42]);
}

#[test]
fn early_figures_take_only_what_breakers_go_by() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    fail(&mut h, UNAVAILABLE, 3);
    h.partition.take_early_figures();
    let figures = h.partition.take_figures(h.now);
    let (method, worker) = (&figures.methods[0], &figures.workers[0]);
    let code = UNAVAILABLE as usize;
    assert_eq!((method.outcomes[code], method.fresh[code]), (3, 0));
    assert_eq!((method.submitted, method.retried), (3, 3));
    assert_eq!((worker.failed, worker.said.methods.len()), (3, 0));
}

#[test]
fn what_is_no_failure_of_a_method_tells_nobody() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    await_failures(&mut h, 40);
    assert!(told(&fail(&mut h, NOT_FOUND, 20)).is_empty());
    // One in four of its outcomes must be a failure.
    h.partition.take_figures(h.now);
    for _ in 0..40 {
        let (_, effects) = h.submit_one(task(METHOD));
        let begun = attempt(&effects, WORKER);
        h.succeed(WORKER, &begun);
    }
    assert!(told(&fail(&mut h, UNAVAILABLE, 13)).is_empty());
    assert_eq!(told(&fail(&mut h, UNAVAILABLE, 1)), [40]);
}

#[test]
fn a_method_with_a_gate_tells_nobody() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 8);
    await_failures(&mut h, 40);
    h.apply(Command::SetGates {
        tag: ReplyTag(1),
        gates: vec![Gate {
            method: name(METHOD),
            permits: Some(20),
            valid_ms: 60_000,
        }],
    });
    assert!(told(&fail(&mut h, UNAVAILABLE, 20)).is_empty());
}

#[test]
fn who_waits_later_takes_the_place() {
    let mut h = Harness::new();
    await_failures(&mut h, 40);
    assert_eq!(told(&await_failures(&mut h, 41)), [40]);
}
