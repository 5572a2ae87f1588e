//! Limits: how many attempts of a method, and of a key of it, begin in a time and run at once.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::{Limits, MethodPolicy, Rate};

const LATER: &str = "/shop.v1.Orders/Charge@2";
const SECOND: ConnId = ConnId(3);

fn rate(starts: u64, period_ms: u64, burst: u64) -> Limits {
    let rate = Some(Rate {
        starts,
        period_ms,
        burst,
    });
    Limits {
        rate,
        ..Limits::default()
    }
}

fn by_key(limits: Limits) -> Limits {
    Limits {
        rate_by_key: true,
        ..limits
    }
}

fn running(most: u32) -> Limits {
    Limits {
        running_max: most,
        ..Limits::default()
    }
}

fn running_per_key(most: u32) -> Limits {
    Limits {
        running_per_key_max: most,
        ..Limits::default()
    }
}

fn limited(limits: Limits) -> MethodPolicy {
    MethodPolicy {
        limits,
        ..policy(METHOD)
    }
}

fn harness(limits: Limits) -> Harness {
    let mut h = Harness::with_policies(config(), vec![limited(limits), policy(OTHER)]);
    h.attach(WORKER, "w", &[METHOD, OTHER], 1_000);
    h
}

fn change(h: &mut Harness, limits: Limits) -> Vec<Effect> {
    h.apply(Command::ApplyPolicies {
        tag: ReplyTag(0),
        policies: vec![limited(limits)],
    })
}

fn of_key(key: &str) -> SubmitTask {
    SubmitTask {
        limit_key: Some(key.into()),
        ..task(METHOD)
    }
}

fn begun(effects: &[Effect]) -> usize {
    attempts(effects, WORKER).len()
}

/// Submits so many tasks of a key; how many began.
fn submit(h: &mut Harness, key: &str, count: usize) -> Vec<Attempt> {
    let effects = h.submit((0..count).map(|_| of_key(key)).collect());
    attempts(&effects, WORKER)
}

#[test]
fn no_more_attempts_run_than_may() {
    let mut h = harness(running(3));
    let mut held = attempts(&h.submit(vec![task(METHOD); 10]), WORKER);
    assert_eq!(held.len(), 3);
    // Others go on, whatever the limit holds.
    assert_eq!(begun(&h.submit(vec![task(OTHER); 5])), 5);
    for ended in 0..10 {
        let effects = match ended % 3 {
            0 => h.succeed(WORKER, &held[ended]),
            1 => h.fail(WORKER, &held[ended], INVALID_ARGUMENT),
            _ => {
                let task = held[ended].task;
                let (tag, reason) = (ReplyTag(1), name("test"));
                h.apply(Command::Cancel { tag, task, reason })
            }
        };
        held.extend(attempts(&effects, WORKER));
        assert_eq!(held.len(), (ended + 4).min(10));
    }
    assert_eq!(begun(&h.submit(vec![task(METHOD); 4])), 3);
}

#[test]
fn a_held_task_is_ready_and_costs_nothing() {
    let mut h = harness(running(1));
    let first = attempt(&h.submit(vec![task(METHOD)]), WORKER);
    let (id, _) = h.submit_one(task(METHOD));
    let records = h.log.len();
    h.advance(60_000 - 1);
    assert_eq!(h.log.len(), records, "nothing is recorded of it");
    assert_eq!((h.state(id), h.view(id).attempt), (TaskState::Ready, 0));
    assert_eq!(attempt(&h.succeed(WORKER, &first), WORKER).attempt, 1);
}

#[test]
fn a_retry_waits_for_room_and_a_lost_worker_makes_room() {
    let mut h = harness(running(1));
    let first = attempt(&h.submit(vec![task(METHOD)]), WORKER);
    h.submit(vec![task(METHOD)]);
    let second = attempt(&h.fail(WORKER, &first, UNAVAILABLE), WORKER);
    assert_eq!(begun(&h.advance(10_000)), 0, "the other one still runs");
    let again = attempt(&h.succeed(WORKER, &second), WORKER);
    assert_eq!((again.task, again.attempt), (first.task, 2));
    h.attach(SECOND, "other", &[METHOD], 10);
    h.submit(vec![task(METHOD)]);
    let lost = h.apply(Command::WorkerDetached {
        conn: WORKER,
        reason: name("killed"),
    });
    assert_eq!(attempts(&lost, SECOND).len(), 1);
}

#[test]
fn attempts_begin_at_the_rate_after_a_burst() {
    let mut h = harness(rate(10, 1_000, 5));
    assert_eq!(begun(&h.submit(vec![task(METHOD); 100])), 5);
    assert_eq!(begun(&h.advance(98)), 0);
    assert_eq!(begun(&h.advance(2)), 1);
    assert_eq!(begun(&h.advance(1_000)), 10);
    assert_eq!(begun(&h.advance(3_000)), 30);
    assert!(h.partition.next_timer() <= Some(h.now + 100));
}

