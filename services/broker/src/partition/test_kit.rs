//! What tests of users ask for: a clock that is moved ahead, and attempts that fail. Nothing of it is there in a broker
//! that was not started for tests.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use plait_broker_core::Partition;
use plait_broker_core::command::{Command, Outcome};
use plait_broker_core::effect::{Attempt, Effect, StopReason};
use plait_broker_core::ids::{ConnId, Millis, TaskId, Token};
use plait_broker_core::record::Failure;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use crate::clock::Clock;
use crate::outbox::Deferred;

/// The number of outcomes that a worker hears nothing of.
const UNNUMBERED: u64 = 0;

/// How far the clock is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// So many ms further than it is when its turn comes.
    Passed(Millis),
    /// Until this task is final.
    Finished(TaskId),
}

/// A move of the clock.
#[derive(Debug, Clone, Copy)]
pub struct Advance {
    /// Where to.
    pub until: Until,
    /// Moves on although attempts run or wait for a worker.
    pub regardless: bool,
}

/// Why the clock cannot get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// There is no such task.
    NoTask(TaskId),
    /// Nothing is due any more, and the task is not final.
    NothingDue(TaskId),
}

/// What becomes of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Harm {
    /// Its handler is not run; it ends with this failure and pushback.
    FailBefore(Failure, Option<Millis>),
    /// Its handler is run, and what it answers is replaced by this.
    FailAfter(Failure, Option<Millis>),
    /// The worker's stream breaks once the worker has the attempt.
    DropStream,
    /// The lease ends once the worker has the attempt.
    ExpireLease,
}

/// Attempts that fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Full path of their method.
    pub method: Arc<str>,
    /// Their numbers; empty: all.
    pub attempts: Vec<u32>,
    /// How often it strikes; 0: always.
    pub times: u32,
    /// How.
    pub harm: Harm,
}

/// What the kit is told.
pub(super) enum Order {
    Advance(Advance, oneshot::Sender<Result<Millis, Stuck>>),
    Add(Fault),
    List(oneshot::Sender<Vec<(Fault, u32)>>),
    Clear,
}

/// Something to do to a worker.
pub(super) enum Deed {
    /// Ends its stream.
    EndStream(Box<Status>),
    /// Applies a command in its name, and then tells it.
    Tell(Command, Option<Effect>),
}

/// A move that is under way or waits.
struct Moving {
    advance: Advance,
    /// Where it leads to, once it has begun.
    target: Option<Millis>,
    done: oneshot::Sender<Result<Millis, Stuck>>,
}

/// The kit of one partition.
#[derive(Default)]
pub(super) struct TestKit {
    moves: VecDeque<Moving>,
    faults: Vec<(Fault, u32)>,
    /// Attempts under way whose answers are replaced.
    replaced: HashMap<(TaskId, Token), (Failure, Option<Millis>)>,
    /// What is done to a worker once it has received a frame.
    waiting: Vec<(ConnId, u64, Deed)>,
    /// Streams that break: what still comes on them was never said.
    broken: HashSet<ConnId>,
}

impl TestKit {
    pub(super) fn take(&mut self, order: Order) {
        match order {
            Order::Advance(advance, done) => self.moves.push_back(Moving {
                advance,
                target: None,
                done,
            }),
            Order::Add(fault) => self.faults.push((fault, 0)),
            Order::List(tell) => {
                // Whoever asked may be gone.
                let _ = tell.send(self.faults.clone());
            }
            Order::Clear => self.faults.clear(),
        }
    }

    /// Moves the clock to the next instant at which something is due, if all that came before is done. An answer for
    /// the move that is over.
    pub(super) fn advance(&mut self, partition: &Partition, clock: &mut Clock) -> Option<Deferred> {
        self.moves.retain(|moving| !moving.done.is_closed());
        let moving = self.moves.front_mut()?;
        let (now, due) = (clock.now(), partition.next_timer());
        if due.is_some_and(|due| due <= now) {
            // The timer goes off by itself.
            return None;
        }
        let free = moving.advance.regardless || partition.busy(now).is_none();
        let over = match moving.advance.until {
            Until::Passed(span) => {
                let target = *moving
                    .target
                    .get_or_insert_with(|| now.saturating_add(span));
                if free && now < target {
                    clock.skip_to(due.unwrap_or(target).min(target));
                }
                (free && clock.now() >= target && due.is_none_or(|due| due > target))
                    .then(|| Ok(clock.now()))
            }
            Until::Finished(task) => match (partition.task(task), due) {
                (None, _) => Some(Err(Stuck::NoTask(task))),
                (Some(view), _) if view.state.is_final() => Some(Ok(now)),
                (Some(_), Some(due)) if free => {
                    clock.skip_to(due);
                    None
                }
                (Some(_), None) if free => Some(Err(Stuck::NothingDue(task))),
                _ => None,
            },
        };
        let answer = over?;
        let Moving { done, .. } = self.moves.pop_front()?;
        // Whoever asked may have given up.
        Some(Box::new(move || drop(done.send(answer))))
    }

