//! Flows that leave their worker's memory while they wait, and come back.

use crate::flows::{CHILD, FLOW, SECOND, call, flow, harness, key};
use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;

#[test]
fn an_unloaded_flow_is_run_again_when_a_child_ends() {
    let mut h = harness();
    let parent = flow(&mut h);
    let children = attempts(&h.submit(vec![call(&parent, 1), call(&parent, 2)]), SECOND);
    let effects = h.apply(Command::Suspend {
        conn: WORKER,
        leases: vec![key(&parent)],
    });
    assert!(attempts(&effects, WORKER).is_empty());
    assert_eq!(
        (h.state(parent.task), h.view(parent.task).worker),
        (TaskState::Suspended, None)
    );
    let effects = h.succeed(SECOND, &children[0]);
    let again = attempt(&effects, WORKER);
    assert_eq!(
        (again.task, again.attempt),
        (parent.task, 1),
        "it costs no attempt"
    );
    assert!(again.token > parent.token);
    assert_eq!(refused(&h.succeed(WORKER, &parent)).len(), 1);
}

#[test]
fn a_flow_that_waits_longer_than_an_attempt_may_take_is_unloaded_and_loses_no_attempt() {
    let mut short = policy(FLOW);
    short.attempt_timeout_ms = 1_000;
    let mut h = Harness::with_policies(config(), vec![short, policy(CHILD)]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    h.attach(SECOND, "children", &[CHILD], 2);
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.advance(999);
    assert_eq!(h.view(parent.task).worker, Some(name("flows")));
    let effects = h.advance(1);
    let stop = |effect: &Effect| match effect {
        Effect::Stop { conn, entries } if *conn == WORKER => Some(entries.clone()),
        _ => None,
    };
    let stopped = effects.iter().find_map(stop).expect("its worker is told");
    let told = (parent.task, parent.token, StopReason::AttemptTimedOut);
    assert_eq!(stopped, [told]);
    let view = h.view(parent.task);
    assert_eq!((view.state, view.worker), (TaskState::Suspended, None));
    h.advance(10_000);
    let resumed = attempt(&h.succeed(SECOND, &first), WORKER);
    assert_eq!((resumed.task, resumed.attempt), (parent.task, 1));
    let mut replayed = h.replayed();
    assert_eq!(replayed.image(h.now).collect::<Vec<_>>(), h.image());
}

#[test]
fn a_flow_unloaded_while_a_result_was_on_its_way_is_run_again_at_once() {
    let mut h = harness();
    let parent = flow(&mut h);
    let children = attempts(&h.submit(vec![call(&parent, 1), call(&parent, 2)]), SECOND);
    h.succeed(SECOND, &children[0]);
    let effects = h.apply(Command::Suspend {
        conn: WORKER,
        leases: vec![key(&parent)],
    });
    assert_eq!(attempts(&effects, WORKER).len(), 1);
}

#[test]
fn an_unloaded_flow_wakes_after_a_restart() {
    let mut h = harness();
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.apply(Command::Suspend {
        conn: WORKER,
        leases: vec![key(&parent)],
    });
    h.restart();
    h.attach_with(SECOND, "children", &[CHILD], 9, vec![key(&first)]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    let effects = h.succeed(SECOND, &first);
    assert_eq!(attempt(&effects, WORKER).task, parent.task);
}

#[test]
fn at_most_once_is_not_repeated_by_unloading() {
    let mut flow_policy = policy(FLOW);
    flow_policy.at_most_once = true;
    let mut h = Harness::with_policies(config(), vec![flow_policy, policy(CHILD)]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    let parent = flow(&mut h);
    h.submit(vec![call(&parent, 1)]);
    h.apply(Command::Suspend {
        conn: WORKER,
        leases: vec![key(&parent)],
    });
    assert_eq!(h.state(parent.task), TaskState::Failed);
}

#[test]
fn at_most_once_is_not_unloaded_by_time() {
    let mut flow_policy = policy(FLOW);
    flow_policy.at_most_once = true;
    let mut h = Harness::with_policies(config(), vec![flow_policy, policy(CHILD)]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    let parent = flow(&mut h);
    h.submit(vec![call(&parent, 1)]);
    h.advance(policy(FLOW).attempt_timeout_ms);
    assert_eq!(h.state(parent.task), TaskState::Failed);
}
