//! Dispatch, leases, and workers that come and go.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::policy::MethodPolicy;
use plait_broker_core::record::*;

const SECOND: ConnId = ConnId(3);

fn detach(conn: ConnId) -> Command {
    Command::WorkerDetached {
        conn,
        reason: name("connection reset"),
    }
}

fn closed(effects: &[Effect]) -> Vec<(ConnId, Error)> {
    let found = effects.iter().filter_map(|effect| match effect {
        Effect::WorkerClosed { conn, error } => Some((*conn, error.clone())),
        _ => None,
    });
    found.collect()
}

fn lost(effects: &[Effect]) -> Vec<(TaskId, Token)> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::WorkerWelcome { lost, .. } => Some(lost.clone()),
        _ => None,
    });
    found.expect("a welcome")
}

fn changed(change: impl Fn(&mut MethodPolicy)) -> MethodPolicy {
    let mut policy = policy(METHOD);
    change(&mut policy);
    policy
}

#[test]
fn a_worker_that_vanishes_costs_no_attempt_of_what_it_had_no_slot_for() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 1);
    h.apply(Command::SetWindows {
        tag: ReplyTag(1),
        windows: vec![(name("w1"), 2)],
    });
    let (begun, _) = h.submit_one(task(METHOD));
    let (id, effects) = h.submit_one(task(METHOD));
    let first = attempt(&effects, WORKER);
    h.apply(detach(WORKER));
    assert_eq!((h.state(id), h.view(id).attempt), (TaskState::Ready, 0));
    assert_eq!(h.view(begun).attempt, 1);
    let second = attempt(&h.attach(SECOND, "w2", &[METHOD], 4), SECOND);
    assert_eq!((second.task, second.attempt), (id, 1));
    assert!(second.token > first.token);
}

#[test]
fn figures_tell_once_what_a_worker_took_with_it() {
    let mut h = Harness::new();
    h.attach(WORKER, "idle", &[METHOD], 1);
    h.apply(detach(WORKER));
    assert!(h.partition.take_figures(h.now).lost.is_empty());
    h.attach(WORKER, "w1", &[METHOD], 16);
    let begun: Vec<TaskId> = (0..12).map(|_| h.submit_one(task(METHOD)).0).collect();
    h.apply(detach(WORKER));
    let told = h.partition.take_figures(h.now).lost;
    assert_eq!(told.len(), 1);
    assert_eq!((&*told[0].worker, told[0].attempts), ("w1", 12));
    assert_eq!(told[0].tasks, begun[..10]);
    assert!(h.partition.take_figures(h.now).lost.is_empty());
}

/// Its stream would be cut where all of it waited to be read, and so would the next one.
#[test]
fn a_worker_gets_large_requests_as_fast_as_it_receives_them() {
    let mut h = Harness::new();
    for _ in 0..20 {
        let request = vec![7; 1 << 20].into();
        h.submit_one(SubmitTask {
            request,
            ..task(METHOD)
        });
    }
    let first = attempts(&h.attach(WORKER, "w1", &[METHOD], 100), WORKER);
    assert_eq!(first.len(), 8);
    assert!(attempts(&h.advance(10), WORKER).is_empty());
    let second = attempts(&h.accept(WORKER, 1), WORKER);
    assert_eq!(second.len(), 8);
    let third = attempts(&h.accept(WORKER, 2), WORKER);
    assert_eq!(third.len(), 4);
}

/// Its handler ran before its receipt was told.
#[test]
fn a_task_that_kills_its_worker_before_it_is_accepted_fails_after_its_attempts() {
    let policy = changed(|policy| policy.max_attempts = 3);
    let mut h = Harness::with_policies(config(), vec![policy]);
    let (id, _) = h.submit_one(task(METHOD));
    for run in 0..3u64 {
        let conn = ConnId(100 + run);
        h.attach(conn, "w1", &[METHOD], 1);
        h.advance(1_000);
        h.apply(detach(conn));
    }
    assert_eq!((h.state(id), h.view(id).attempt), (TaskState::Failed, 3));
}

