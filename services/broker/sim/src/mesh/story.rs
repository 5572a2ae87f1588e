//! What happens in one world, told by all who take part; and by the broker itself, in the order in which it decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use plait_broker::partition::Witness;
use plait_broker_core::command::{Command, Submit, SubmitOrigin};
use plait_broker_core::effect::{Attempt, Effect};
use plait_broker_core::ids::{ConnId, Millis, SessionId, TaskId, Token};
use plait_broker_core::record::Acceptance;

use crate::check::{Invariant, Violation};
use crate::history::{Entry, Event, Lease, Name, Task};
use crate::world::submit::number_of;

/// Requests with a key carry numbers from here on, which tell the key and not the submission.
pub(super) const KEYED: u64 = 1 << 40;

/// The story so far.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// Virtual time, ms: that of the step.
    pub(super) now: u64,
    pub(super) history: Vec<Entry>,
    pub(super) found: Vec<Violation>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// Whether the broker knows the methods.
    pub(super) declared: bool,
    /// Since when the faults are over.
    pub(super) healing: Option<u64>,
    /// When all had come to its end.
    pub(super) rested: Option<u64>,
    /// Why the broker's process came to its end by itself, if it did.
    pub(super) ended: Option<String>,
    /// Submissions so far.
    pub(super) submissions: u64,
    /// Tasks that were acknowledged.
    pub(super) acknowledged: BTreeSet<u64>,
    /// Tasks of which somebody heard the end.
    pub(super) ends: BTreeSet<u64>,
    /// Clients that still wait for something.
    pub(super) waiting: BTreeSet<Name>,
    /// When each task was accepted, where that is known for certain.
    created: BTreeMap<u64, Millis>,
    /// How often each frame was applied.
    applied: BTreeMap<(SessionId, u64), u64>,
    sessions: BTreeMap<ConnId, SessionId>,
    workers: BTreeMap<ConnId, Name>,
    outcomes: BTreeMap<(ConnId, u64), Vec<(TaskId, Token)>>,
}

/// Everybody's hold on the story.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Story>>);

impl Shared {
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Story) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn tell(&self, event: Event) {
        self.with(|story| story.tell(event));
    }

    pub(super) fn count(&self, what: &'static str) {
        self.with(|story| story.count(what));
    }

    pub(super) fn is_healing(&self) -> bool {
        self.with(|story| story.healing.is_some())
    }

    pub(super) fn is_declared(&self) -> bool {
        self.with(|story| story.declared)
    }

    pub(super) fn wrong(&self, invariant: Invariant, text: String) {
        self.with(|story| story.wrong(invariant, text));
    }
}

impl Story {
    pub(super) fn tell(&mut self, event: Event) {
        let at = self.now;
        if let Event::Result(told) | Event::Get(told) | Event::CancelOk(told) = &event
            && told.state.is_final()
        {
            self.ends.insert(told.task.0);
        }
        self.history.push(Entry { at, event });
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn wrong(&mut self, invariant: Invariant, text: String) {
        let at = self.now;
        self.found.push(Violation {
            invariant,
            at,
            text,
        });
    }

    pub(super) fn created(&self, task: u64) -> Option<Millis> {
        self.created.get(&task).copied()
    }

    /// A new life of the broker: numbers of streams begin anew.
    pub(super) fn new_life(&mut self) {
        self.sessions.clear();
        self.workers.clear();
        self.outcomes.clear();
    }

    fn attempts(&mut self, time: Millis, conn: ConnId, attempts: &[Attempt]) {
        let worker = self.workers.get(&conn).cloned();
        let worker = worker.unwrap_or_else(|| "?".into());
        for attempt in attempts {
            let number = attempt.request.bytes.as_deref().and_then(number_of);
            self.tell(Event::Dispatch(Lease {
                task: Task(attempt.task.0),
                token: attempt.token.0,
                attempt: attempt.attempt,
                worker: worker.clone(),
                of: number.filter(|number| *number < KEYED),
                timeout_ms: Some(attempt.timeout_ms),
                broker_at: Some(time),
            }));
        }
    }

    fn accepted(&mut self, time: Millis, conn: ConnId, sequence: u64, acceptance: &Acceptance) {
        let session = self.sessions.get(&conn).copied().unwrap_or_default();
        // An acceptance of a frame that came again tells of an earlier time.
        if self.applied.get(&(session, sequence)) != Some(&1) {
            return;
        }
        for (index, task) in acceptance.tasks.iter().enumerate() {
            if *task != 0 && !acceptance.existing.contains(&(index as u32)) {
                self.created.entry(*task).or_insert(time);
            }
        }
    }

    fn settled(&mut self, conn: ConnId, sequence: u64, mut refused: Vec<(TaskId, Token)>) {
        let outcomes = self.outcomes.remove(&(conn, sequence)).unwrap_or_default();
        // Of an outcome that was sent twice in one frame, the first may count.
        for (task, token) in outcomes.into_iter().rev() {
            let at = refused.iter().position(|other| *other == (task, token));
            let (task, token) = (Task(task.0), token.0);
            if let Some(at) = at {
                refused.swap_remove(at);
                self.count("outcomes refused");
                self.tell(Event::OutcomeFail { task, token });
            } else {
                self.tell(Event::OutcomeOk { task, token });
            }
        }
    }
}

impl Witness for Shared {
    fn applying(&self, _: Millis, command: &Command) {
        self.with(|story| match command {
            Command::SessionOpened { conn, session } => {
                story.sessions.insert(*conn, *session);
            }
            Command::WorkerAttached(attach) => {
                story.workers.insert(attach.conn, attach.worker.clone());
            }
            Command::Submit(Submit {
                origin:
                    SubmitOrigin::Session {
                        session, sequence, ..
                    },
                ..
            }) => *story.applied.entry((*session, *sequence)).or_default() += 1,
            // Number 0 is what the broker tells in a worker's place, when a payload is lost.
            Command::Outcomes {
                conn,
                sequence: sequence @ 1..,
                outcomes,
            } => {
                let told = outcomes.iter().map(|outcome| (outcome.task, outcome.token));
                story.outcomes.insert((*conn, *sequence), told.collect());
            }
            _ => {}
        });
    }

    fn releasing(&self, time: Millis, effects: &[Effect]) {
        self.with(|story| {
            for effect in effects {
                match effect {
                    Effect::Attempts { conn, attempts, .. } => {
                        story.attempts(time, *conn, attempts);
                    }
                    Effect::Accepted {
                        conn,
                        sequence,
                        acceptance,
                    } => story.accepted(time, *conn, *sequence, acceptance),
                    Effect::Settled {
                        conn,
                        sequence,
                        refused,
                    } => {
                        let refused = refused.iter().map(|(task, token, _)| (*task, *token));
                        story.settled(*conn, *sequence, refused.collect());
                    }
                    _ => {}
                }
            }
        });
    }
}
