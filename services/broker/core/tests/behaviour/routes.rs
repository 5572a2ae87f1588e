//! Routes of one method: tasks that not every worker of it may take.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::ids::*;

const SECOND: ConnId = ConnId(3);
const LATER: &str = "/shop.v1.Orders/Charge@2";

fn routed() -> Harness {
    assert_eq!(plait_broker_core::policy::method_of(LATER), METHOD);
    // The later one first, as in a snapshot of another order.
    let policies = [LATER, METHOD, OTHER].map(policy).to_vec();
    Harness::with_policies(config(), policies)
}

#[test]
fn a_task_goes_to_workers_that_serve_its_route() {
    let mut h = routed();
    h.attach(WORKER, "old", &[METHOD], 4);
    let (id, effects) = h.submit_one(task(LATER));
    assert!(attempts(&effects, WORKER).is_empty());
    let (_, effects) = h.submit_one(task(METHOD));
    assert_eq!(attempts(&effects, WORKER).len(), 1);
    let effects = h.attach(SECOND, "new", &[METHOD, LATER], 4);
    let got = attempt(&effects, SECOND);
    assert_eq!((got.task, got.method), (id, 1));
}

#[test]
fn what_people_see_is_the_method() {
    let mut h = routed();
    let (id, _) = h.submit_one(task(LATER));
    h.submit_one(task(METHOD));
    assert_eq!(&*h.view(id).method, METHOD);
    let now = h.now;
    let queues = h.partition.queues();
    let mut methods: Vec<_> = queues
        .iter()
        .flat_map(|queue| queue.methods.clone())
        .collect();
    methods.sort_unstable();
    assert_eq!(methods, [name(METHOD), name(OTHER)]);
    let figures = h.partition.take_figures(now).methods;
    assert_eq!(figures.len(), 1);
    assert_eq!((&*figures[0].method, figures[0].submitted), (METHOD, 2));
    assert!(h.partition.take_figures(now).methods.is_empty());
}

#[test]
fn a_key_is_the_method_s_by_whatever_route() {
    let mut h = routed();
    let (first, _) = h.submit_one(keyed(LATER, "k", 1));
    let frame = vec![
        keyed(METHOD, "k", 1),
        keyed(METHOD, "k", 2),
        keyed(METHOD, "new", 3),
        keyed(LATER, "new", 3),
        keyed(OTHER, "k", 1),
    ];
    let accepted = acceptance(&h.submit(frame));
    assert_eq!(accepted.tasks[0], first.0);
    assert_eq!(accepted.tasks[3], accepted.tasks[2]);
    assert_eq!(accepted.existing, [0, 3]);
    let refused: Vec<u32> = accepted
        .refusals
        .iter()
        .map(|refusal| refusal.index)
        .collect();
    assert_eq!(refused, [1]);
    h.restart();
    h.apply(Command::SessionOpened {
        conn: CLIENT,
        session: SESSION,
    });
    let accepted = acceptance(&h.submit(vec![keyed(METHOD, "k", 1)]));
    assert_eq!(accepted.tasks, [first.0]);
}

#[test]
fn a_flow_finds_a_child_that_went_by_another_route() {
    let mut h = routed();
    h.attach(WORKER, "old", &[OTHER], 4);
    let (flow, effects) = h.submit_one(task(OTHER));
    let run = attempt(&effects, WORKER);
    let (made, _) = h.submit_one(child(METHOD, 7, (flow, run.token), None));
    h.fail(WORKER, &run, 14);
    let effects = h.advance(1_000);
    let again = attempt(&effects, WORKER);
    let accepted = acceptance(&h.submit(vec![child(LATER, 7, (flow, again.token), None)]));
    assert_eq!(accepted.tasks, [made.0]);
}