#[test]
fn a_worker_that_vanishes_after_it_accepted_costs_an_attempt() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, _) = h.submit_one(task(METHOD));
    h.accept(WORKER, 1);
    h.apply(detach(WORKER));
    let failure = h.view(id).failure.expect("the loss is told");
    assert_eq!(
        (failure.code, failure.reason),
        (14, Some(Reason::WorkerLost))
    );
    assert!(
        failure.message.contains("connection reset"),
        "{}",
        failure.message
    );
    h.attach(SECOND, "w2", &[METHOD], 4);
    let effects = h.advance(200);
    let second = attempts(&effects, SECOND).pop();
    assert_eq!(second.map_or(2, |second| second.attempt), 2);
    assert_eq!(h.view(id).attempt, 2);
}

#[test]
fn a_lost_worker_is_no_reason_to_give_up_whatever_codes_are_retried() {
    let policy = changed(|policy| policy.retryable.0 = 0);
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, _) = h.submit_one(task(METHOD));
    h.accept(WORKER, 1);
    h.apply(detach(WORKER));
    assert!(!h.state(id).is_final());
}

#[test]
fn a_task_that_kills_its_worker_fails_after_its_attempts() {
    let policy = changed(|policy| policy.max_attempts = 3);
    let mut h = Harness::with_policies(config(), vec![policy]);
    let (id, _) = h.submit_one(task(METHOD));
    for run in 0..3u64 {
        let conn = ConnId(100 + run);
        h.attach(conn, "w1", &[METHOD], 1);
        h.advance(1_000);
        h.accept(conn, 1);
        h.apply(detach(conn));
    }
    assert_eq!((h.state(id), h.view(id).attempt), (TaskState::Failed, 3));
}

#[test]
fn at_most_once_fails_when_its_worker_vanishes_accepted_or_not() {
    for accepted in [0, 1] {
        let policy = changed(|policy| policy.at_most_once = true);
        let mut h = Harness::with_policies(config(), vec![policy]);
        h.attach(WORKER, "w1", &[METHOD], 4);
        let (id, _) = h.submit_one(task(METHOD));
        h.accept(WORKER, accepted);
        h.apply(detach(WORKER));
        let failure = h.view(id).failure.expect("it failed");
        assert_eq!(h.state(id), TaskState::Failed);
        assert_eq!(
            (failure.code, failure.reason),
            (10, Some(Reason::WorkerLost))
        );
    }
}

#[test]
fn what_is_handed_back_costs_no_attempt_and_starts_elsewhere() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(task(METHOD));
    let first = attempt(&effects, WORKER);
    h.accept(WORKER, 1);
    h.apply(Command::WorkerDraining { conn: WORKER });
    let leases = vec![(id, first.token), (id, Token(1)), (TaskId(99), Token(2))];
    let effects = h.apply(Command::HandBack {
        conn: WORKER,
        leases,
    });
    assert!(
        attempts(&effects, WORKER).is_empty(),
        "a draining worker gets nothing more"
    );
    let second = attempt(&h.attach(SECOND, "w2", &[METHOD], 4), SECOND);
    assert_eq!((second.task, second.attempt), (id, 1));
    assert_eq!(refused(&h.succeed(WORKER, &first)).len(), 1);
}

/// A worker that drains begins nothing new, so a frame that crossed its word comes back when it goes.
#[test]
fn what_was_on_its_way_to_a_draining_worker_costs_no_attempt() {
    let mut once = policy(METHOD);
    once.at_most_once = true;
    for policy in [policy(METHOD), once] {
        let mut h = Harness::with_policies(config(), vec![policy]);
        h.attach(WORKER, "w1", &[METHOD], 4);
        let has = attempt(&h.submit(vec![task(METHOD)]), WORKER);
        h.accept(WORKER, 1);
        let crossed = attempt(&h.submit(vec![task(METHOD)]), WORKER);
        h.apply(Command::WorkerDraining { conn: WORKER });
        h.succeed(WORKER, &has);
        h.apply(detach(WORKER));
        let again = attempt(&h.attach(SECOND, "w2", &[METHOD], 4), SECOND);
        assert_eq!((again.task, again.attempt), (crossed.task, 1));
    }
}

