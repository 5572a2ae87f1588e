//! What becomes of effects once they are durable: they are told in the history and sent on their way.

use super::archive::Asker;
use super::submit::{self, request_id};
use super::{Action, World};
use crate::check::Invariant;
use crate::history::{Digest, Event, Lease, Name, State, Task, Told};
use crate::points::Point;
use plait_broker_core::effect::{
    Attempt, Effect, Error, Reply, StopReason, TaskResult, TaskState, TaskView,
};
use plait_broker_core::ids::{ConnId, Millis, ReplyTag, TaskId};
use plait_broker_core::record::{Acceptance, Blob};

/// An answer that waits for its group, and how many of the group's effects were decided before it.
pub(super) type Answer = (usize, Deferred);

/// What is told when its group is durable.
#[derive(Debug)]
pub(super) enum Deferred {
    Tell(Event),
    Results(ConnId, Vec<TaskResult>),
}

/// A unary call that waits for its answer.
#[derive(Debug, Clone)]
pub(super) enum Call {
    /// Submissions, sent again under the same request id if there is one.
    Submit(Vec<u64>, Option<[u8; 16]>),
    Cancel(TaskId),
    Pause(Name),
    Resume(Name),
    Other,
}

/// A task's state as a history tells it.
pub(super) fn told(view: &TaskView, at: Millis) -> Told {
    Told {
        task: Task(view.id.0),
        state: state(view.state),
        code: if view.state.is_final() && view.state != TaskState::Succeeded {
            view.failure.as_ref().map_or(0, |failure| failure.code)
        } else {
            0
        },
        digest: None,
        attempt: Some(view.attempt),
        dead_letter: Some(view.dead_letter),
        broker_at: Some(at),
    }
}

fn state(state: TaskState) -> State {
    match state {
        TaskState::Succeeded => State::Succeeded,
        TaskState::Failed => State::Failed,
        TaskState::Cancelled => State::Cancelled,
        TaskState::Expired => State::Expired,
        _ => State::Unfinished,
    }
}

/// What a task's state is told as when nothing is known of it.
pub(super) fn unknown(task: TaskId, at: Millis) -> Told {
    Told {
        task: Task(task.0),
        state: State::NotFound,
        code: 5,
        digest: None,
        attempt: None,
        dead_letter: None,
        broker_at: Some(at),
    }
}

impl World {
    /// A group is durable: what follows from it may happen.
    pub(super) fn release(&mut self, time: Millis, effects: Vec<Effect>, answers: Vec<Answer>) {
        let mut answers = answers.into_iter().peekable();
        for (decided, effect) in effects.into_iter().enumerate() {
            while let Some((_, answer)) = answers.next_if(|(before, _)| *before <= decided) {
                self.tell_deferred(answer, time);
            }
            self.carry_out(time, effect);
        }
        answers.for_each(|(_, answer)| self.tell_deferred(answer, time));
    }

    fn tell_deferred(&mut self, answer: Deferred, time: Millis) {
        match answer {
            Deferred::Tell(event) => self.tell(event),
            Deferred::Results(conn, results) => self.tell_results(conn, results, time),
        }
    }

    fn carry_out(&mut self, time: Millis, effect: Effect) {
        match effect {
            Effect::Reply { tag, reply } => self.replied(tag, reply, time),
            Effect::Accepted {
                conn,
                sequence,
                acceptance,
            } => {
                if self.reaches(conn) {
                    let ids = self.conn(conn).frames.remove(&sequence).unwrap_or_default();
                    self.tell_acceptance(&ids, &acceptance);
                }
                self.send_down(
                    conn,
                    Effect::Accepted {
                        conn,
                        sequence,
                        acceptance,
                    },
                );
            }
            Effect::Results { conn, results } => self.tell_results(conn, results, time),
            Effect::Attempts {
                conn,
                sequence,
                attempts,
            } => self.tell_attempts(conn, sequence, attempts, time),
            Effect::Settled {
                conn,
                sequence,
                refused,
            } => {
                self.tell_settled(conn, sequence, &refused);
                self.send_down(
                    conn,
                    Effect::Settled {
                        conn,
                        sequence,
                        refused,
                    },
                );
            }
            Effect::SessionReplaced { conn } => {
                self.hit(Point::SessionTakenOver);
                self.close(conn);
            }
            Effect::SessionClosed { conn, .. } => self.close(conn),
            Effect::WorkerClosed { conn, .. } => {
                self.hit(Point::WorkerReplaced);
                self.close(conn);
            }
            Effect::Stop { conn, entries } => {
                for (_, _, reason) in &entries {
                    self.hit(match reason {
                        StopReason::AttemptTimedOut => Point::AttemptTimedOut,
                        _ => Point::Stopped,
                    });
                }
                self.send_down(conn, Effect::Stop { conn, entries });
            }
            Effect::SessionOpened { conn, .. } | Effect::WorkerWelcome { conn, .. } => {
                self.send_down(conn, effect);
            }
            Effect::ResultsArchived { conn, tasks } => {
                self.look_up_later(Asker::Results(conn, tasks));
            }
            Effect::ArchivesReleased { archives } => self.remove_archives(&archives),
            Effect::LogReleasable
            | Effect::FlagChanged { .. }
            | Effect::TaskChanged { .. }
            | Effect::WatchArchived { .. }
            | Effect::WatchFailed { .. } => {}
        }
    }

