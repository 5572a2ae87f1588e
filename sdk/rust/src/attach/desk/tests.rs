use super::*;
use crate::attempt::Facts;
use crate::flags::Readings;
use crate::session::tests::method;
use std::future::pending;

fn lease(task: u64) -> Lease {
    Lease { task, token: 1 }
}

fn attempt(desk: &Desk, task: u64) -> Attempt {
    Attempt::new(Facts {
        lease: lease(task),
        extra: None,
        method: method("/a.B/C"),
        deadline: crate::clock::now(),
        client: 1,
        desk: Some(desk.clone()),
        trace: None,
        flags: Readings::default(),
    })
}

fn received(task: u64) -> Received {
    Received {
        lease: lease(task),
        method: 0,
        payload: Bytes::new(),
        deadline: crate::clock::now(),
        extra: None,
    }
}

fn wait(desk: &Desk, tasks: impl IntoIterator<Item = u64>) {
    desk.receive(1, tasks.into_iter().map(received));
}

fn next(desk: &Desk, slots: usize) -> Option<u64> {
    desk.next(slots).map(|received| received.lease.task)
}

#[tokio::test]
async fn attempts_wait_for_slots_in_their_order() {
    let desk = Desk::new();
    wait(&desk, [1, 2]);
    assert_eq!(next(&desk, 1), Some(1));
    let (done, end) = tokio::sync::oneshot::channel();
    desk.spawn(attempt(&desk, 1), async move {
        end.await.expect("told to");
        Ok(Bytes::new())
    });
    assert_eq!(next(&desk, 1), None);
    done.send(()).expect("running");
    desk.freed().await;
    assert_eq!(next(&desk, 1), Some(2));
}

#[tokio::test]
async fn a_wait_for_children_gives_the_slot_back_once() {
    let desk = Desk::new();
    let flow = attempt(&desk, 1);
    desk.spawn(flow.clone(), pending());
    wait(&desk, [2, 3]);
    assert_eq!(next(&desk, 1), None);
    desk.give_back_slot(&flow);
    desk.give_back_slot(&flow);
    assert_eq!(next(&desk, 1), Some(2));
    desk.spawn(attempt(&desk, 2), pending());
    assert_eq!(next(&desk, 1), None, "two waits of one flow are one slot");
    desk.take_slot_again(&flow);
    assert_eq!(next(&desk, 2), Some(3), "one of its two waits is over");
    desk.take_slot_again(&flow);
    wait(&desk, [4]);
    assert_eq!(next(&desk, 2), None, "it has its slot again");
}

#[tokio::test]
async fn a_flow_that_waits_from_its_first_poll_holds_no_slot() {
    let desk = Desk::new();
    let flow = attempt(&desk, 1);
    desk.give_back_slot(&flow);
    desk.spawn(flow.clone(), pending());
    wait(&desk, [2]);
    assert_eq!(next(&desk, 1), Some(2));
    desk.stop(&HashSet::from([lease(1)]));
    desk.take_slot_again(&flow);
    wait(&desk, [3]);
    assert_eq!(
        next(&desk, 1),
        Some(3),
        "a stopped flow takes nothing again"
    );
}

#[tokio::test]
async fn what_is_stopped_is_dropped_wherever_it_is_and_told_nothing_of() {
    let desk = Desk::new();
    desk.tell(|outbox| outbox.welcome(&HashSet::new()));
    let flow = attempt(&desk, 1);
    desk.spawn(flow.clone(), pending());
    wait(&desk, [2, 3]);
    desk.stop(&HashSet::from([lease(1), lease(2)]));
    flow.stopped().await;
    assert_eq!(next(&desk, 1), Some(3));
    assert!(desk.is_drained());
}

#[tokio::test]
async fn the_hello_names_all_that_is_held() {
    let desk = Desk::new();
    wait(&desk, [1]);
    desk.spawn(attempt(&desk, 2), pending());
    desk.finish_at_once(lease(3), Ok(Bytes::new()));
    let mut held = Vec::new();
    drop(desk.reopen(|leases| {
        held = leases.iter().map(|lease| lease.task).collect();
        crate::pb::v1::WorkerHello::default()
    }));
    assert_eq!(held, [1, 2, 3]);
}
