use super::*;
use crate::pb::v1::WorkerHello;

fn lease(task: u64) -> Lease {
    Lease {
        task,
        token: task + 100,
    }
}

fn outcome(task: u64) -> Outcome {
    Outcome {
        lease: lease(task),
        result: Ok(Bytes::from_static(b"ok")),
    }
}

fn failed(task: u64, code: u32) -> Outcome {
    let failure = Failure {
        code,
        ..Failure::default()
    };
    Outcome {
        lease: lease(task),
        result: Err(Box::new(failure)),
    }
}

/// An outbox whose stream is open.
fn open() -> Outbox {
    let mut outbox = Outbox::new();
    welcome(&mut outbox, &[]);
    outbox
}

fn welcome(outbox: &mut Outbox, lost: &[u64]) {
    outbox.reopen(WorkerHello {
        worker: "w".into(),
        ..WorkerHello::default()
    });
    assert!(matches!(next(outbox), Some((0, Some(Request::Hello(hello)))) if hello.worker == "w"));
    outbox.push(outcome(999));
    assert_eq!(next(outbox), None, "nothing before the welcome");
    outbox.outcomes.pop_back();
    outbox.welcome(&lost.iter().copied().map(lease).collect());
}

fn next(outbox: &mut Outbox) -> Option<(u64, Option<Request>)> {
    let due = outbox.is_due();
    let message = outbox.next_message()?;
    assert!(due, "the sender would not have been woken");
    Some((message.accepted_sequence, message.message.clone()))
}

fn frame(outbox: &mut Outbox) -> OutcomeFrame {
    match next(outbox) {
        Some((_, Some(Request::Outcomes(frame)))) => frame,
        other => panic!("no outcomes: {other:?}"),
    }
}

#[test]
fn a_receipt_is_told_at_once_and_goes_along_with_outcomes() {
    let mut outbox = open();
    outbox.accept(1);
    assert_eq!(next(&mut outbox), Some((1, None)));
    assert_eq!(next(&mut outbox), None);
    outbox.accept(2);
    outbox.push(outcome(1));
    let (accepted, message) = next(&mut outbox).expect("outcomes");
    assert_eq!(accepted, 2);
    assert!(matches!(message, Some(Request::Outcomes(_))));
    assert_eq!(next(&mut outbox), None);
}

#[test]
fn outcomes_are_kept_until_they_are_settled() {
    let mut outbox = open();
    outbox.push(outcome(1));
    outbox.push(failed(2, 5));
    let sent = frame(&mut outbox);
    assert_eq!(
        (sent.sequence, sent.tasks, sent.tokens),
        (1, vec![1, 2], vec![101, 102])
    );
    assert_eq!(sent.payloads, ["ok", ""]);
    assert_eq!((sent.failures[0].index, sent.failures[0].code), (1, 5));
    assert!(!outbox.is_settled());
    assert_eq!(outbox.held().collect::<Vec<_>>(), [lease(1), lease(2)]);
    outbox.settle(1);
    assert!(outbox.is_settled());
    outbox.settle(9);
    outbox.push(outcome(3));
    assert_eq!(frame(&mut outbox).sequence, 2);
}

#[test]
fn a_frame_that_is_not_full_waits_for_those_under_way() {
    let mut outbox = open();
    for task in 1..=UNDER_WAY as u64 {
        outbox.push(outcome(task));
        frame(&mut outbox);
    }
    outbox.push(outcome(50));
    assert_eq!(next(&mut outbox), None);
    for task in 0..OUTCOMES_MAX as u64 {
        outbox.push(outcome(task));
    }
    assert_eq!(
        frame(&mut outbox).tasks.len(),
        OUTCOMES_MAX,
        "a full one does not wait"
    );
    assert_eq!(next(&mut outbox), None);
    outbox.settle(3);
    assert_eq!(frame(&mut outbox).tasks.len(), 1);
}

#[test]
fn a_new_stream_repeats_what_was_not_settled_and_not_lost() {
    let mut outbox = open();
    outbox.push(failed(1, 14));
    frame(&mut outbox);
    outbox.push(outcome(2));
    frame(&mut outbox);
    outbox.push(outcome(3));
    assert_eq!(
        outbox.held().map(|lease| lease.task).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    welcome(&mut outbox, &[2]);
    let sent = frame(&mut outbox);
    assert_eq!(
        (sent.sequence, sent.tasks),
        (1, vec![1, 3]),
        "in order, numbered anew"
    );
    assert_eq!((sent.failures[0].index, sent.failures[0].code), (0, 14));
}

#[test]
fn a_frame_of_large_responses_ends_at_its_limit() {
    static LARGE: [u8; 600_000] = [0; 600_000];
    let mut outbox = open();
    for task in 1..=3 {
        outbox.push(Outcome {
            lease: lease(task),
            result: Ok(Bytes::from_static(&LARGE)),
        });
    }
    assert_eq!(frame(&mut outbox).tasks, [1]);
}

#[test]
fn a_heartbeat_goes_out_when_nothing_else_did() {
    let mut outbox = open();
    outbox.beat(WorkerHeartbeat::default());
    assert_eq!(next(&mut outbox), None, "the hello was just sent");
    outbox.beat(WorkerHeartbeat {
        running: 3,
        waiting: 0,
    });
    assert!(
        matches!(next(&mut outbox), Some((_, Some(Request::Heartbeat(beat)))) if beat.running == 3)
    );
}

#[test]
fn only_the_latest_progress_is_told_and_none_of_what_ended() {
    let mut outbox = open();
    for fraction in [0.1, 0.2] {
        outbox.progress(
            lease(1),
            Progress {
                fraction,
                message: String::new(),
            },
        );
    }
    outbox.progress(lease(2), Progress::default());
    outbox.push(outcome(2));
    frame(&mut outbox);
    let Some((_, Some(Request::Progress(told)))) = next(&mut outbox) else {
        panic!("no progress")
    };
    assert_eq!(told.entries.len(), 1);
    assert_eq!(
        told.entries[0]
            .progress
            .as_ref()
            .map(|progress| progress.fraction),
        Some(0.2)
    );
    assert_eq!(next(&mut outbox), None);
}

#[test]
fn a_drain_is_told_before_what_is_handed_back() {
    let mut outbox = open();
    outbox.hand_back([lease(1)]);
    outbox.drain("bye");
    assert!(
        matches!(next(&mut outbox), Some((_, Some(Request::Drain(drain)))) if drain.reason == "bye")
    );
    assert!(!outbox.is_settled());
    assert!(
        matches!(next(&mut outbox), Some((_, Some(Request::HandBack(back)))) if back.tasks == [1])
    );
    assert!(outbox.is_settled());
}