    /// The shell ends a stream: nothing more is sent, and the state machine hears of it a moment later.
    pub(super) fn close(&mut self, conn: ConnId) {
        if self.reaches(conn) {
            self.end_peer(conn);
            self.conn(conn).broker_open = false;
            let delay = self.dice.below(500);
            self.end_broker(conn, delay);
        }
    }

    fn tell_acceptance(&mut self, ids: &[u64], acceptance: &Acceptance) {
        for (index, (id, task)) in ids.iter().zip(&acceptance.tasks).enumerate() {
            let index = index as u32;
            if *task == 0 {
                let refusal = acceptance.refusals.iter().find(|r| r.index == index);
                let reason = refusal.map_or("?", |refusal| reason(&refusal.error));
                if reason == "DUPLICATE_KEY_CONFLICT" {
                    self.hit(Point::KeyConflict);
                }
                self.tell(Event::SubmitFail {
                    id: *id,
                    reason: reason.into(),
                });
                continue;
            }
            let existing = acceptance.existing.contains(&index);
            self.submitted[*id as usize].task = Some(TaskId(*task));
            if existing {
                self.note_existing(*id);
            } else {
                self.plan_boundary(*id, *task);
                self.plan_edge(*id, *task);
            }
            self.tell(Event::SubmitOk {
                id: *id,
                task: Task(*task),
                existing,
                created_at: self.created.get(task).copied(),
            });
        }
    }

    fn note_existing(&mut self, id: u64) {
        let child = self.submitted[id as usize].child;
        self.hit(if child {
            Point::FlowAgain
        } else {
            Point::KeyRepeated
        });
    }

    fn tell_results(&mut self, conn: ConnId, mut results: Vec<TaskResult>, time: Millis) {
        if !self.reaches(conn) {
            return;
        }
        for result in &mut results {
            let (state, code, digest) = match &mut result.result {
                Ok(blob) => {
                    let Some(digest) = self.load(result.task, blob) else {
                        return self.close(conn);
                    };
                    (State::Succeeded, 0, Some(Digest(digest)))
                }
                Err((_, failure)) if failure.code == 5 && failure.reason.is_some() => {
                    self.tell(Event::Result(unknown(result.task, time)));
                    continue;
                }
                Err((task_state, failure)) => {
                    if *task_state == TaskState::Expired {
                        self.hit(Point::Expired);
                    }
                    (state(*task_state), failure.code, None)
                }
            };
            self.tell(Event::Result(Told {
                task: Task(result.task.0),
                state,
                code,
                digest,
                attempt: None,
                dead_letter: None,
                broker_at: Some(time),
            }));
        }
        self.send_down(conn, Effect::Results { conn, results });
    }

    fn tell_attempts(
        &mut self,
        conn: ConnId,
        sequence: u64,
        mut attempts: Vec<Attempt>,
        time: Millis,
    ) {
        let peer = self.conn(conn).peer;
        let worker = self.name_of(peer);
        let mut unreadable = false;
        for attempt in &mut attempts {
            let of = self.load(attempt.task, &mut attempt.request);
            self.tell(Event::Dispatch(Lease {
                task: Task(attempt.task.0),
                token: attempt.token.0,
                attempt: attempt.attempt,
                worker: worker.clone(),
                of,
                timeout_ms: Some(attempt.timeout_ms),
                broker_at: Some(time),
            }));
            unreadable |= of.is_none();
        }
        if unreadable {
            return self.close(conn);
        }
        self.send_down(
            conn,
            Effect::Attempts {
                conn,
                sequence,
                attempts,
            },
        );
    }

