//! What a crash of the broker leaves behind.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::record::*;

fn lost(effects: &[Effect]) -> Vec<(TaskId, Token)> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::WorkerWelcome { lost, .. } => Some(lost.clone()),
        _ => None,
    });
    found.expect("a welcome")
}

/// A partition that crashed while one worker ran a task.
fn crashed(at_most_once: bool) -> (Harness, Attempt) {
    let mut policy = policy(METHOD);
    policy.at_most_once = at_most_once;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (_, effects) = h.submit_one(task(METHOD));
    let attempt = attempt(&effects, WORKER);
    h.accept(WORKER, 1);
    h.restart();
    (h, attempt)
}

#[test]
fn a_worker_that_comes_back_goes_on_with_its_lease() {
    let (mut h, attempt) = crashed(false);
    assert_eq!(h.state(attempt.task), TaskState::Running);
    h.advance(4_000);
    let effects = h.attach_with(
        ConnId(7),
        "w1",
        &[METHOD],
        4,
        vec![(attempt.task, attempt.token)],
    );
    assert!(lost(&effects).is_empty());
    h.advance(10_000);
    assert!(refused(&h.succeed(ConnId(7), &attempt)).is_empty());
    assert_eq!(h.state(attempt.task), TaskState::Succeeded);
}

#[test]
fn a_lease_whose_worker_does_not_come_back_ends_without_an_attempt_lost() {
    let (mut h, first) = crashed(false);
    h.attach(ConnId(8), "w2", &[METHOD], 4);
    assert!(attempts(&h.advance(4_999), ConnId(8)).is_empty());
    let second = attempt(&h.advance(1), ConnId(8));
    assert_eq!((second.task, second.attempt), (first.task, 1));
    assert!(second.token > first.token, "tokens grow over restarts");
    let late = h.attach_with(
        ConnId(7),
        "w1",
        &[METHOD],
        4,
        vec![(first.task, first.token)],
    );
    assert_eq!(lost(&late), [(first.task, first.token)]);
    assert_eq!(refused(&h.succeed(ConnId(7), &first)).len(), 1);
}

#[test]
fn a_worker_that_comes_back_without_a_lease_gives_it_up_at_once() {
    let (mut h, first) = crashed(false);
    let effects = h.attach(ConnId(7), "w1", &[METHOD], 4);
    let second = attempt(&effects, ConnId(7));
    assert_eq!((second.task, second.attempt), (first.task, 1));
}

#[test]
fn restarts_never_burn_attempts() {
    let (mut h, first) = crashed(false);
    for restart in 0..50u64 {
        h.attach(ConnId(100 + restart), "w9", &[METHOD], 4);
        h.advance(5_000);
        h.accept(ConnId(100 + restart), 1);
        h.restart();
    }
    h.advance(5_000);
    assert_eq!(
        (h.state(first.task), h.view(first.task).attempt),
        (TaskState::Ready, 0)
    );
}

#[test]
fn at_most_once_fails_when_its_worker_does_not_come_back() {
    let (mut h, attempt) = crashed(true);
    h.advance(5_000);
    let view = h.view(attempt.task);
    assert_eq!(view.state, TaskState::Failed);
    assert_eq!(view.failure.map(|failure| failure.code), Some(10));
}

#[test]
fn another_worker_cannot_claim_a_lease() {
    let (mut h, attempt) = crashed(false);
    let effects = h.attach_with(
        ConnId(7),
        "w2",
        &[METHOD],
        4,
        vec![(attempt.task, attempt.token)],
    );
    assert_eq!(lost(&effects), [(attempt.task, attempt.token)]);
}

#[test]
fn deadlines_and_delays_go_on_over_a_restart() {
    let mut h = Harness::new();
    let options = |delay_ms, deadline_ms| SubmitOptions {
        delay_ms,
        deadline_ms: Some(deadline_ms),
        ..SubmitOptions::default()
    };
    let (expiring, _) = h.submit_one(with(task(METHOD), options(0, 1_000)));
    let (delayed, _) = h.submit_one(with(task(METHOD), options(3_000, 9_000)));
    h.now += 2_000;
    h.restart();
    h.attach(WORKER, "w1", &[METHOD], 4);
    assert_eq!(h.state(expiring), TaskState::Expired);
    assert_eq!(h.state(delayed), TaskState::Scheduled);
    let effects = h.advance(1_000);
    let started = attempt(&effects, WORKER);
    assert_eq!((started.task, started.timeout_ms), (delayed, 6_000));
}

#[test]
fn an_orphaned_lease_expires_at_the_tasks_deadline() {
    let mut policy = policy(METHOD);
    policy.deadline_ms = 2_000;
    policy.attempt_timeout_ms = 1_000;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, _) = h.submit_one(task(METHOD));
    h.accept(WORKER, 1);
    h.restart();
    h.advance(1_500);
    assert_eq!(
        h.state(id),
        TaskState::Running,
        "its own time is not up while nobody runs it"
    );
    h.advance(500);
    assert_eq!(
        h.view(id).failure.and_then(|f| f.reason),
        Some(Reason::ExpiredWhileRunning)
    );
}

#[test]
fn a_clock_that_went_back_changes_nothing() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(task(METHOD));
    let expire_at = h.view(id).expire_at;
    h.now -= 3_000_000;
    h.submit(vec![task(METHOD)]);
    assert_eq!(h.view(TaskId(2)).created_at, START);
    h.restart();
    assert_eq!(h.view(id).expire_at, expire_at);
    h.now = START + 3_600_000;
    h.apply(Command::Tick);
    assert_eq!(h.state(id), TaskState::Expired);
}

#[test]
fn a_snapshot_and_the_log_behind_it_tell_what_the_whole_log_tells() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 2);
    let held = attempts(
        &h.submit(vec![
            task(METHOD),
            keyed(METHOD, "k", 3),
            ordered(METHOD, "o"),
        ]),
        WORKER,
    );
    h.fail(WORKER, &held[0], UNAVAILABLE);
    let (image, tail) = (h.image(), h.log.len());
    let taken_at = h.now;
    h.now += 7;
    h.succeed(WORKER, &held[1]);
    h.apply(Command::KvPut {
        tag: ReplyTag(1),
        key: name("a"),
        value: bytes::Bytes::from_static(b"v"),
        expected: None,
    });
    let mut restored = plait_broker_core::Partition::new(config());
    for record in image {
        restored.replay(record, taken_at);
    }
    for (time, record) in &h.log[tail..] {
        restored.replay(record.clone(), *time);
    }
    assert_eq!(restored.image(h.now).collect::<Vec<_>>(), h.image());
    assert_eq!(h.replayed().image(h.now).collect::<Vec<_>>(), h.image());
}
