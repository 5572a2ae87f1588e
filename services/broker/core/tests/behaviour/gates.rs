//! Gates: how many attempts of a method may begin while its breaker is not closed.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;

const LATER: &str = "/shop.v1.Orders/Charge@2";
const UNAVAILABLE: u32 = 14;

fn gate(h: &mut Harness, method: &str, permits: Option<u32>, valid_ms: u64) -> Vec<Effect> {
    h.apply(Command::SetGates {
        tag: ReplyTag(7),
        gates: vec![Gate {
            method: name(method),
            permits,
            valid_ms,
        }],
    })
}

fn fresh(h: &mut Harness, code: usize) -> (u64, u64, Option<u32>) {
    let figures = h.partition.take_figures(h.now).methods;
    let found = figures.iter().find(|each| *each.method == *METHOD);
    found.map_or((0, 0, None), |each| {
        (each.outcomes[code], each.fresh[code], each.permits)
    })
}

#[test]
fn while_none_may_begin_tasks_are_parked_and_burn_no_attempt() {
    let mut h = Harness::new();
    h.attach(WORKER, "w", &[METHOD, OTHER], 8);
    gate(&mut h, METHOD, Some(0), 60_000);
    let (id, effects) = h.submit_one(task(METHOD));
    assert!(attempts(&effects, WORKER).is_empty());
    assert_eq!(h.state(id), TaskState::Parked);
    assert_eq!(h.partition.queues()[0].counts, [(TaskState::Parked, 1)]);
    // Others go on.
    let (_, effects) = h.submit_one(task(OTHER));
    assert_eq!(attempts(&effects, WORKER).len(), 1);
    let effects = gate(&mut h, METHOD, None, 0);
    assert_eq!(attempt(&effects, WORKER).attempt, 1);
}

#[test]
fn as_many_begin_as_may() {
    let mut h = Harness::new();
    h.attach(WORKER, "w", &[METHOD], 8);
    gate(&mut h, METHOD, Some(0), 60_000);
    h.submit((0..5).map(|_| task(METHOD)).collect());
    let effects = gate(&mut h, METHOD, Some(2), 60_000);
    let begun = attempts(&effects, WORKER);
    assert_eq!(begun.len(), 2);
    // An end is no permit.
    let effects = h.succeed(WORKER, &begun[0]);
    assert!(attempts(&effects, WORKER).is_empty());
    assert_eq!(fresh(&mut h, 0), (1, 1, Some(0)));
    let effects = gate(&mut h, METHOD, Some(1), 60_000);
    assert_eq!(attempts(&effects, WORKER).len(), 1);
    let effects = gate(&mut h, METHOD, None, 0);
    assert_eq!(attempts(&effects, WORKER).len(), 2);
}

#[test]
fn a_gate_holds_for_every_route_of_its_method() {
    let policies = [METHOD, LATER].map(policy).to_vec();
    let mut h = Harness::with_policies(config(), policies);
    h.attach(WORKER, "w", &[METHOD, LATER], 8);
    gate(&mut h, METHOD, Some(0), 60_000);
    h.submit(vec![task(METHOD), task(LATER), task(LATER)]);
    let effects = gate(&mut h, METHOD, Some(2), 60_000);
    assert_eq!(attempts(&effects, WORKER).len(), 2);
    let effects = gate(&mut h, METHOD, None, 0);
    assert_eq!(attempts(&effects, WORKER).len(), 1);
}

#[test]
fn attempts_that_began_before_are_not_counted_as_probes() {
    let mut h = Harness::new();
    h.attach(WORKER, "w", &[METHOD], 8);
    let (_, effects) = h.submit_one(task(METHOD));
    let before = attempt(&effects, WORKER);
    gate(&mut h, METHOD, Some(1), 60_000);
    let (_, effects) = h.submit_one(task(METHOD));
    let probe = attempt(&effects, WORKER);
    h.fail(WORKER, &before, UNAVAILABLE);
    assert_eq!(fresh(&mut h, UNAVAILABLE as usize), (1, 0, Some(0)));
    h.fail(WORKER, &probe, UNAVAILABLE);
    assert_eq!(fresh(&mut h, UNAVAILABLE as usize), (1, 1, Some(0)));
}

#[test]
fn a_lost_worker_says_nothing_of_a_method() {
    let mut h = Harness::new();
    h.attach(WORKER, "w", &[METHOD], 8);
    gate(&mut h, METHOD, Some(1), 60_000);
    let (_, effects) = h.submit_one(task(METHOD));
    attempt(&effects, WORKER);
    h.accept(WORKER, 1);
    h.apply(Command::WorkerDetached {
        conn: WORKER,
        reason: name("killed"),
    });
    let figures = h.partition.take_figures(h.now).methods;
    assert_eq!(figures[0].outcomes[UNAVAILABLE as usize], 1);
    assert_eq!(
        (figures[0].fresh[UNAVAILABLE as usize], figures[0].fresh[1]),
        (0, 1)
    );
}

#[test]
fn a_gate_that_nobody_sets_again_is_over() {
    let mut h = Harness::new();
    h.attach(WORKER, "w", &[METHOD], 8);
    gate(&mut h, METHOD, Some(0), 10_000);
    let (id, _) = h.submit_one(task(METHOD));
    h.advance(9_999);
    gate(&mut h, METHOD, Some(0), 10_000);
    h.advance(9_999);
    assert_eq!(h.state(id), TaskState::Parked);
    let effects = h.advance(1);
    assert_eq!(attempt(&effects, WORKER).task, id);
    assert_eq!(fresh(&mut h, 0).2, None);
}

#[test]
fn a_method_that_is_not_known_has_no_gate() {
    let mut h = Harness::new();
    let effects = gate(&mut h, "/no.Service/Method", Some(0), 1);
    let Reply::Unknown(unknown) = reply(&effects) else {
        panic!("{effects:?}");
    };
    assert_eq!(unknown, [name("/no.Service/Method")]);
}

#[test]
fn a_gate_ends_with_the_process() {
    let mut h = Harness::new();
    gate(&mut h, METHOD, Some(0), 60_000);
    let (id, _) = h.submit_one(task(METHOD));
    h.restart();
    let effects = h.attach(WORKER, "w", &[METHOD], 8);
    assert_eq!(attempt(&effects, WORKER).task, id);
}
