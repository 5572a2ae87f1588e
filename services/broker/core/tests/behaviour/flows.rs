//! Flows: memoised children, suspension, divergence, and the end of a flow.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::record::*;
use std::collections::BTreeMap;

pub(crate) const FLOW: &str = "/shop.v1.Orders/Settle";
pub(crate) const CHILD: &str = "/shop.v1.Orders/Charge";
pub(crate) const SECOND: ConnId = ConnId(3);

pub(crate) fn harness() -> Harness {
    let mut flow = policy(FLOW);
    flow.attempt_timeout_ms = 3_600_000;
    let mut h = Harness::with_policies(config(), vec![flow, policy(CHILD)]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    h.attach(SECOND, "children", &[CHILD], 100);
    h
}

/// Starts a flow, its frame accepted.
pub(crate) fn flow(h: &mut Harness) -> Attempt {
    let (_, effects) = h.submit_one(task(FLOW));
    let attempt = attempt(&effects, WORKER);
    h.accept(WORKER, 1);
    attempt
}

pub(crate) fn key(attempt: &Attempt) -> (TaskId, Token) {
    (attempt.task, attempt.token)
}

pub(crate) fn call(parent: &Attempt, digest: u128) -> SubmitTask {
    child(CHILD, digest, key(parent), None)
}

/// Ends the flow's attempt by a failure and starts it again.
fn rerun(h: &mut Harness, parent: &Attempt) -> Attempt {
    h.outcome(
        WORKER,
        parent.task,
        parent.token,
        Err((status(UNAVAILABLE), Some(1))),
    );
    let again = attempt(&h.advance(1), WORKER);
    assert_eq!(again.task, parent.task);
    again
}

fn refusal(acceptance: &Acceptance) -> &Error {
    assert_eq!(acceptance.refusals.len(), 1, "{acceptance:?}");
    &acceptance.refusals[0].error
}

fn is_answered(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Accepted { .. }))
}

#[test]
fn a_child_is_run_and_recorded_under_its_parent() {
    let mut h = harness();
    let parent = flow(&mut h);
    let effects = h.submit(vec![call(&parent, 1)]);
    let started = attempt(&effects, SECOND);
    assert_eq!(
        started.extra.as_ref().and_then(|extra| extra.parent),
        Some(parent.task)
    );
    let view = h.view(started.task);
    assert_eq!(view.parent, Some((parent.task, ChildKey::Nth(1, 0))));
    assert_eq!(h.view(parent.task).child_count, 1);
}

#[test]
fn a_rerun_finds_its_finished_children_and_runs_nothing_twice() {
    let mut h = harness();
    let parent = flow(&mut h);
    let effects = h.submit(vec![call(&parent, 1)]);
    let first = attempt(&effects, SECOND);
    h.succeed(SECOND, &first);
    let again = rerun(&mut h, &parent);
    assert_eq!(
        again.extra.as_ref().map(|extra| extra.recorded_children),
        Some(1)
    );
    let effects = h.submit(vec![call(&again, 1)]);
    let accepted = acceptance(&effects);
    assert_eq!(
        (accepted.tasks, accepted.existing),
        (vec![first.task.0], vec![0])
    );
    assert!(attempts(&effects, SECOND).is_empty());
    assert_eq!(
        results(&effects, CLIENT).len(),
        1,
        "answered from the record"
    );
    let effects = h.submit(vec![call(&again, 2)]);
    assert_eq!(
        attempts(&effects, SECOND).len(),
        1,
        "all recorded ones were asked for: a new one"
    );
}

#[test]
fn equal_calls_are_told_apart_by_their_count_in_the_run() {
    let mut h = harness();
    let parent = flow(&mut h);
    let effects = h.submit(vec![call(&parent, 1), call(&parent, 1)]);
    let ids = acceptance(&effects).tasks;
    assert_ne!(ids[0], ids[1]);
    let third = acceptance(&h.submit(vec![call(&parent, 1)])).tasks[0];
    assert_eq!(
        h.view(TaskId(third)).parent,
        Some((parent.task, ChildKey::Nth(1, 2)))
    );
    let again = rerun(&mut h, &parent);
    let all = acceptance(&h.submit(vec![call(&again, 1), call(&again, 1), call(&again, 1)]));
    assert_eq!(all.tasks, [ids[0], ids[1], third]);
}