    /// The first number of a payload, read back from the log if it is not in memory. What cannot be read although its
    /// task lives, or is not what was written, must not be.
    fn load(&mut self, task: TaskId, blob: &mut Blob) -> Option<u64> {
        let broker = self.broker.as_ref()?;
        if blob.bytes.is_none() && blob.len > 0 {
            self.points.hit(Point::BlobFromLog);
            let errors = self.seen.errors();
            let read = match blob.at {
                Some(at) => broker
                    .reader
                    .read(at, blob.len as usize)
                    .map_err(|error| error.to_string()),
                None => Err("it has no place".to_owned()),
            };
            match read {
                Ok(bytes) => blob.bytes = Some(bytes),
                Err(error) => {
                    let lives = broker.partition.task(task).is_some();
                    if lives && self.seen.errors() == errors && !self.disk.is_off() {
                        let text = format!("a payload of {task} cannot be read: {error}");
                        self.wrong(Invariant::AckedIsKept, text);
                    }
                    return None;
                }
            }
        }
        let number = submit::number_of(blob.bytes.as_deref().unwrap_or_default());
        if number.is_none() {
            let text = format!("a payload of {task} is not what was written: {blob:?}");
            self.wrong(Invariant::ResultIsOutcome, text);
        }
        number
    }

    fn tell_settled(
        &mut self,
        conn: ConnId,
        sequence: u64,
        refused: &[(TaskId, plait_broker_core::ids::Token, Error)],
    ) {
        let outcomes = self
            .conn(conn)
            .outcomes
            .remove(&sequence)
            .unwrap_or_default();
        let mut refused: Vec<_> = refused
            .iter()
            .map(|(task, token, _)| (*task, *token))
            .collect();
        // Of an outcome that was sent twice in one frame, the first may count.
        for (task, token) in outcomes.into_iter().rev() {
            let at = refused.iter().position(|other| *other == (task, token));
            let (task, token) = (Task(task.0), token.0);
            if let Some(at) = at {
                refused.swap_remove(at);
                self.hit(Point::OutcomeRefused);
                self.tell(Event::OutcomeFail { task, token });
            } else {
                self.tell(Event::OutcomeOk { task, token });
            }
        }
    }

    fn replied(&mut self, tag: ReplyTag, reply: Reply, time: Millis) {
        let Some(call) = self.calls.remove(&tag) else {
            return;
        };
        match (call, reply) {
            (Call::Submit(ids, _), Reply::Accepted(acceptance)) => {
                self.tell_acceptance(&ids, &acceptance);
            }
            (Call::Submit(ids, _), Reply::Error(error)) => {
                for id in ids {
                    let reason = reason(&error).into();
                    self.tell(Event::SubmitFail { id, reason });
                }
            }
            (Call::Cancel(_), Reply::Task(view)) => {
                self.hit(if view.state == TaskState::Cancelled {
                    Point::Cancelled
                } else {
                    Point::CancelLostRace
                });
                self.tell(Event::CancelOk(told(&view, time)));
            }
            (Call::Cancel(task), Reply::Archived(_)) => self.look_up_later(Asker::Cancel(task)),
            (_, Reply::Archived(tasks)) => self.look_up_later(Asker::Redrive(tasks)),
            (Call::Cancel(task), Reply::Error(_)) => {
                self.tell(Event::Get(unknown(task, time)));
            }
            (Call::Pause(queue), Reply::Done) => {
                self.hit(Point::Paused);
                self.tell(Event::PauseOk { queue });
            }
            (Call::Resume(queue), Reply::Done) => self.tell(Event::ResumeOk { queue }),
            _ => {}
        }
    }

    /// A call that nobody answers any more.
    pub(super) fn call_lost(&mut self, tag: ReplyTag) {
        let Some(call) = self.calls.remove(&tag) else {
            return;
        };
        self.hit(Point::CallUnknown);
        match call {
            Call::Submit(ids, Some(request)) => self.call_submit(ids, Some(request), 50_000),
            Call::Submit(ids, None) => {
                for id in ids {
                    self.tell(Event::SubmitInfo { id });
                }
            }
            Call::Cancel(task) => self.tell(Event::CancelInfo { task: Task(task.0) }),
            _ => {}
        }
    }

    /// Sends submissions by a unary call.
    pub(super) fn call_submit(&mut self, ids: Vec<u64>, request: Option<[u8; 16]>, mean: u64) {
        let tasks = ids
            .iter()
            .map(|id| self.submitted[*id as usize].task_to_submit.clone())
            .collect();
        let tag = self.tag(Call::Submit(ids, request));
        let delay = self.dice.span(mean);
        let command = request_id(tag, request, tasks);
        self.after(delay, Action::Call(command));
    }
}

pub(super) fn reason(error: &Error) -> &'static str {
    match error {
        Error::LeaseLost { .. } => "LEASE_LOST",
        Error::QueueFull { .. } => "QUEUE_FULL",
        Error::DuplicateKeyConflict { .. } => "DUPLICATE_KEY_CONFLICT",
        Error::FlowDiverged { .. } => "FLOW_DIVERGED",
        Error::MethodUnknown { .. } => "METHOD_UNKNOWN",
        Error::SequenceGap { .. } => "SEQUENCE_GAP",
        _ => "OTHER",
    }
}
