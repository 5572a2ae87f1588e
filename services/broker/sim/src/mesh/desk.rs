//! What a worker has on its desk: attempts that run or wait, and outcomes that are kept until they are settled.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use plait::pb::v1 as pb;
use tokio::time::Instant;

use super::plan::Plan;
use super::story::{KEYED, Shared};
use crate::dice::Dice;
use crate::history::{Digest, Event, Lease, Name, Task};
use crate::world::policies::POISON;
use crate::world::submit::{number_of, payload};

/// A task and its token.
pub(super) type Held = (u64, u64);

/// An attempt.
#[derive(Debug)]
struct Run {
    task: u64,
    attempt: u32,
    method: &'static str,
    of: Option<u64>,
    timeout_ms: u64,
    begun: bool,
    /// The lease is lost, and the handler does not listen.
    zombie: bool,
    due: Option<Instant>,
}

/// An outcome.
#[derive(Debug, Clone)]
struct Done {
    task: u64,
    token: u64,
    /// The response, or a gRPC code.
    result: Result<Bytes, u32>,
    /// The frame of this stream that told it.
    sent: Option<u64>,
}

/// The desk.
#[derive(Debug)]
pub(super) struct Desk {
    story: Shared,
    plan: Plan,
    dice: Dice,
    name: Name,
    methods: Vec<&'static str>,
    runs: BTreeMap<u64, Run>,
    done: Vec<Done>,
    sequence: u64,
    /// To be handed back, not started.
    back: Vec<Held>,
}

impl Desk {
    pub(super) fn new(
        story: Shared,
        plan: Plan,
        dice: Dice,
        name: Name,
        methods: Vec<&'static str>,
    ) -> Self {
        Self {
            story,
            plan,
            dice,
            name,
            methods,
            runs: BTreeMap::new(),
            done: Vec::new(),
            sequence: 0,
            back: Vec::new(),
        }
    }

    pub(super) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// What is held when a new stream begins.
    pub(super) fn held(&mut self) -> Vec<Held> {
        self.sequence = 0;
        let running = self.runs.iter().filter(|(_, run)| !run.zombie);
        let running = running.map(|(token, run)| (run.task, *token));
        let done = self.done.iter().map(|done| (done.task, done.token));
        let mut held: Vec<Held> = running.chain(done).collect();
        held.sort_unstable();
        held.dedup();
        if !held.is_empty() {
            self.story.count("workers back with leases");
        }
        held
    }

    pub(super) fn welcomed(&mut self, lost: &[pb::HeldLease]) {
        self.story.tell(Event::Attach {
            worker: self.name.clone(),
        });
        for held in lost {
            self.story.count("leases lost at reattachment");
            self.lose(held.task, held.token);
            // Some tell an outcome all the same: it is fenced.
            if !self.dice.permille(200) {
                let lease = (held.task, held.token);
                self.done.retain(|done| (done.task, done.token) != lease);
            }
        }
        self.done.iter_mut().for_each(|done| done.sent = None);
    }

    /// A frame of attempts.
    pub(super) fn receive(&mut self, frame: &pb::AttemptFrame) {
        let mut extras = frame.extras.iter().peekable();
        for (index, task) in frame.tasks.iter().enumerate() {
            let extra = extras.next_if(|extra| extra.index as usize == index);
            let method = frame.method_index.get(index).copied().unwrap_or(0) as usize;
            let request = frame.payloads.get(index).and_then(|bytes| number_of(bytes));
            if request.is_none() {
                let text = format!("the request of t{task:x} is not what was submitted");
                let invariant = crate::check::Invariant::ResultIsOutcome;
                self.story.wrong(invariant, text);
            }
            let token = frame.tokens.get(index).copied().unwrap_or_default();
            if self.dice.permille(40) {
                self.story.count("attempts handed back");
                self.back.push((*task, token));
                continue;
            }
            let waits = self.dice.permille(150);
            let wait = if waits {
                self.dice.span(self.plan.handler)
            } else {
                0
            };
            let run = Run {
                task: *task,
                attempt: extra.map_or(1, |extra| extra.attempt),
                method: self.methods.get(method).copied().unwrap_or_default(),
                of: request.filter(|number| *number < KEYED),
                timeout_ms: frame.timeout_ms.get(index).copied().unwrap_or_default(),
                begun: false,
                zombie: false,
                due: Some(Instant::now() + Duration::from_millis(wait)),
            };
            self.runs.insert(token, run);
        }
    }

