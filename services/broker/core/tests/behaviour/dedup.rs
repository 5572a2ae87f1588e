//! Idempotency keys.

use crate::harness::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;

#[test]
fn the_same_key_answers_with_the_first_task_and_its_result() {
    let mut h = Harness::new();
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(keyed(METHOD, "order-1", 5));
    h.succeed(WORKER, &attempt(&effects, WORKER));
    let effects = h.submit(vec![keyed(METHOD, "order-1", 5)]);
    let accepted = acceptance(&effects);
    assert_eq!((accepted.tasks, accepted.existing), (vec![id.0], vec![0]));
    assert!(attempts(&effects, WORKER).is_empty());
    assert_eq!(results(&effects, CLIENT).len(), 1, "its result is at hand");
}

#[test]
fn another_request_under_the_same_key_is_refused() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(keyed(METHOD, "order-1", 5));
    let accepted = acceptance(&h.submit(vec![keyed(METHOD, "order-1", 6)]));
    let conflict = Error::DuplicateKeyConflict {
        task: id,
        key: name("order-1"),
    };
    assert_eq!(accepted.tasks, [0]);
    assert_eq!(accepted.refusals[0].error, conflict);
}

#[test]
fn keys_are_told_apart_by_method_and_within_one_frame() {
    let mut h = Harness::new();
    let frame = vec![
        keyed(METHOD, "k", 1),
        keyed(OTHER, "k", 1),
        keyed(METHOD, "k", 1),
        keyed(METHOD, "k", 2),
        task(METHOD),
    ];
    let accepted = acceptance(&h.submit(frame));
    assert_eq!(accepted.existing, [2]);
    assert_eq!(accepted.tasks[2], accepted.tasks[0]);
    assert_ne!(accepted.tasks[1], accepted.tasks[0]);
    assert_eq!(accepted.refusals.len(), 1);
    assert_eq!(accepted.refusals[0].index, 3);
    assert_eq!(h.partition.load().1, 3);
}

#[test]
fn a_key_missing_is_refused_where_the_policy_asks_for_it() {
    let mut policy = policy(METHOD);
    policy.needs_idempotency_key = true;
    policy.needs_ordering_key = true;
    let mut h = Harness::with_policies(config(), vec![policy]);
    let both = plait_broker_core::command::SubmitTask {
        ordering_key: Some(name("o")),
        ..keyed(METHOD, "k", 1)
    };
    let accepted = acceptance(&h.submit(vec![
        task(METHOD),
        keyed(METHOD, "k", 1),
        keyed(METHOD, "", 1),
        both,
    ]));
    let missing = |key| Error::KeyMissing {
        method: name(METHOD),
        key,
    };
    let errors: Vec<_> = accepted
        .refusals
        .into_iter()
        .map(|refusal| refusal.error)
        .collect();
    assert_eq!(
        errors,
        [
            missing("idempotency"),
            missing("ordering"),
            missing("idempotency")
        ]
    );
    assert_ne!(accepted.tasks[3], 0);
}

#[test]
fn a_key_is_remembered_for_its_window_although_retention_is_over() {
    let mut policy = policy(METHOD);
    policy.retention_ms = 1_000;
    policy.idempotency_window_ms = 60_000;
    let mut h = Harness::with_policies(config(), vec![policy]);
    h.attach(WORKER, "w1", &[METHOD], 4);
    let (id, effects) = h.submit_one(keyed(METHOD, "k", 1));
    h.succeed(WORKER, &attempt(&effects, WORKER));
    h.advance(59_999);
    let accepted = acceptance(&h.submit(vec![keyed(METHOD, "k", 1)]));
    assert_eq!(
        accepted.tasks,
        [id.0],
        "the first task answers within the window"
    );
    h.advance(1);
    assert!(
        h.partition.task(id).is_none(),
        "task and key are forgotten together"
    );
    let accepted = acceptance(&h.submit(vec![keyed(METHOD, "k", 2)]));
    assert!(
        accepted.tasks[0] > id.0,
        "a key does not outlive its task as a lock"
    );
}

#[test]
fn a_key_lives_as_long_as_its_task_is_unfinished() {
    let mut policy = policy(METHOD);
    policy.idempotency_window_ms = 10;
    let mut h = Harness::with_policies(config(), vec![policy]);
    let (id, _) = h.submit_one(keyed(METHOD, "k", 1));
    h.advance(1_000);
    assert_eq!(
        acceptance(&h.submit(vec![keyed(METHOD, "k", 1)])).tasks,
        [id.0]
    );
    h.attach(WORKER, "w1", &[METHOD], 4);
    h.accept(WORKER, 1);
    let token = h.partition.image(h.now).find_map(|record| match record {
        plait_broker_core::record::Record::Image(plait_broker_core::image::Image::Tasks(tasks)) => {
            Some(tasks[0].token)
        }
        _ => None,
    });
    h.outcome(
        WORKER,
        id,
        token.unwrap_or(Token(0)),
        Ok(bytes::Bytes::new()),
    );
    assert_eq!(h.state(id), TaskState::Succeeded);
    let again = acceptance(&h.submit(vec![keyed(METHOD, "k", 2)]));
    assert!(again.tasks[0] > id.0, "final, and the window is over");
    let newest = acceptance(&h.submit(vec![keyed(METHOD, "k", 2)]));
    assert_eq!(
        newest.tasks, again.tasks,
        "the key stands for the newest task"
    );
}

#[test]
fn keys_survive_a_restart_and_a_snapshot() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(keyed(METHOD, "k", 5));
    h.restart();
    h.apply(plait_broker_core::command::Command::SessionOpened {
        conn: CLIENT,
        session: SESSION,
    });
    assert_eq!(
        acceptance(&h.submit(vec![keyed(METHOD, "k", 5)])).tasks,
        [id.0]
    );
    let image = h.image();
    h.log = image.into_iter().map(|record| (h.now, record)).collect();
    h.restart();
    h.apply(plait_broker_core::command::Command::SessionOpened {
        conn: CLIENT,
        session: SESSION,
    });
    assert_eq!(
        acceptance(&h.submit(vec![keyed(METHOD, "k", 5)])).tasks,
        [id.0]
    );
    let conflict = acceptance(&h.submit(vec![keyed(METHOD, "k", 6)]));
    assert_eq!(conflict.refusals.len(), 1);
}