#[test]
fn a_limit_holds_over_all_routes_and_workers() {
    let policies = [METHOD, LATER].map(|method| MethodPolicy {
        method: method.into(),
        ..limited(running(2))
    });
    let mut h = Harness::with_policies(config(), policies.to_vec());
    h.attach(WORKER, "old", &[METHOD], 8);
    h.attach(SECOND, "new", &[LATER], 8);
    let effects = h.submit(vec![task(LATER), task(METHOD), task(LATER), task(METHOD)]);
    let (old, new) = (attempts(&effects, WORKER), attempts(&effects, SECOND));
    assert_eq!(old.len() + new.len(), 2);
    let effects = match old.first() {
        Some(attempt) => h.succeed(WORKER, attempt),
        None => h.succeed(SECOND, &new[0]),
    };
    assert_eq!(begun(&effects) + attempts(&effects, SECOND).len(), 1);
}

#[test]
fn a_hot_key_holds_nobody_else() {
    let mut h = harness(running_per_key(2));
    let hot = submit(&mut h, "hot", 1_000);
    assert_eq!(hot.len(), 2);
    assert_eq!(submit(&mut h, "cold", 1).len(), 1);
    assert_eq!(
        begun(&h.submit(vec![task(METHOD); 3])),
        2,
        "no key is a key"
    );
    let next = attempt(&h.succeed(WORKER, &hot[0]), WORKER);
    assert_eq!(next.task.0, hot[1].task.0 + 1, "a key keeps its order");
}

#[test]
fn keys_have_rates_of_their_own_and_take_turns() {
    let mut h = harness(by_key(rate(1, 100, 1)));
    for key in ["a", "b", "c"] {
        assert_eq!(submit(&mut h, key, 10).len(), 1);
    }
    let effects = h.advance(200);
    let order: Vec<u64> = attempts(&effects, WORKER)
        .iter()
        .map(|attempt| attempt.task.0)
        .collect();
    assert_eq!(order, [2, 12, 22, 3, 13, 23]);
}

#[test]
fn within_a_key_priority_goes_first() {
    let mut h = harness(running_per_key(1));
    let first = submit(&mut h, "k", 1).remove(0);
    submit(&mut h, "k", 1);
    let options = SubmitOptions {
        priority: Some(9),
        ..SubmitOptions::default()
    };
    let (urgent, _) = h.submit_one(with(of_key("k"), options));
    assert_eq!(attempt(&h.succeed(WORKER, &first), WORKER).task, urgent);
}

#[test]
fn a_held_task_can_be_cancelled_and_expires() {
    for limits in [running(1), running_per_key(1)] {
        let mut h = harness(limits);
        let first = submit(&mut h, "k", 1).remove(0);
        let (cancelled, _) = h.submit_one(of_key("k"));
        let short = SubmitOptions {
            deadline_ms: Some(500),
            ..SubmitOptions::default()
        };
        let (expired, _) = h.submit_one(with(of_key("k"), short));
        let (last, _) = h.submit_one(of_key("k"));
        h.apply(Command::Cancel {
            tag: ReplyTag(1),
            task: cancelled,
            reason: name("test"),
        });
        h.advance(501);
        let states = [cancelled, expired, last].map(|id| h.state(id));
        let expected = [TaskState::Cancelled, TaskState::Expired, TaskState::Ready];
        assert_eq!(states, expected);
        assert_eq!(attempt(&h.succeed(WORKER, &first), WORKER).task, last);
    }
}

#[test]
fn an_ordering_key_and_a_limit_key_both_hold() {
    let mut h = harness(running_per_key(1));
    let both = |order: &str, key: &str| SubmitTask {
        ordering_key: Some(order.into()),
        ..of_key(key)
    };
    let (first, effects) = h.submit_one(both("o", "a"));
    let run = attempt(&effects, WORKER);
    // Its line holds it although its key is free, and its key holds the next although its line is.
    let (second, _) = h.submit_one(both("o", "b"));
    let (third, _) = h.submit_one(both("p", "a"));
    assert_eq!(run.task, first);
    let ids: Vec<TaskId> = attempts(&h.succeed(WORKER, &run), WORKER)
        .iter()
        .map(|attempt| attempt.task)
        .collect();
    assert_eq!(ids.len(), 2);
    assert!(ids.contains(&second) && ids.contains(&third));
}