#[test]
fn a_clean_drain_loses_and_repeats_nothing() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let held = attempts(&h.submit(vec![task(METHOD); 20]), WORKER);
    assert_eq!(held.len(), 8);
    h.accept(WORKER, 1);
    h.apply(Command::WorkerDraining { conn: WORKER });
    let back = held[4..]
        .iter()
        .map(|attempt| (attempt.task, attempt.token))
        .collect();
    h.apply(Command::HandBack {
        conn: WORKER,
        leases: back,
    });
    for attempt in &held[..4] {
        h.succeed(WORKER, attempt);
    }
    h.apply(detach(WORKER));
    let mut effects = h.attach(SECOND, "w2", &[METHOD], 4);
    let mut done = 4;
    while !attempts(&effects, SECOND).is_empty() {
        let batch = attempts(&effects, SECOND);
        assert!(batch.iter().all(|attempt| attempt.attempt == 1));
        done += batch.len();
        effects = batch
            .iter()
            .flat_map(|attempt| h.succeed(SECOND, attempt))
            .collect();
    }
    assert_eq!(done, 20);
}

#[test]
fn a_second_stream_of_a_worker_takes_over_what_it_still_holds() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let held = attempts(&h.submit(vec![task(METHOD); 3]), WORKER);
    h.accept(WORKER, 1);
    let brought = vec![
        (held[0].task, held[0].token),
        (held[1].task, Token(5)),
        (TaskId(99), Token(5)),
    ];
    let effects = h.attach_with(SECOND, "w1", &[METHOD], 4, brought.clone());
    assert_eq!(
        closed(&effects),
        [(WORKER, Error::WorkerReplaced { worker: name("w1") })]
    );
    assert_eq!(lost(&effects), brought[1..]);
    assert!(
        refused(&h.succeed(SECOND, &held[0])).is_empty(),
        "it moved to the new stream"
    );
    assert_eq!(
        h.view(held[1].task).failure.and_then(|f| f.reason),
        Some(Reason::WorkerLost)
    );
    let figures = h.partition.take_figures(h.now);
    assert_eq!(figures.workers.len(), 1);
    h.apply(detach(WORKER));
    assert_eq!(
        h.partition.take_figures(h.now).workers.len(),
        1,
        "the old stream is gone already"
    );
}

#[test]
fn a_worker_that_asks_for_the_impossible_is_refused() {
    let mut h = Harness::new();
    let none = h.attach(WORKER, "w1", &[], 4);
    let idle = h.attach(WORKER, "w1", &[METHOD], 0);
    let strange = h.attach(WORKER, "w1", &[METHOD, "/no.Such/Method"], 4);
    assert!(matches!(
        &closed(&none)[..],
        [(
            WORKER,
            Error::Invalid {
                field: "methods",
                ..
            }
        )]
    ));
    assert!(matches!(
        &closed(&idle)[..],
        [(WORKER, Error::Invalid { field: "slots", .. })]
    ));
    assert!(matches!(
        &closed(&strange)[..],
        [(WORKER, Error::MethodUnknown { .. })]
    ));
    h.attach(WORKER, "w1", &[METHOD], 4);
    let twice = h.attach(WORKER, "w2", &[METHOD], 4);
    assert!(matches!(
        &closed(&twice)[..],
        [(WORKER, Error::Invalid { field: "hello", .. })]
    ));
}

#[test]
fn higher_priority_starts_first() {
    let mut h = Harness::new();
    let at = |priority| {
        with(
            task(METHOD),
            SubmitOptions {
                priority: Some(priority),
                ..SubmitOptions::default()
            },
        )
    };
    let ids = acceptance(&h.submit(vec![at(0), at(9), at(4), at(9)])).tasks;
    let started = attempts(&h.attach(WORKER, "w1", &[METHOD], 100), WORKER);
    let order: Vec<u64> = started.iter().map(|attempt| attempt.task.0).collect();
    assert_eq!(order, [ids[1], ids[3], ids[2], ids[0]]);
    let accepted = acceptance(&h.submit(vec![at(10)]));
    assert!(matches!(
        accepted.refusals[0].error,
        Error::Invalid {
            field: "priority",
            ..
        }
    ));
}

#[test]
fn the_methods_of_a_worker_take_turns() {
    let mut h = Harness::new();
    h.submit(vec![task(METHOD); 1000]);
    h.submit(vec![task(OTHER); 1000]);
    let started = attempts(&h.attach(WORKER, "w1", &[METHOD, OTHER], 100), WORKER);
    let firsts = started.iter().filter(|attempt| attempt.method == 0).count();
    assert_eq!(started.len(), 200);
    assert!(
        (80..=120).contains(&firsts),
        "{firsts} of 200 are the first method's"
    );
}

