//! Submitters' sessions, and calls that must not be done twice.

use crate::harness::*;
use plait_broker_core::command::*;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::record::*;

fn submission(conn: ConnId, sequence: u64, tasks: Vec<SubmitTask>) -> Command {
    let origin = SubmitOrigin::Session {
        conn,
        session: SESSION,
        sequence,
    };
    Command::Submit(Submit {
        origin,
        await_results: true,
        tasks,
    })
}

fn call(request_id: Option<SessionId>, dry_run: bool, tasks: Vec<SubmitTask>) -> Command {
    let origin = SubmitOrigin::Call {
        tag: ReplyTag(5),
        request_id,
        dry_run,
    };
    Command::Submit(Submit {
        origin,
        await_results: false,
        tasks,
    })
}

fn opened(effects: &[Effect]) -> u64 {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::SessionOpened { last_sequence, .. } => Some(*last_sequence),
        _ => None,
    });
    found.expect("a welcome")
}

#[test]
fn a_submission_sent_twice_is_accepted_once() {
    let mut h = Harness::new();
    let frame = || vec![task(METHOD), task("/no.Such/Method"), keyed(METHOD, "k", 1)];
    let first = acceptance(&h.submit(frame()));
    let records = h.log.len();
    let again = acceptance(&h.apply(submission(CLIENT, 1, frame())));
    assert_eq!(again, first);
    assert_eq!(h.log.len(), records, "nothing is recorded twice");
}

#[test]
fn a_session_goes_on_after_a_restart() {
    let mut h = Harness::new();
    let first = acceptance(&h.submit(vec![task(METHOD); 3]));
    h.restart();
    let effects = h.apply(Command::SessionOpened {
        conn: ConnId(8),
        session: SESSION,
    });
    assert_eq!(opened(&effects), 1);
    assert_eq!(
        acceptance(&h.apply(submission(ConnId(8), 1, vec![task(METHOD); 3]))),
        first
    );
    let second = acceptance(&h.apply(submission(ConnId(8), 2, vec![task(METHOD)])));
    assert_eq!(
        second.tasks,
        [first.tasks[2] + 1],
        "numbers are not used again"
    );
}

#[test]
fn a_repeated_submission_waits_for_its_results_again() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(task(METHOD));
    h.apply(Command::SessionClosed { conn: CLIENT });
    h.apply(Command::SessionOpened {
        conn: ConnId(8),
        session: SESSION,
    });
    h.apply(submission(ConnId(8), 1, vec![task(METHOD)]));
    let effects = h.attach(WORKER, "w1", &[METHOD], 1);
    let effects = h.succeed(WORKER, &attempt(&effects, WORKER));
    assert!(results(&effects, CLIENT).is_empty());
    let sent = results(&effects, ConnId(8));
    assert_eq!((sent.len(), sent[0].task), (1, id));
}

#[test]
fn a_gap_ends_the_stream_with_an_error() {
    let mut h = Harness::new();
    let effects = h.apply(submission(CLIENT, 2, vec![task(METHOD)]));
    let error = Error::SequenceGap {
        sequence: 2,
        last: 0,
    };
    assert!(
        matches!(&effects[..], [Effect::SessionClosed { conn: CLIENT, error: e }] if *e == error),
        "{effects:?}"
    );
    assert_eq!(h.partition.load().1, 0);
}

#[test]
fn an_answer_that_is_long_forgotten_is_a_gap_too() {
    let mut h = Harness::new();
    for _ in 0..300 {
        h.submit(vec![task(METHOD)]);
    }
    let kept = h.apply(submission(CLIENT, 45, vec![task(METHOD)]));
    assert_eq!(acceptance(&kept).tasks, [45]);
    let effects = h.apply(submission(CLIENT, 44, vec![task(METHOD)]));
    assert!(
        matches!(effects[..], [Effect::SessionClosed { .. }]),
        "{effects:?}"
    );
}

#[test]
fn a_second_stream_of_a_session_replaces_the_first() {
    let mut h = Harness::new();
    let effects = h.apply(Command::SessionOpened {
        conn: ConnId(8),
        session: SESSION,
    });
    assert!(
        matches!(effects[0], Effect::SessionReplaced { conn: CLIENT }),
        "{effects:?}"
    );
    let effects = h.apply(submission(CLIENT, 1, vec![task(METHOD)]));
    assert!(
        matches!(effects[..], [Effect::SessionReplaced { conn: CLIENT }]),
        "{effects:?}"
    );
    assert_eq!(
        h.partition.load().1,
        0,
        "the old stream is no longer served"
    );
}