/// The process dies; only the log, or a snapshot, is left.
fn restart(h: &mut Harness, snapshot: bool) {
    if snapshot {
        let now = h.now;
        h.log = h.image().into_iter().map(|record| (now, record)).collect();
    }
    h.restart();
    h.apply(Command::SessionOpened {
        conn: CLIENT,
        session: SESSION,
    });
}

#[test]
fn what_runs_survives_a_restart() {
    for snapshot in [false, true] {
        let mut h = harness(Limits {
            running_per_key_max: 2,
            ..running(3)
        });
        submit(&mut h, "a", 5);
        restart(&mut h, snapshot);
        h.attach(SECOND, "other", &[METHOD], 100);
        let effects = h.submit(vec![of_key("a"), of_key("b"), of_key("b")]);
        assert_eq!(attempts(&effects, SECOND).len(), 1, "one of b");
        // The worker did not come back: both of "a" are free again.
        assert_eq!(attempts(&h.advance(5_000), SECOND).len(), 2);
    }
}

#[test]
fn what_began_survives_a_restart() {
    for snapshot in [false, true] {
        let mut h = harness(by_key(rate(1, 1_000, 3)));
        for run in submit(&mut h, "a", 3) {
            h.succeed(WORKER, &run);
        }
        h.advance(400);
        restart(&mut h, snapshot);
        h.attach(WORKER, "w", &[METHOD], 100);
        assert_eq!(submit(&mut h, "a", 5).len(), 0);
        assert_eq!(submit(&mut h, "b", 5).len(), 3);
        assert_eq!(begun(&h.advance(599)), 0);
        assert_eq!(begun(&h.advance(1)), 1);
        restart(&mut h, snapshot);
        h.attach(WORKER, "w", &[METHOD], 100);
        assert_eq!(begun(&h.advance(399)), 0);
        assert_eq!(begun(&h.advance(1)), 1, "of b");
        let mut h = harness(rate(1, 1_000, 3));
        h.submit(vec![task(METHOD); 5]);
        restart(&mut h, snapshot);
        h.attach(WORKER, "v", &[METHOD], 100);
        assert_eq!(begun(&h.submit(vec![task(METHOD); 2])), 0);
    }
}

#[test]
fn a_waiting_flow_counts_and_an_unloaded_one_does_not() {
    let mut h = harness(running(1));
    let (flow, effects) = h.submit_one(task(METHOD));
    let run = attempt(&effects, WORKER);
    let (other, _) = h.submit_one(task(METHOD));
    let (made, effects) = h.submit_one(child(OTHER, 7, (flow, run.token), None));
    let inner = attempt(&effects, WORKER);
    let effects = h.apply(Command::Await {
        conn: CLIENT,
        tasks: vec![made],
        forget: Vec::new(),
        parent: Some((flow, run.token)),
    });
    assert_eq!((h.state(flow), begun(&effects)), (TaskState::Suspended, 0));
    let unloaded = h.apply(Command::Suspend {
        conn: WORKER,
        leases: vec![(flow, run.token)],
    });
    let second = attempt(&unloaded, WORKER);
    assert_eq!(second.task, other);
    assert_eq!(begun(&h.succeed(WORKER, &inner)), 0, "it waits for room");
    assert_eq!(attempt(&h.succeed(WORKER, &second), WORKER).task, flow);
}

#[test]
fn a_redriven_task_is_limited_again() {
    let mut h = harness(running_per_key(1));
    let first = submit(&mut h, "k", 1).remove(0);
    let second = attempt(
        &{
            submit(&mut h, "k", 1);
            h.fail(WORKER, &first, INVALID_ARGUMENT)
        },
        WORKER,
    );
    let effects = h.apply(Command::Redrive {
        tag: ReplyTag(1),
        tasks: vec![first.task],
        archived: Default::default(),
        dry_run: false,
    });
    assert_eq!(begun(&effects), 0);
    assert_eq!(
        attempt(&h.succeed(WORKER, &second), WORKER).task,
        first.task
    );
}

#[test]
fn a_gate_and_a_limit_both_hold() {
    let mut h = harness(running(2));
    let gate = |h: &mut Harness, permits| {
        h.apply(Command::SetGates {
            tag: ReplyTag(7),
            gates: vec![Gate {
                method: name(METHOD),
                permits,
                valid_ms: 60_000,
            }],
        })
    };
    gate(&mut h, Some(0));
    let (id, _) = h.submit_one(task(METHOD));
    assert_eq!(h.state(id), TaskState::Parked);
    h.submit(vec![task(METHOD); 5]);
    let run = attempt(&gate(&mut h, Some(1)), WORKER);
    assert_eq!(begun(&h.succeed(WORKER, &run)), 0);
    assert_eq!(begun(&gate(&mut h, None)), 2);
}