    /// Looks at what is about to be applied: replaces answers, and gives what a worker's receipt sets off.
    pub(super) fn arriving(&mut self, command: &mut Command) -> Vec<(ConnId, Deed)> {
        match command {
            Command::Outcomes { conn, outcomes, .. } if self.broken.contains(conn) => {
                outcomes.clear();
                Vec::new()
            }
            Command::Outcomes { outcomes, .. } => {
                for outcome in outcomes {
                    let key = (outcome.task, outcome.token);
                    if let Some(failure) = self.replaced.remove(&key) {
                        outcome.result = Err(failure);
                    }
                }
                Vec::new()
            }
            Command::WorkerAccepted { conn, sequence } => {
                let due =
                    |(of, frame, _): &mut (ConnId, u64, Deed)| of == conn && *frame <= *sequence;
                let due = self.waiting.extract_if(.., due);
                let due: Vec<_> = due.map(|(conn, _, deed)| (conn, deed)).collect();
                if due
                    .iter()
                    .any(|(_, deed)| matches!(deed, Deed::EndStream(_)))
                {
                    self.broken.insert(*conn);
                }
                due
            }
            Command::WorkerDetached { conn, .. } => {
                self.waiting.retain(|(of, ..)| of != conn);
                self.broken.remove(conn);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Looks at what is about to be sent to workers, and takes out what is to fail before it begins: as commands.
    pub(super) fn leaving(
        &mut self,
        partition: &Partition,
        effects: &mut [Effect],
    ) -> Vec<Command> {
        if self.faults.is_empty() {
            return Vec::new();
        }
        let mut commands = Vec::new();
        for effect in effects {
            let Effect::Attempts {
                conn,
                sequence,
                attempts,
            } = effect
            else {
                continue;
            };
            let (conn, sequence) = (*conn, *sequence);
            let mut outcomes = Vec::new();
            attempts.retain(|attempt| match self.strike(partition, attempt) {
                Some(Harm::FailBefore(failure, pushback)) => {
                    outcomes.push(outcome(attempt, failure, pushback));
                    false
                }
                Some(Harm::FailAfter(failure, pushback)) => {
                    let key = (attempt.task, attempt.token);
                    self.replaced.insert(key, (failure, pushback));
                    true
                }
                Some(Harm::DropStream) => {
                    self.waiting.push((conn, sequence, drop_stream()));
                    true
                }
                Some(Harm::ExpireLease) => {
                    self.waiting.push((conn, sequence, expire(conn, attempt)));
                    true
                }
                None => true,
            });
            if !outcomes.is_empty() {
                commands.push(Command::Outcomes {
                    conn,
                    sequence: UNNUMBERED,
                    outcomes,
                });
            }
        }
        commands
    }

    /// The newest fault that fits, counted.
    fn strike(&mut self, partition: &Partition, attempt: &Attempt) -> Option<Harm> {
        let method = partition.task(attempt.task)?.method;
        let fits = |(fault, struck): &&mut (Fault, u32)| {
            fault.method == method
                && (fault.attempts.is_empty() || fault.attempts.contains(&attempt.attempt))
                && (fault.times == 0 || *struck < fault.times)
        };
        let (fault, struck) = self.faults.iter_mut().rev().find(fits)?;
        *struck += 1;
        Some(fault.harm.clone())
    }
}

fn outcome(attempt: &Attempt, failure: Failure, pushback: Option<Millis>) -> Outcome {
    Outcome {
        task: attempt.task,
        token: attempt.token,
        result: Err((failure, pushback)),
    }
}

fn drop_stream() -> Deed {
    Deed::EndStream(Box::new(Status::unavailable(
        "the test kit drops this stream",
    )))
}

fn expire(conn: ConnId, attempt: &Attempt) -> Deed {
    let failure = Failure {
        code: Code::Unavailable as u32,
        message: Arc::from("the test kit ended the lease"),
        ..Failure::default()
    };
    let command = Command::Outcomes {
        conn,
        sequence: UNNUMBERED,
        outcomes: vec![outcome(attempt, failure, None)],
    };
    let entries = vec![(attempt.task, attempt.token, StopReason::LeaseLost)];
    Deed::Tell(command, Some(Effect::Stop { conn, entries }))
}
