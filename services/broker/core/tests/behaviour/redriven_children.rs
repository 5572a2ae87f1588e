//! Children that are run again while their flow waits for others.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use std::collections::BTreeMap;

const FLOW: &str = "/shop.v1.Orders/Settle";
const SECOND: ConnId = ConnId(3);

/// Found by the simulation, seeds 3265 and 3792: the second end of a child that was redriven counted as the end of
/// another one that the flow still waited for, and the worker's figures of its slots went wrong for good.
#[test]
fn a_redriven_child_ends_for_its_flow_once() {
    let mut h = Harness::with_policies(config(), vec![policy(FLOW), policy(METHOD)]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    h.attach(SECOND, "children", &[METHOD], 100);
    let (_, effects) = h.submit_one(task(FLOW));
    let parent = attempt(&effects, WORKER);
    h.accept(WORKER, 1);
    let run = (parent.task, parent.token);
    let calls = vec![child(METHOD, 1, run, None), child(METHOD, 2, run, None)];
    let children = attempts(&h.submit(calls), SECOND);
    h.fail(SECOND, &children[0], INVALID_ARGUMENT);
    let redrive = Command::Redrive {
        tag: ReplyTag(1),
        tasks: vec![children[0].task],
        archived: BTreeMap::new(),
        dry_run: false,
    };
    let again = attempt(&h.apply(redrive), SECOND);
    h.succeed(SECOND, &again);
    assert_eq!(
        h.state(parent.task),
        TaskState::Suspended,
        "the other one is not over"
    );
    h.succeed(SECOND, &children[1]);
    assert_eq!(h.state(parent.task), TaskState::Running);
    let worker = &h.partition.take_figures(h.now).workers[1];
    assert_eq!((worker.in_flight, worker.suspended), (1, 0));
}
