//! Calls of flows whose worker has not come back since the restart: its submissions may be faster than its attempts.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::record::Acceptance;

const FLOW: &str = "/shop.v1.Orders/Settle";
const CHILD: &str = "/shop.v1.Orders/Charge";

/// A flow that runs, and its broker that has just restarted; only the session of its calls is back.
fn restarted(children: u128) -> (Harness, Attempt) {
    let mut h = Harness::with_policies(config(), vec![policy(FLOW), policy(CHILD)]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    let (_, effects) = h.submit_one(task(FLOW));
    let flow = attempt(&effects, WORKER);
    h.accept(WORKER, 1);
    for digest in 0..children {
        h.submit(vec![call(&flow, digest)]);
    }
    h.restart();
    h.apply(Command::SessionOpened {
        conn: CLIENT,
        session: SESSION,
    });
    (h, flow)
}

fn call(flow: &Attempt, digest: u128) -> SubmitTask {
    child(CHILD, digest, (flow.task, flow.token), None)
}

fn answers(effects: &[Effect]) -> Vec<Acceptance> {
    let accepted = effects.iter().filter_map(|effect| match effect {
        Effect::Accepted { acceptance, .. } => Some(acceptance.clone()),
        _ => None,
    });
    accepted.collect()
}

fn back(h: &mut Harness, flow: &Attempt) -> Vec<Effect> {
    h.attach_with(WORKER, "flows", &[FLOW], 2, vec![(flow.task, flow.token)])
}

#[test]
fn a_call_waits_until_its_worker_is_back() {
    let (mut h, flow) = restarted(0);
    let records = h.log.len();
    assert!(
        answers(&h.submit(vec![call(&flow, 1)])).is_empty(),
        "it waits"
    );
    assert!(
        answers(&h.submit(vec![task(CHILD)])).is_empty(),
        "so does its session"
    );
    assert!(
        answers(&h.submit(vec![call(&flow, 2)])).is_empty(),
        "another call of it does not help"
    );
    assert_eq!(h.log.len(), records, "nothing is recorded");
    let answers = answers(&back(&mut h, &flow));
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|answer| answer.refusals.is_empty()));
    let view = h.view(flow.task);
    assert_eq!((view.attempt, view.child_count), (1, 2));
}

#[test]
fn a_call_whose_worker_does_not_come_back_finds_its_lease_lost() {
    let (mut h, flow) = restarted(0);
    assert!(answers(&h.submit(vec![call(&flow, 1)])).is_empty());
    let grace = config().reattach_grace_ms;
    assert!(answers(&h.advance(grace - 1)).is_empty());
    let answers = answers(&h.advance(1));
    let lost = Error::LeaseLost { task: flow.task };
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].refusals[0].error, lost);
    // No attempt is burnt by it.
    h.attach(WORKER, "others", &[FLOW], 2);
    assert_eq!(h.view(flow.task).attempt, 1);
}

#[test]
fn a_call_of_a_run_that_is_over_finds_its_lease_lost_when_its_worker_is_back() {
    let (mut h, flow) = restarted(2);
    assert!(answers(&h.submit(vec![call(&flow, 0)])).is_empty());
    let effects = back(&mut h, &flow);
    let again = attempt(&effects, WORKER);
    assert!(again.token > flow.token, "a flow with children runs anew");
    let answers = answers(&effects);
    let lost = Error::LeaseLost { task: flow.task };
    assert_eq!(answers[0].refusals[0].error, lost);
}

/// A client that connects again sends again what was not answered.
#[test]
fn what_waits_is_forgotten_with_its_stream() {
    let (mut h, flow) = restarted(0);
    h.submit(vec![call(&flow, 1)]);
    h.apply(Command::SessionClosed { conn: CLIENT });
    assert!(answers(&back(&mut h, &flow)).is_empty());
    assert_eq!(h.view(flow.task).child_count, 0);
}