#[test]
fn workers_share_what_is_ready() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 100);
    h.attach(SECOND, "w2", &[METHOD], 100);
    let effects = h.submit(vec![task(METHOD); 60]);
    assert_eq!(attempts(&effects, WORKER).len(), 30);
    assert_eq!(attempts(&effects, SECOND).len(), 30);
}

#[test]
fn workers_of_different_kinds_share_the_method_they_have_in_common() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 100);
    h.attach(SECOND, "w2", &[METHOD, OTHER], 100);
    let effects = h.submit(vec![task(METHOD); 60]);
    let (one, two) = (
        attempts(&effects, WORKER).len(),
        attempts(&effects, SECOND).len(),
    );
    assert_eq!(one + two, 60);
    assert!(one >= 20 && two >= 20, "{one} and {two}");
}

#[test]
fn the_least_loaded_worker_is_served_first() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 10);
    h.submit(vec![task(METHOD); 15]);
    h.attach(SECOND, "w2", &[METHOD], 10);
    let (_, effects) = h.submit_one(task(METHOD));
    assert_eq!(attempts(&effects, SECOND).len(), 1);
}

#[test]
fn frames_are_bounded_and_numbered() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 200);
    let effects = h.submit(vec![task(METHOD); 300]);
    let frames: Vec<(u64, usize)> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Attempts {
                sequence, attempts, ..
            } => Some((*sequence, attempts.len())),
            _ => None,
        })
        .collect();
    assert_eq!(frames, [(1, 128), (2, 128), (3, 44)]);
    h.accept(WORKER, 1);
    let running = |h: &Harness, id| h.state(TaskId(id)) == TaskState::Running;
    assert!(
        running(&h, 128) && !running(&h, 129),
        "acceptance covers frames"
    );
    h.accept(WORKER, 99);
    assert!(running(&h, 300));
}

#[test]
fn a_worker_that_offers_less_is_given_less() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 10);
    h.apply(Command::WorkerResized {
        conn: WORKER,
        slots: 2,
    });
    let effects = h.submit(vec![task(METHOD); 10]);
    assert_eq!(attempts(&effects, WORKER).len(), 4);
    let windows = vec![(name("w1"), 1000)];
    let effects = h.apply(Command::SetWindows {
        tag: ReplyTag(1),
        windows,
    });
    assert!(
        attempts(&effects, WORKER).is_empty(),
        "never above twice the slots"
    );
}

#[test]
fn a_worker_gets_only_its_own_methods() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[OTHER], 10);
    let effects = h.submit(vec![task(METHOD), task(OTHER)]);
    let started = attempts(&effects, WORKER);
    assert_eq!((started.len(), started[0].method), (1, 0));
    assert_eq!(started[0].task.0, acceptance(&effects).tasks[1]);
}

#[test]
fn progress_is_told_only_under_the_present_token() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 1);
    let (id, effects) = h.submit_one(task(METHOD));
    let token = attempt(&effects, WORKER).token;
    let entries = vec![
        (id, token, 0.4, name("page 12/30")),
        (id, Token(1), 0.9, name("late")),
    ];
    h.apply(Command::Progress {
        conn: WORKER,
        entries,
    });
    assert_eq!(h.view(id).progress, Some((0.4, name("page 12/30"))));
}

#[test]
fn figures_tell_what_happened_since_they_were_taken() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 2);
    let held = attempts(&h.submit(vec![task(METHOD); 10]), WORKER);
    h.now += 30;
    h.succeed(WORKER, &held[0]);
    h.fail(WORKER, &held[1], UNAVAILABLE);
    let figures = h.partition.take_figures(h.now);
    let worker = &figures.workers[0];
    assert_eq!(
        (worker.succeeded, worker.failed, worker.busy_ms),
        (1, 1, 60)
    );
    assert_eq!((worker.slots, worker.window, worker.in_flight), (2, 4, 4));
    let method = &figures.methods[0];
    assert_eq!(
        (method.submitted, method.retried, method.busy_ms),
        (10, 1, 60)
    );
    assert_eq!((method.outcomes[0], method.outcomes[14]), (1, 1));
    let queue = &figures.queues[0];
    assert_eq!((queue.ready + queue.waiting, queue.running), (5, 4));
    assert!(queue.oldest_ready_ms >= 30);
    let again = h.partition.take_figures(h.now);
    assert!(again.methods.is_empty());
    assert_eq!(again.workers[0].busy_ms, 0);
}