#[test]
fn a_named_child_is_found_by_its_name_and_must_be_the_same_call() {
    let mut h = harness();
    let parent = flow(&mut h);
    let named = |digest| child(CHILD, digest, key(&parent), Some("charge"));
    let accepted = acceptance(&h.submit(vec![named(1), named(1), named(2)]));
    assert_eq!(accepted.existing, [1]);
    assert!(matches!(refusal(&accepted), Error::FlowDiverged { .. }));
    let later = acceptance(&h.submit(vec![named(1)]));
    assert_eq!(later.tasks[0], accepted.tasks[0]);
    let changed = acceptance(&h.submit(vec![named(3)]));
    let Error::FlowDiverged {
        parent: flow,
        child,
    } = refusal(&changed)
    else {
        panic!()
    };
    assert_eq!(
        (*flow, &**child),
        (parent.task, "/shop.v1.Orders/Charge as \"charge\"")
    );
}

#[test]
fn an_old_run_of_a_flow_can_ask_for_nothing() {
    let mut h = harness();
    let parent = flow(&mut h);
    let again = rerun(&mut h, &parent);
    let accepted = acceptance(&h.submit(vec![call(&parent, 1), call(&again, 1)]));
    assert_eq!(*refusal(&accepted), Error::LeaseLost { task: parent.task });
    assert_ne!(accepted.tasks[1], 0);
}

#[test]
fn a_childs_deadline_is_at_most_its_parents() {
    let mut h = harness();
    let options = SubmitOptions {
        deadline_ms: Some(10_000),
        ..SubmitOptions::default()
    };
    let (_, effects) = h.submit_one(with(task(FLOW), options));
    let parent = attempt(&effects, WORKER);
    h.advance(4_000);
    let id = TaskId(acceptance(&h.submit(vec![call(&parent, 1)])).tasks[0]);
    assert_eq!(h.view(id).expire_at, START + 10_000);
}

#[test]
fn a_waiting_flow_is_suspended_and_gives_its_slot_back() {
    let mut h = harness();
    let parent = flow(&mut h);
    let windows = vec![(name("flows"), 1)];
    h.apply(Command::SetWindows {
        tag: ReplyTag(1),
        windows,
    });
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    assert_eq!(h.state(parent.task), TaskState::Suspended);
    let (_, effects) = h.submit_one(task(FLOW));
    assert_eq!(
        attempts(&effects, WORKER).len(),
        1,
        "another attempt runs in its place"
    );
    let worker = &h.partition.take_figures(h.now).workers[1];
    assert_eq!((worker.in_flight, worker.suspended), (1, 1));
    assert_eq!(
        h.partition.queues()[0].counts,
        [(TaskState::Running, 2), (TaskState::Suspended, 1)]
    );
    h.succeed(SECOND, &first);
    assert_eq!(
        h.state(parent.task),
        TaskState::Running,
        "it goes on at once"
    );
    let worker = &h.partition.take_figures(h.now).workers[1];
    assert_eq!((worker.in_flight, worker.suspended), (2, 0));
}

#[test]
fn awaiting_later_and_other_flows_tasks_suspends_too() {
    let mut h = harness();
    let (other, _) = h.submit_one(task(CHILD));
    let parent = flow(&mut h);
    let wait = |tasks, forget| Command::Await {
        conn: CLIENT,
        tasks,
        forget,
        parent: Some(key(&parent)),
    };
    h.apply(wait(vec![other], vec![]));
    assert_eq!(h.state(parent.task), TaskState::Suspended);
    h.apply(Command::Cancel {
        tag: ReplyTag(1),
        task: other,
        reason: name(""),
    });
    assert_eq!(h.state(parent.task), TaskState::Running);
    let (child, _) = h.submit_one(call(&parent, 1));
    h.apply(wait(vec![], vec![child]));
    assert_eq!(
        h.state(parent.task),
        TaskState::Running,
        "nothing is awaited any more"
    );
}

#[test]
fn a_suspended_flow_whose_worker_vanishes_loses_no_attempt() {
    let mut h = harness();
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.apply(Command::WorkerDetached {
        conn: WORKER,
        reason: name("gone"),
    });
    assert_eq!(h.state(parent.task), TaskState::Suspended);
    let effects = h.attach(ConnId(4), "flows-2", &[FLOW], 2);
    assert!(
        attempts(&effects, ConnId(4)).is_empty(),
        "there is nothing to do yet"
    );
    let effects = h.succeed(SECOND, &first);
    let again = attempt(&effects, ConnId(4));
    assert_eq!((again.task, again.attempt), (parent.task, 1));
}

