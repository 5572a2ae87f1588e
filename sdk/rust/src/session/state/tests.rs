use super::*;
use crate::pb::v1::submit_stream_response::Message as Response;
use crate::pb::v1::{
    AcceptedFrame, Failure, Refusal, ResultFrame, SequencedAccepted, SequencedSubmit,
    SessionWelcome,
};
use frames::tests::{method, submission};
use tokio_test::task;

/// A session, and what its callers were told.
struct Bench {
    state: State,
    freed: u32,
}

impl Bench {
    /// One whose stream is open.
    fn open(last_sequence: u64) -> Self {
        let mut bench = Self {
            state: State::new(Bytes::from_static(&[7; 16])),
            freed: 0,
        };
        bench.welcome(last_sequence);
        bench
    }

    fn welcome(&mut self, last_sequence: u64) {
        assert!(matches!(self.next(), Some(Request::Hello(hello)) if hello.session == [7; 16][..]));
        assert_eq!(self.next(), None, "nothing before the welcome");
        let welcome = SessionWelcome {
            last_sequence,
            payload_bytes_max: 64,
            ..SessionWelcome::default()
        };
        self.receive(Response::Welcome(welcome));
    }

    fn next(&mut self) -> Option<Request> {
        let mut reaction = Reaction::default();
        let due = self.state.is_due();
        let message = self.state.next_message(&mut reaction);
        assert!(
            due || message.is_none(),
            "the sender would not have been woken"
        );
        self.react(reaction);
        message.and_then(|message| message.message.clone())
    }

    fn submit(&mut self, payload: &'static [u8], awaited: bool) -> Arc<Ticket> {
        let ticket = Arc::new(Ticket::new(awaited, None));
        let submission = submission(&method("/a.B/C"), payload);
        self.state.submit(Submission {
            ticket: Arc::clone(&ticket),
            ..submission
        });
        ticket
    }

    /// The next message, which is a frame: its number, and its requests.
    fn frame(&mut self) -> (u64, Vec<Bytes>) {
        match self.next() {
            Some(Request::Submit(SequencedSubmit {
                sequence, tasks, ..
            })) => (sequence, tasks.expect("tasks").payloads),
            other => panic!("no frame: {other:?}"),
        }
    }

    fn receive(&mut self, message: Response) {
        let reaction = self.state.receive(message);
        self.react(reaction);
    }

    fn react(&mut self, reaction: Reaction) {
        self.freed += reaction.freed;
        reaction.news.into_iter().for_each(News::tell);
    }

    fn accept(&mut self, sequence: u64, tasks: &[u64]) {
        let accepted = Some(AcceptedFrame {
            tasks: tasks.to_vec(),
            ..Default::default()
        });
        self.receive(Response::Accepted(SequencedAccepted {
            sequence,
            accepted,
            retry_after: None,
        }));
    }

    fn result(&mut self, task: u64, payload: &'static [u8]) {
        let payloads = vec![Bytes::from_static(payload)];
        self.receive(Response::Results(ResultFrame {
            tasks: vec![task],
            payloads,
            failures: vec![],
        }));
    }
}

fn accepted(ticket: &Ticket) -> Option<Result<u64, Status>> {
    match task::spawn(ticket.wait_accepted()).poll() {
        std::task::Poll::Ready(accepted) => Some(accepted),
        std::task::Poll::Pending => None,
    }
}