#[test]
fn limits_change_while_tasks_wait() {
    let mut h = harness(Limits::default());
    let mut runs = attempts(&h.submit(vec![task(METHOD); 6]), WORKER);
    assert_eq!(runs.len(), 6);
    // Tightened: what runs goes on, and nothing begins until there is room.
    change(&mut h, running(2));
    h.submit(vec![task(METHOD); 10]);
    for _ in 0..4 {
        let run = runs.remove(0);
        assert_eq!(begun(&h.succeed(WORKER, &run)), 0);
    }
    let run = runs.remove(0);
    runs.extend(attempts(&h.succeed(WORKER, &run), WORKER));
    assert_eq!(runs.len(), 2);
    // Loosened, made a rate, and removed.
    assert_eq!(begun(&change(&mut h, running(4))), 2);
    assert_eq!(begun(&change(&mut h, rate(1, 1_000, 1))), 1);
    assert_eq!(begun(&h.advance(999)), 0);
    assert_eq!(begun(&h.advance(1)), 1);
    assert_eq!(begun(&change(&mut h, Limits::default())), 5);
    assert_eq!(h.partition.queues()[0].counts[0].0, TaskState::Running);
}

#[test]
fn a_rate_that_changes_remembers_what_began() {
    let mut h = harness(rate(10, 1_000, 10));
    assert_eq!(begun(&h.submit(vec![task(METHOD); 30])), 10);
    assert_eq!(begun(&change(&mut h, rate(10, 1_000, 12))), 2);
    assert_eq!(begun(&change(&mut h, rate(1, 1_000, 1))), 0);
    assert_eq!(begun(&h.advance(999)), 0);
    assert_eq!(begun(&h.advance(1)), 1);
}

#[test]
fn limits_of_keys_come_and_go_while_tasks_wait() {
    let mut h = harness(running(1));
    let first = submit(&mut h, "a", 4).remove(0);
    submit(&mut h, "b", 4);
    // One of "a" runs, so of what waits one of "b" may, and one more of "a".
    let got = attempts(&change(&mut h, running_per_key(2)), WORKER);
    assert_eq!(got.len(), 3);
    assert_eq!(begun(&change(&mut h, running_per_key(1))), 0);
    let got = attempts(&h.succeed(WORKER, &first), WORKER);
    assert_eq!(got.len(), 0, "another one of its key runs");
    assert_eq!(begun(&change(&mut h, by_key(rate(1, 1_000, 1)))), 2);
    assert_eq!(begun(&change(&mut h, Limits::default())), 2);
}

#[test]
fn what_applies_a_policy_again_changes_nothing() {
    let mut h = harness(by_key(rate(1, 60_000, 1)));
    assert_eq!(submit(&mut h, "a", 2).len(), 1);
    assert_eq!(begun(&change(&mut h, by_key(rate(1, 60_000, 1)))), 0);
    h.restart();
    assert_eq!(begun(&h.attach(WORKER, "v", &[METHOD], 8)), 0);
}

#[test]
fn readers_see_how_many_are_held_and_why() {
    let mut h = harness(Limits {
        running_per_key_max: 1,
        ..by_key(rate(10, 1_000, 2))
    });
    let held = |h: &Harness| {
        let queue = h.partition.queues().remove(0);
        let ready = queue
            .counts
            .iter()
            .find(|(state, _)| *state == TaskState::Ready);
        (ready.map_or(0, |(_, count)| *count), queue.held)
    };
    let run = submit(&mut h, "a", 4).remove(0);
    let by = |why, count| (name(METHOD), why, count);
    assert_eq!(held(&h), (3, vec![by(HeldBy::KeyConcurrency, 3)]));
    assert_eq!(h.partition.take_figures(h.now).queues[0].held, 3);
    let run = attempt(&h.succeed(WORKER, &run), WORKER);
    h.succeed(WORKER, &run);
    assert_eq!(held(&h), (2, vec![by(HeldBy::KeyRate, 2)]));
    let began = h.now;
    h.advance(50);
    let oldest = h.partition.take_figures(h.now).queues[0].oldest_ready_ms;
    assert_eq!(oldest, h.now - began);
    h.apply(Command::PauseQueue {
        tag: ReplyTag(1),
        queue: name("orders"),
        reason: name("test"),
    });
    assert_eq!(held(&h), (0, Vec::new()));
    let mut h = harness(running(1));
    h.submit(vec![task(METHOD); 3]);
    assert_eq!(held(&h).1, [by(HeldBy::Concurrency, 2)]);
    let mut h = harness(rate(1, 1_000, 1));
    h.submit(vec![task(METHOD); 3]);
    assert_eq!(held(&h).1, [by(HeldBy::Rate, 2)]);
}