#[test]
fn after_a_restart_a_flow_with_children_runs_anew_and_finds_them() {
    let mut h = harness();
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.succeed(SECOND, &first);
    h.restart();
    h.apply(Command::SessionOpened {
        conn: CLIENT,
        session: SESSION,
    });
    let effects = h.attach_with(WORKER, "flows", &[FLOW], 2, vec![key(&parent)]);
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::WorkerWelcome { lost, .. } if lost == &[key(&parent)]))
    );
    let again = attempt(&effects, WORKER);
    assert_eq!((again.task, again.attempt), (parent.task, 1));
    let effects = h.submit(vec![call(&again, 1)]);
    assert_eq!(acceptance(&effects).tasks, [first.task.0]);
}

#[test]
fn a_new_call_before_the_recorded_ones_were_asked_for_is_refused_after_the_grace() {
    let mut h = harness();
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.succeed(SECOND, &first);
    let again = rerun(&mut h, &parent);
    let records = h.log.len();
    assert!(!is_answered(&h.submit(vec![call(&again, 2)])), "held");
    assert!(
        !is_answered(&h.submit(vec![task(CHILD)])),
        "the session waits in order"
    );
    assert_eq!(h.log.len(), records, "nothing is recorded");
    assert!(!is_answered(&h.advance(199)));
    let effects = h.advance(1);
    let answers: Vec<Acceptance> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Accepted { acceptance, .. } => Some(acceptance.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(answers.len(), 2);
    let Error::FlowDiverged {
        parent: flow,
        child,
    } = refusal(&answers[0])
    else {
        panic!()
    };
    assert_eq!((*flow, &**child), (parent.task, CHILD));
    assert_eq!(
        attempts(&effects, SECOND).len(),
        1,
        "only the ordinary task starts"
    );
    assert_eq!(h.view(parent.task).child_count, 1);
}

#[test]
fn another_call_of_the_run_lets_an_early_branch_through() {
    let mut h = harness();
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.succeed(SECOND, &first);
    let again = rerun(&mut h, &parent);
    assert!(!is_answered(&h.submit(vec![call(&again, 2)])));
    h.advance(100);
    let effects = h.submit(vec![call(&again, 1)]);
    let answers = effects
        .iter()
        .filter(|e| matches!(e, Effect::Accepted { .. }))
        .count();
    assert_eq!(answers, 2, "both branches are answered");
    assert_eq!(attempts(&effects, SECOND).len(), 1, "the early one is new");
    assert!(h.advance(1_000).is_empty(), "the alarm finds nothing to do");
}

#[test]
fn a_new_call_beside_an_outstanding_one_is_a_branch() {
    let mut h = harness();
    let parent = flow(&mut h);
    let children = attempts(&h.submit(vec![call(&parent, 1), call(&parent, 2)]), SECOND);
    h.succeed(SECOND, &children[0]);
    let again = rerun(&mut h, &parent);
    h.submit(vec![call(&again, 2)]);
    let effects = h.submit(vec![call(&again, 3)]);
    assert!(is_answered(&effects), "the second child is outstanding");
}

#[test]
fn concurrent_branches_in_one_frame_are_not_taken_for_divergence() {
    let mut h = harness();
    let parent = flow(&mut h);
    let children = attempts(&h.submit(vec![call(&parent, 1), call(&parent, 2)]), SECOND);
    children
        .iter()
        .for_each(|attempt| drop(h.succeed(SECOND, attempt)));
    let again = rerun(&mut h, &parent);
    let accepted = acceptance(&h.submit(vec![call(&again, 9), call(&again, 2)]));
    assert_eq!(accepted.existing, [1]);
    assert!(accepted.refusals.is_empty());
}

#[test]
fn one_flows_other_call_does_not_clear_another_flow() {
    let mut h = harness();
    let (one, two) = (flow(&mut h), flow(&mut h));
    for parent in [&one, &two] {
        let first = attempt(&h.submit(vec![call(parent, 1)]), SECOND);
        h.succeed(SECOND, &first);
    }
    let (one, two) = (rerun(&mut h, &one), rerun(&mut h, &two));
    assert!(!is_answered(&h.submit(vec![call(&one, 2), call(&two, 2)])));
    assert!(
        !is_answered(&h.submit(vec![call(&one, 1)])),
        "the other flow is still in doubt"
    );
    let effects = h.advance(200);
    let accepted = acceptance(&effects);
    assert_ne!(accepted.tasks[0], 0);
    assert!(
        matches!(refusal(&accepted), Error::FlowDiverged { parent, .. } if *parent == two.task)
    );
}

#[test]
fn a_held_call_is_forgotten_with_its_stream_and_can_be_sent_again() {
    let mut h = harness();
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.succeed(SECOND, &first);
    let again = rerun(&mut h, &parent);
    h.submit(vec![call(&again, 2)]);
    h.apply(Command::SessionOpened {
        conn: ConnId(70),
        session: SESSION,
    });
    let origin = SubmitOrigin::Session {
        conn: ConnId(70),
        session: SESSION,
        sequence: h.sequence,
    };
    let tasks = vec![call(&again, 2)];
    let effects = h.apply(Command::Submit(Submit {
        origin,
        await_results: true,
        tasks,
    }));
    assert!(!is_answered(&effects));
    assert!(is_answered(&h.advance(200)));
}

#[test]
fn the_end_of_a_flow_cancels_its_unfinished_children() {
    let mut h = harness();
    let parent = flow(&mut h);
    let effects = h.submit(vec![call(&parent, 1), call(&parent, 2)]);
    let children = attempts(&effects, SECOND);
    h.succeed(SECOND, &children[0]);
    let grandchild = child(CHILD, 7, key(&children[1]), None);
    let (grandchild, _) = h.submit_one(grandchild);
    let effects = h.apply(Command::Cancel {
        tag: ReplyTag(1),
        task: parent.task,
        reason: name("x"),
    });
    assert_eq!(stops(&effects, WORKER).len(), 1);
    let late = h.advance(0);
    let told = [stops(&effects, SECOND), stops(&late, SECOND)].concat();
    assert_eq!(told.len(), 2);
    assert_eq!(h.state(children[0].task), TaskState::Succeeded);
    assert_eq!(h.state(children[1].task), TaskState::Cancelled);
    assert_eq!(h.state(grandchild), TaskState::Cancelled);
    let last = h.view(grandchild).events.last().map(|event| event.cause);
    assert_eq!(last, Some("PARENT_ENDED"));
}

#[test]
fn a_flow_that_succeeds_leaves_its_children_alone() {
    let mut h = harness();
    let parent = flow(&mut h);
    let started = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.succeed(WORKER, &parent);
    h.advance(0);
    assert!(!h.state(started.task).is_final());
    assert!(refused(&h.succeed(SECOND, &started)).is_empty());
}

#[test]
fn a_large_family_is_cancelled_in_bounded_steps_and_a_restart_goes_on() {
    let mut h = harness();
    let parent = flow(&mut h);
    for batch in 0..20u128 {
        h.submit(
            (0..250u128)
                .map(|n| call(&parent, batch * 250 + n))
                .collect(),
        );
    }
    h.apply(Command::Cancel {
        tag: ReplyTag(1),
        task: parent.task,
        reason: name("x"),
    });
    let left = |h: &Harness| {
        let all = h
            .partition
            .tasks_before(TaskId(u64::MAX), 10_000, 10_000, &|view| {
                view.parent.is_some() && !view.state.is_final()
            });
        all.0.len()
    };
    let remaining = left(&h);
    assert!((1..5_000).contains(&remaining), "{remaining}");
    assert_eq!(
        h.partition.next_timer(),
        Some(h.now),
        "the rest is due at once"
    );
    h.restart();
    h.advance(0);
    assert_eq!(left(&h), 0);
}

#[test]
fn finished_children_stay_while_their_flow_is_unfinished() {
    let mut flow_policy = policy(FLOW);
    flow_policy.attempt_timeout_ms = 3_600_000;
    flow_policy.retention_ms = 60_000;
    let mut child_policy = policy(CHILD);
    child_policy.retention_ms = 1_000;
    let mut h = Harness::with_policies(config(), vec![flow_policy, child_policy]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    h.attach(SECOND, "children", &[CHILD], 100);
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.succeed(SECOND, &first);
    h.advance(1_000_000);
    assert!(h.partition.task(first.task).is_some());
    h.succeed(WORKER, &parent);
    h.advance(999);
    assert!(
        h.partition.task(first.task).is_some(),
        "retention counts from the later end"
    );
    h.advance(1);
    assert!(h.partition.task(first.task).is_none());
    assert_eq!(h.view(parent.task).child_count, 0);
}

#[test]
fn a_flow_that_is_run_again_asks_anew_for_children_that_did_not_succeed() {
    let mut h = harness();
    let parent = flow(&mut h);
    let children = attempts(
        &h.submit(vec![call(&parent, 1), call(&parent, 2), call(&parent, 3)]),
        SECOND,
    );
    h.succeed(SECOND, &children[0]);
    h.fail(SECOND, &children[1], INVALID_ARGUMENT);
    h.fail(WORKER, &parent, INVALID_ARGUMENT);
    let redrive = Command::Redrive {
        tag: ReplyTag(1),
        tasks: vec![parent.task],
        archived: BTreeMap::new(),
        dry_run: false,
    };
    let again = attempt(&h.apply(redrive), WORKER);
    assert_eq!(
        again.extra.as_ref().map(|extra| extra.recorded_children),
        Some(1)
    );
    let accepted = acceptance(&h.submit(vec![call(&again, 1), call(&again, 2), call(&again, 3)]));
    assert_eq!(accepted.existing, [0]);
    assert!(accepted.tasks[1] > children[2].task.0);
    assert_eq!(
        h.state(children[2].task),
        TaskState::Cancelled,
        "it was, when the flow failed"
    );
    let mut replayed = h.replayed();
    assert_eq!(replayed.image(h.now).collect::<Vec<_>>(), h.image());
}

#[test]
fn a_child_of_a_failed_flow_is_run_again_by_its_flow_only() {
    let mut h = harness();
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.fail(SECOND, &first, INVALID_ARGUMENT);
    h.fail(WORKER, &parent, INVALID_ARGUMENT);
    let redrive = |tasks| Command::Redrive {
        tag: ReplyTag(1),
        tasks,
        archived: BTreeMap::new(),
        dry_run: false,
    };
    let refused = reply(&h.apply(redrive(vec![first.task])));
    let Reply::Error(Error::StateConflict { task, state }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((task, state), (parent.task, TaskState::Failed));
    let both = h.apply(redrive(vec![first.task, parent.task]));
    assert!(matches!(reply(&both), Reply::Count(1)));
    assert_eq!(attempt(&both, WORKER).task, parent.task);
}

#[test]
fn a_failed_child_of_a_cancelled_flow_is_run_again_for_its_own_sake() {
    let mut h = harness();
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.fail(SECOND, &first, INVALID_ARGUMENT);
    h.apply(Command::Cancel {
        tag: ReplyTag(1),
        task: parent.task,
        reason: name("x"),
    });
    let redrive = Command::Redrive {
        tag: ReplyTag(1),
        tasks: vec![first.task],
        archived: BTreeMap::new(),
        dry_run: false,
    };
    assert!(matches!(reply(&h.apply(redrive)), Reply::Count(1)));
    assert_eq!(
        (h.view(first.task).parent, h.view(parent.task).child_count),
        (None, 0)
    );
    h.restart();
    h.advance(5_000);
    assert_eq!(
        h.state(first.task),
        TaskState::Ready,
        "the end of the flow does not reach it"
    );
}

#[test]
fn children_are_kept_as_long_as_their_flow_can_be_run_again() {
    let mut flow_policy = policy(FLOW);
    flow_policy.dead_letter_retention_ms = 1_000_000;
    let mut child_policy = policy(CHILD);
    child_policy.retention_ms = 1_000;
    let mut h = Harness::with_policies(config(), vec![flow_policy, child_policy]);
    h.attach(WORKER, "flows", &[FLOW], 2);
    h.attach(SECOND, "children", &[CHILD], 100);
    let parent = flow(&mut h);
    let first = attempt(&h.submit(vec![call(&parent, 1)]), SECOND);
    h.succeed(SECOND, &first);
    h.fail(WORKER, &parent, INVALID_ARGUMENT);
    h.advance(900_000);
    let redrive = Command::Redrive {
        tag: ReplyTag(1),
        tasks: vec![parent.task],
        archived: BTreeMap::new(),
        dry_run: false,
    };
    let again = attempt(&h.apply(redrive), WORKER);
    assert_eq!(
        acceptance(&h.submit(vec![call(&again, 1)])).tasks,
        [first.task.0]
    );
    h.fail(WORKER, &again, INVALID_ARGUMENT);
    h.advance(1_000_001);
    assert_eq!(h.partition.load().1, 0);
}