fn done(ticket: &Ticket) -> Option<(Option<u64>, Outcome)> {
    match task::spawn(ticket.wait_done()).poll() {
        std::task::Poll::Ready(done) => Some(done),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn frames_are_numbered_and_callers_are_told() {
    let mut bench = Bench::open(0);
    let (one, two) = (bench.submit(b"1", true), bench.submit(b"2", true));
    assert_eq!(
        bench.frame(),
        (1, vec![Bytes::from_static(b"1"), Bytes::from_static(b"2")])
    );
    assert_eq!(bench.next(), None);
    bench.accept(1, &[10, 11]);
    assert_eq!(bench.freed, 2);
    assert_eq!(accepted(&one).expect("told").expect("accepted"), 10);
    assert!(done(&two).is_none());
    bench.result(11, b"x");
    let (task, outcome) = done(&two).expect("done");
    assert_eq!(
        (task, outcome.expect("ok")),
        (Some(11), Bytes::from_static(b"x"))
    );
    assert!(done(&one).is_none());
}

#[test]
fn a_frame_that_is_not_full_waits_for_those_under_way() {
    let mut bench = Bench::open(0);
    for sequence in 1..=frames::UNDER_WAY as u64 {
        bench.submit(b"1", false);
        assert_eq!(bench.frame().0, sequence);
    }
    bench.submit(b"1", false);
    assert_eq!(bench.next(), None);
    bench.accept(1, &[1]);
    assert_eq!(bench.frame().0, 3);
    for _ in 0..frames::TASKS_MAX / 2 {
        bench.submit(b"1", false);
    }
    assert_eq!(
        bench.frame().1.len(),
        frames::TASKS_MAX / 2,
        "a full one does not wait"
    );
}

#[test]
fn a_broken_stream_repeats_what_was_not_accepted_and_awaits_what_was() {
    let mut bench = Bench::open(0);
    let (one, two) = (bench.submit(b"1", true), bench.submit(b"2", false));
    let mut first = [bench.frame(), bench.frame()];
    bench.accept(1, &[5]);
    first.sort();
    let awaited_first = accepted(&one).is_some();
    bench.state.reopen();
    bench.welcome(2);
    if awaited_first {
        let Some(Request::Await(again)) = bench.next() else {
            panic!("no await")
        };
        assert_eq!((again.tasks, again.forget), (vec![5], vec![]));
    }
    assert_eq!(bench.frame(), first[1], "under its number");
    bench.accept(2, &[6]);
    let told = [&one, &two].map(|ticket| accepted(ticket).expect("told").expect("accepted"));
    assert_eq!(told.iter().sum::<u64>(), 11);
    assert!(bench.state.is_flushed());
}

#[test]
fn a_second_acceptance_of_a_frame_changes_nothing() {
    let mut bench = Bench::open(0);
    let ticket = bench.submit(b"1", false);
    bench.frame();
    bench.accept(1, &[5]);
    bench.accept(1, &[9]);
    bench.accept(7, &[9]);
    assert_eq!(accepted(&ticket).expect("told").expect("accepted"), 5);
    assert_eq!(bench.freed, 1);
}

#[test]
fn a_session_that_the_broker_forgot_is_numbered_anew() {
    let mut bench = Bench::open(0);
    bench.submit(b"1", false);
    bench.frame();
    bench.accept(1, &[1]);
    let ticket = bench.submit(b"2", false);
    assert_eq!(bench.frame().0, 2);
    bench.state.reopen();
    bench.welcome(0);
    assert_eq!(bench.frame(), (1, vec![Bytes::from_static(b"2")]));
    bench.accept(1, &[1]);
    assert_eq!(accepted(&ticket).expect("told").expect("accepted"), 1);
    bench.submit(b"3", false);
    assert_eq!(bench.frame().0, 2);
}

#[test]
fn back_pressure_repeats_from_the_first_refused_frame_in_order() {
    let mut bench = Bench::open(0);
    for _ in 0..2 {
        bench.submit(b"x", false);
        bench.frame();
    }
    let refuse = |sequence| SequencedAccepted {
        sequence,
        accepted: None,
        retry_after: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
    };
    let pause = bench.state.receive(Response::Accepted(refuse(1))).pause;
    assert_eq!(pause, Some(Duration::from_secs(1)));
    assert_eq!(
        bench.state.receive(Response::Accepted(refuse(2))).pause,
        None,
        "one pause"
    );
    bench.submit(b"x", false);
    assert_eq!(bench.next(), None, "nothing during the pause");
    bench.state.resume();
    assert_eq!([bench.frame().0, bench.frame().0], [1, 2]);
    assert_eq!(bench.next(), None);
    assert_eq!(bench.freed, 0);
}

#[test]
fn one_refused_task_fails_alone_and_gives_its_request_back() {
    let mut bench = Bench::open(0);
    let (one, two) = (bench.submit(b"1", false), bench.submit(b"2", false));
    bench.frame();
    let refusal = errors::refusal(ErrorReason::KeyMissing, "no key", []);
    let status = prost::Message::decode(refusal.details()).expect("details");
    let accepted_frame = AcceptedFrame {
        tasks: vec![0, 8],
        refusals: vec![Refusal {
            index: 0,
            status: Some(status),
        }],
        existing: vec![],
    };
    let accepted_frame = Some(accepted_frame);
    let answer = SequencedAccepted {
        sequence: 1,
        accepted: accepted_frame,
        retry_after: None,
    };
    bench.receive(Response::Accepted(answer));
    let error = accepted(&one).expect("told").expect_err("refused");
    assert_eq!(errors::reason(&error), Some(ErrorReason::KeyMissing));
    assert_eq!(one.refused_request(), "1");
    assert_eq!(accepted(&two).expect("told").expect("accepted"), 8);
}

#[test]
fn a_request_over_the_limit_is_never_sent() {
    static LARGE: [u8; 65] = [0; 65];
    let mut bench = Bench::open(0);
    let (large, small) = (bench.submit(&LARGE, true), bench.submit(b"1", true));
    assert_eq!(bench.frame().1, ["1"]);
    let (task, outcome) = done(&large).expect("refused");
    let error = outcome.expect_err("too large");
    assert_eq!(
        (task, errors::reason(&error)),
        (None, Some(ErrorReason::TooLarge))
    );
    assert!(accepted(&small).is_none());
    assert_eq!(bench.freed, 1);
}

#[test]
fn all_who_wait_for_a_task_get_its_result() {
    let mut bench = Bench::open(0);
    let tickets: Vec<_> = (0..3)
        .map(|_| Arc::new(Ticket::accepted(4, None)))
        .collect();
    for ticket in &tickets {
        bench.state.await_result(4, Arc::clone(ticket));
    }
    assert!(matches!(bench.next(), Some(Request::Await(frame)) if frame.tasks == [4, 4, 4]));
    let failure = Failure {
        index: 0,
        code: 5,
        message: "no".into(),
        ..Default::default()
    };
    let payloads = vec![Bytes::new()];
    let frame = ResultFrame {
        tasks: vec![4],
        payloads,
        failures: vec![failure],
    };
    bench.receive(Response::Results(frame));
    for ticket in &tickets {
        let (task, outcome) = done(ticket).expect("done");
        assert_eq!(
            (task, outcome.expect_err("failed").message()),
            (Some(4), "no")
        );
    }
    bench.result(4, b"late");
}

#[test]
fn a_task_is_forgotten_with_its_last_waiter() {
    let mut bench = Bench::open(0);
    let (one, two) = (
        Arc::new(Ticket::accepted(4, None)),
        Arc::new(Ticket::accepted(4, None)),
    );
    for ticket in [&one, &two] {
        bench.state.await_result(4, Arc::clone(ticket));
    }
    bench.next();
    for (ticket, told) in [(one, false), (two, true)] {
        let task = ticket.abandon().expect("awaited");
        bench.state.forget(task);
        let forgotten = matches!(bench.next(), Some(Request::Await(frame)) if frame.forget == [4]);
        assert_eq!(forgotten, told);
    }
}

#[test]
fn asking_again_takes_a_forget_back() {
    let mut bench = Bench::open(0);
    let one = Arc::new(Ticket::accepted(4, None));
    bench.state.await_result(4, Arc::clone(&one));
    bench.next();
    bench.state.forget(one.abandon().expect("awaited"));
    bench
        .state
        .await_result(4, Arc::new(Ticket::accepted(4, None)));
    assert!(
        matches!(bench.next(), Some(Request::Await(f)) if f.tasks == [4] && f.forget.is_empty())
    );
}

#[test]
fn a_caller_that_left_before_acceptance_awaits_nothing() {
    let mut bench = Bench::open(0);
    let ticket = bench.submit(b"1", true);
    bench.frame();
    assert_eq!(ticket.abandon(), None);
    bench.accept(1, &[5]);
    assert!(matches!(bench.next(), Some(Request::Await(frame)) if frame.forget == [5]));
    bench.state.reopen();
    bench.welcome(1);
    assert_eq!(bench.next(), None);
}

#[test]
fn the_flow_that_waits_is_named_again_after_a_break() {
    let mut bench = Bench::open(0);
    bench
        .state
        .await_result(4, Arc::new(Ticket::accepted(4, Some((2, 3)))));
    bench
        .state
        .await_result(5, Arc::new(Ticket::accepted(5, None)));
    bench.state.reopen();
    bench.welcome(0);
    let flows = [bench.next(), bench.next()].map(|message| match message {
        Some(Request::Await(frame)) => (
            frame.tasks,
            frame.parent.map(|parent| (parent.task, parent.token)),
        ),
        other => panic!("no await: {other:?}"),
    });
    assert_eq!(flows, [(vec![5], None), (vec![4], Some((2, 3)))]);
}

#[test]
fn giving_up_tells_everybody_and_begins_anew() {
    let mut bench = Bench::open(0);
    let sent = bench.submit(b"1", true);
    bench.frame();
    let queued = bench.submit(b"2", false);
    let awaited = Arc::new(Ticket::accepted(9, None));
    bench.state.await_result(9, Arc::clone(&awaited));
    let reaction = bench.state.fail(
        &Status::unauthenticated("who?"),
        Bytes::from_static(&[7; 16]),
    );
    bench.react(reaction);
    for ticket in [&sent, &awaited] {
        let error = done(ticket).expect("told").1.expect_err("given up");
        assert_eq!(error.code(), tonic::Code::Unauthenticated);
    }
    assert!(accepted(&queued).expect("told").is_err());
    assert_eq!(bench.freed, 2);
    bench.welcome(0);
    bench.submit(b"3", false);
    assert_eq!(bench.frame().0, 1);
}