    /// A lease is not the worker's any more; most handlers listen.
    pub(super) fn lose(&mut self, task: u64, token: u64) {
        let deaf = self.dice.permille(250);
        let Some(run) = self.runs.get_mut(&token).filter(|run| run.task == task) else {
            return;
        };
        if deaf && run.begun {
            run.zombie = true;
        } else {
            self.runs.remove(&token);
        }
    }

    pub(super) fn settled(&mut self, sequence: u64) {
        self.done
            .retain(|done| done.sent.is_none_or(|sent| sent > sequence));
    }

    /// When the next handler begins or ends.
    pub(super) fn due(&self) -> Option<Instant> {
        self.runs.values().filter_map(|run| run.due).min()
    }

    /// Lets handlers begin and end. True if there is something to tell.
    pub(super) fn work(&mut self) -> bool {
        let now = Instant::now();
        let due = self.runs.iter();
        let due = due.filter(|(_, run)| run.due.is_some_and(|due| due <= now));
        for token in due.map(|(token, _)| *token).collect::<Vec<_>>() {
            if self.runs.get(&token).is_some_and(|run| run.begun) {
                self.finish(token);
            } else {
                self.begin(token, now);
            }
        }
        self.done.iter().any(|done| done.sent.is_none()) || !self.back.is_empty()
    }

    fn begin(&mut self, token: u64, now: Instant) {
        let healing = self.story.is_healing();
        let span = self.dice.span(self.plan.handler);
        let trouble = if healing { 999 } else { self.dice.below(1_000) };
        let Some(run) = self.runs.get_mut(&token) else {
            return;
        };
        run.begun = true;
        run.due = match trouble {
            // A handler that never returns.
            0..10 => None,
            10..30 => Some(now + Duration::from_millis(span + 2_500)),
            _ => Some(now + Duration::from_millis(span)),
        };
        self.story.tell(Event::Start(Lease {
            task: Task(run.task),
            token,
            attempt: run.attempt,
            worker: self.name.clone(),
            of: run.of,
            timeout_ms: Some(run.timeout_ms),
            broker_at: None,
        }));
    }

    fn finish(&mut self, token: u64) {
        let Some(run) = self.runs.remove(&token) else {
            return;
        };
        if run.zombie {
            self.story.count("outcomes after a lost lease");
        }
        let failing = match run.method {
            POISON => 700,
            _ if self.story.is_healing() => 0,
            _ => self.plan.failing,
        };
        let (result, digest) = if self.dice.permille(failing) {
            (Err(if self.dice.permille(850) { 14 } else { 3 }), None)
        } else {
            let number = self.dice.number();
            let response = payload(number, self.plan.payload);
            (Ok(response), Some(Digest(number)))
        };
        self.story.tell(Event::OutcomeInvoke {
            task: Task(run.task),
            token,
            code: result.as_ref().err().copied().unwrap_or(0),
            digest,
            stop: false,
        });
        let done = Done {
            task: run.task,
            token,
            result,
            sent: None,
        };
        if self.dice.permille(30) {
            self.story.count("outcomes told twice");
            self.done.push(done.clone());
        }
        self.done.push(done);
    }

    /// The outcomes that were not told on this stream.
    pub(super) fn outcomes(&mut self) -> Option<pb::OutcomeFrame> {
        let mut frame = pb::OutcomeFrame {
            sequence: self.sequence + 1,
            ..pb::OutcomeFrame::default()
        };
        for done in self.done.iter_mut().filter(|done| done.sent.is_none()) {
            done.sent = Some(frame.sequence);
            let index = frame.tasks.len() as u32;
            frame.tasks.push(done.task);
            frame.tokens.push(done.token);
            frame.payloads.push(done.result.clone().unwrap_or_default());
            frame
                .failures
                .extend(done.result.as_ref().err().map(|code| pb::Failure {
                    index,
                    code: *code,
                    message: "the handler says so".to_owned(),
                    ..pb::Failure::default()
                }));
        }
        if frame.tasks.is_empty() {
            return None;
        }
        self.sequence = frame.sequence;
        Some(frame)
    }

    /// The attempts to hand back.
    pub(super) fn hand_back(&mut self) -> Option<pb::HandBackFrame> {
        let back = std::mem::take(&mut self.back);
        (!back.is_empty()).then(|| {
            let (tasks, tokens) = back.into_iter().unzip();
            pb::HandBackFrame { tasks, tokens }
        })
    }
}