#[test]
fn a_call_with_a_request_id_is_done_once() {
    let mut h = Harness::new();
    let id = Some([9; 16]);
    let first = acceptance(&h.apply(call(id, false, vec![task(METHOD)])));
    let again = acceptance(&h.apply(call(id, false, vec![task(METHOD)])));
    assert_eq!(again, first);
    let other = acceptance(&h.apply(call(None, false, vec![task(METHOD)])));
    assert_ne!(other, first);
}

#[test]
fn a_dry_run_checks_everything_and_changes_nothing() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(keyed(METHOD, "k", 1));
    let image = h.image();
    let frame = vec![task(METHOD), keyed(METHOD, "k", 1), task("/no.Such/Method")];
    let accepted = acceptance(&h.apply(call(Some([3; 16]), true, frame)));
    assert_eq!(accepted.tasks, [0, id.0, 0]);
    assert_eq!(accepted.existing, [1]);
    assert_eq!(accepted.refusals.len(), 1);
    assert_eq!(h.image(), image);
}

#[test]
fn a_full_queue_refuses_each_task_beyond_its_limit() {
    let limits = plait_broker_core::Config {
        queue_tasks_max: 3,
        ..config()
    };
    let mut h = Harness::with_policies(limits, vec![policy(METHOD), policy(OTHER)]);
    let accepted =
        acceptance(&h.submit(vec![task(METHOD), task(OTHER), task(METHOD), task(OTHER)]));
    assert_eq!(accepted.refusals.len(), 1);
    assert!(matches!(
        &accepted.refusals[0].error,
        Error::QueueFull { limit: 3, retry_after_ms, .. } if *retry_after_ms > 0
    ));
    let task_1 = TaskId(accepted.tasks[0]);
    h.apply(Command::Cancel {
        tag: ReplyTag(1),
        task: task_1,
        reason: name(""),
    });
    assert!(
        acceptance(&h.submit(vec![task(METHOD)]))
            .refusals
            .is_empty(),
        "there is room again"
    );
}

#[test]
fn an_idle_session_is_forgotten_and_one_with_a_stream_is_not() {
    let mut h = Harness::new();
    h.submit(vec![task(METHOD)]);
    h.advance(4 * 3_600_000);
    assert!(
        !h.log
            .iter()
            .any(|(_, record)| matches!(record, Record::SessionsDropped { .. }))
    );
    h.apply(Command::SessionClosed { conn: CLIENT });
    h.advance(4 * 3_600_000);
    assert!(
        h.log
            .iter()
            .any(|(_, record)| matches!(record, Record::SessionsDropped { .. }))
    );
    let effects = h.apply(Command::SessionOpened {
        conn: ConnId(8),
        session: SESSION,
    });
    assert_eq!(opened(&effects), 0);
}

/// Found by the simulation, seeds 92, 1244 and 1378: the wall clock stepped while nobody served, the session was
/// forgotten before its submitter could come back, and a frame whose answer was lost was accepted twice.
#[test]
fn a_clock_that_steps_over_a_restart_forgets_no_session() {
    let mut h = Harness::new();
    let first = acceptance(&h.submit(vec![task(METHOD)]));
    h.now += 48 * 3_600_000;
    h.restart();
    h.advance(1_000);
    let effects = h.apply(Command::SessionOpened {
        conn: ConnId(8),
        session: SESSION,
    });
    assert_eq!(opened(&effects), 1);
    let again = h.apply(submission(ConnId(8), 1, vec![task(METHOD)]));
    assert_eq!(acceptance(&again), first);
}

#[test]
fn awaiting_sends_each_result_once_for_each_await() {
    let mut h = Harness::new();
    let (id, _) = h.submit_one(task(METHOD));
    let wait = |tasks, forget| Command::Await {
        conn: CLIENT,
        tasks,
        forget,
        parent: None,
    };
    h.apply(wait(vec![id, id], vec![]));
    h.apply(wait(vec![], vec![id]));
    let effects = h.attach(WORKER, "w1", &[METHOD], 1);
    let effects = h.succeed(WORKER, &attempt(&effects, WORKER));
    assert_eq!(
        results(&effects, CLIENT).len(),
        2,
        "three awaits, one forgotten"
    );
    assert_eq!(
        results(&h.apply(wait(vec![id], vec![])), CLIENT).len(),
        1,
        "final already"
    );
}

#[test]
fn awaiting_an_unknown_task_fails_with_not_found() {
    let mut h = Harness::new();
    let effects = h.apply(Command::Await {
        conn: CLIENT,
        tasks: vec![TaskId(77)],
        forget: vec![],
        parent: None,
    });
    let (_, failure) = results(&effects, CLIENT)[0]
        .result
        .clone()
        .expect_err("unknown");
    assert_eq!(
        (failure.code, failure.reason),
        (5, Some(Reason::TaskNotFound))
    );
}
