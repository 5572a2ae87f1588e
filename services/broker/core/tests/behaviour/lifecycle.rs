//! The plain life of a task.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::record::*;

#[test]
fn a_submitted_task_is_run_once_and_its_result_is_sent() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[OTHER, METHOD], 4);
    let (id, effects) = h.submit_one(task(METHOD));
    let attempt = attempt(&effects, WORKER);
    assert_eq!((attempt.task, attempt.attempt, attempt.method), (id, 1, 1));
    assert_eq!(attempt.timeout_ms, 60_000);
    assert_eq!(attempt.request.bytes.as_deref(), Some(&b"request"[..]));

    h.accept(WORKER, 1);
    assert_eq!(h.state(id), TaskState::Running);
    let effects = h.succeed(WORKER, &attempt);
    assert!(refused(&effects).is_empty());
    let results = results(&effects, CLIENT);
    assert_eq!(results.len(), 1);
    let blob = results[0].result.as_ref().expect("it succeeded");
    assert_eq!(blob.bytes.as_deref(), Some(&b"response"[..]));
    assert_eq!(h.state(id), TaskState::Succeeded);
}

#[test]
fn a_task_is_running_only_after_the_worker_received_it() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, _) = h.submit_one(task(METHOD));
    assert_eq!(h.state(id), TaskState::Ready);
    h.accept(WORKER, 1);
    assert_eq!(h.state(id), TaskState::Running);
}

#[test]
fn a_frame_is_one_record_and_one_frame_of_attempts() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 64);
    let before = h.log.len();
    let effects = h.submit(vec![task(METHOD); 100]);
    let kinds: Vec<_> = h.log[before..].iter().map(|(_, record)| record).collect();
    assert!(
        matches!(
            kinds[..],
            [Record::Submitted { .. }, Record::Started { .. }]
        ),
        "{kinds:?}"
    );
    assert_eq!(attempts(&effects, WORKER).len(), 100);
    let frames = effects
        .iter()
        .filter(|e| matches!(e, Effect::Attempts { .. }))
        .count();
    assert_eq!(frames, 1);
}

#[test]
fn replay_rebuilds_the_same_state() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 2);
    let effects = h.submit(vec![
        task(METHOD),
        keyed(METHOD, "k", 3),
        ordered(METHOD, "o"),
    ]);
    let attempts = attempts(&effects, WORKER);
    h.now += 5;
    h.succeed(WORKER, &attempts[0]);
    let mut replayed = h.replayed();
    assert_eq!(replayed.image(h.now).collect::<Vec<_>>(), h.image());
}

#[test]
fn a_worker_gets_twice_its_slots_unless_a_window_is_set() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 3);
    let effects = h.submit(vec![task(METHOD); 10]);
    let held = attempts(&effects, WORKER);
    assert_eq!(held.len(), 6);
    let windows = vec![(name("w1"), 1), (name("w9"), 4)];
    let effects = h.apply(Command::SetWindows {
        tag: ReplyTag(1),
        windows,
    });
    assert!(matches!(reply(&effects), Reply::Unknown(names) if names == [name("w9")]));
    let effects = h.succeed(WORKER, &held[0]);
    assert!(
        attempts(&effects, WORKER).is_empty(),
        "five are held and one is allowed"
    );
    for attempt in &held[1..5] {
        assert!(attempts(&h.succeed(WORKER, attempt), WORKER).is_empty());
    }
    assert_eq!(attempts(&h.succeed(WORKER, &held[5]), WORKER).len(), 1);
}
