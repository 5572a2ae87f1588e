//! The checker: decides from a history alone whether each invariant held. What a history cannot decide is let pass, so
//! a violation is certain; a timeout counts as unknown.

mod endings;
mod leases;
mod limits;
mod order;
mod splits;
mod submissions;
mod task;
mod workers;

use crate::history::{Entry, Event, Method, Name, Rules, Submission, Task};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use task::Facts;

/// Violations that are told; what comes after the first few follows from them.
const TOLD_MAX: usize = 50;

/// What must hold. The numbers are those of the project's table of invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1: an acknowledged submission is never lost.
    AckedIsKept,
    /// I2: one task for one submission and for one key in its window; one effect for one key.
    OneTaskPerKey,
    /// I3: tokens grow; what is accepted was sent under the newest.
    Fenced,
    /// I4: per ordering key submit order, and one unfinished at a time.
    Ordered,
    /// I5: no attempt is given more time than is left.
    DeadlineNeverGrows,
    /// I6: nothing starts past its deadline, or before its time.
    StartsInTime,
    /// I7: a cancelled task never starts; an end is the only end.
    OneEnd,
    /// Nothing starts while its queue is paused.
    PausedIsStill,
    /// No more attempts begin or run than limits allow.
    Limited,
    /// Attempts go to workers that are there, and no more of them than gates let through.
    Gated,
    /// A task goes to the version that its hash says, unless that one is away.
    Divided,
    /// Queues share starts by their weights.
    Shared,
    /// Limit keys take turns.
    TakesTurns,
    /// Lower latency classes leave slots to higher ones.
    Reserved,
    /// I11: no more attempts than allowed, and no fewer before giving up.
    AttemptsCounted,
    /// I11: a task that failed for good is a dead letter exactly once.
    DeadLetterOnce,
    /// A result is what the worker gave.
    ResultIsOutcome,
    /// I19: every task ends, every submission is answered.
    EverythingEnds,
    /// An assertion of the code under test.
    Assertion,
    /// The history contradicts itself: its recorder is wrong.
    History,
}

impl Invariant {
    /// Every one.
    pub const ALL: [Self; 20] = [
        Self::AckedIsKept,
        Self::OneTaskPerKey,
        Self::Fenced,
        Self::Ordered,
        Self::DeadlineNeverGrows,
        Self::StartsInTime,
        Self::OneEnd,
        Self::PausedIsStill,
        Self::Limited,
        Self::Gated,
        Self::Divided,
        Self::Shared,
        Self::TakesTurns,
        Self::Reserved,
        Self::AttemptsCounted,
        Self::DeadLetterOnce,
        Self::ResultIsOutcome,
        Self::EverythingEnds,
        Self::Assertion,
        Self::History,
    ];

    /// Its number and name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckedIsKept => "I1 acked is kept",
            Self::OneTaskPerKey => "I2 one task per key",
            Self::Fenced => "I3 fenced",
            Self::Ordered => "I4 ordered",
            Self::DeadlineNeverGrows => "I5 deadline never grows",
            Self::StartsInTime => "I6 starts in time",
            Self::OneEnd => "I7 one end",
            Self::PausedIsStill => "paused is still",
            Self::Limited => "limited",
            Self::Gated => "gates hold",
            Self::Divided => "split by version",
            Self::Shared => "queues share",
            Self::TakesTurns => "keys take turns",
            Self::Reserved => "reserve is kept",
            Self::AttemptsCounted => "I11 attempts counted",
            Self::DeadLetterOnce => "I11 dead letter once",
            Self::ResultIsOutcome => "result is outcome",
            Self::EverythingEnds => "I19 everything ends",
            Self::Assertion => "assertion",
            Self::History => "history",
        }
    }
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What did not hold.
    pub invariant: Invariant,
    /// When it showed, ms of the recorder's clock.
    pub at: u64,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ms: {}: {}",
            self.at,
            self.invariant.name(),
            self.text
        )
    }
}

/// What a check came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What did not hold, in the order in which it showed; at most 50.
    pub violations: Vec<Violation>,
    /// Single checks by invariant.
    pub checks: BTreeMap<Invariant, u64>,
    /// Tasks seen.
    pub tasks: u64,
    /// Leases seen.
    pub attempts: u64,
}

/// A place in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct When {
    at: u64,
    position: usize,
}

/// The task that holds an ordering line.
#[derive(Debug, Clone, Copy)]
struct Line {
    task: u64,
}

struct Checker<'a> {
    rules: Rules,
    /// Whether leases are told by `dispatch`, else by `start`.
    dispatches: bool,
    now: When,
    methods: BTreeMap<&'a str, &'a Method>,
    submissions: BTreeMap<u64, submissions::Known<'a>>,
    tasks: BTreeMap<u64, Facts<'a>>,
    lines: BTreeMap<(&'a str, &'a str), Line>,
    paused: BTreeMap<&'a str, When>,
    /// Submissions that were seen under a key.
    keys: BTreeMap<(&'a str, &'a str), submissions::Key>,
    /// Children by flow and name.
    children: BTreeMap<(u64, &'a str), u64>,
    /// By submission: the task whose request tells it.
    of: BTreeMap<u64, u64>,
    effects: BTreeMap<&'a str, u64>,
    /// Attempts that began, by what a rate counts together.
    starts: BTreeMap<limits::Group<'a>, limits::Starts>,
    redriven: BTreeSet<u64>,
    /// Whether the history tells what the broker knows of workers.
    steered: bool,
    /// Workers that may be given attempts, and gates of methods.
    workers: BTreeMap<&'a str, workers::Worker<'a>>,
    gates: BTreeMap<&'a str, workers::Gate>,
    splits: splits::Splits<'a>,
    report: Report,
}

/// Checks a history, its entries in the order of time.
#[must_use]
pub fn check(entries: &[Entry]) -> Report {
    let rules = entries.iter().find_map(|entry| match &entry.event {
        Event::Rules(rules) => Some(rules.clone()),
        _ => None,
    });
    let mut checker = Checker {
        rules: rules.unwrap_or_default(),
        dispatches: entries
            .iter()
            .any(|entry| matches!(entry.event, Event::Dispatch(_))),
        now: When { at: 0, position: 0 },
        methods: BTreeMap::new(),
        submissions: BTreeMap::new(),
        tasks: BTreeMap::new(),
        lines: BTreeMap::new(),
        paused: BTreeMap::new(),
        keys: BTreeMap::new(),
        children: BTreeMap::new(),
        of: BTreeMap::new(),
        effects: BTreeMap::new(),
        starts: BTreeMap::new(),
        redriven: BTreeSet::new(),
        steered: false,
        workers: BTreeMap::new(),
        gates: BTreeMap::new(),
        splits: splits::Splits::default(),
        report: Report::default(),
    };
    for (position, entry) in entries.iter().enumerate() {
        checker.now = When {
            at: entry.at,
            position,
        };
        checker.take(&entry.event);
    }
    checker.finish();
    checker.check_order(entries);
    checker.report.tasks = checker.tasks.len() as u64;
    checker.report
}

impl<'a> Checker<'a> {
    fn take(&mut self, event: &'a Event) {
        match event {
            Event::Method(method) => drop(self.methods.insert(&method.method, method)),
            Event::SubmitInvoke(submission) => self.submitted(submission),
            Event::SubmitOk {
                id,
                task,
                existing,
                created_at,
            } => self.acknowledged(*id, *task, *existing, *created_at),
            Event::SubmitFail { id, reason } => self.refused(*id, reason),
            Event::SubmitInfo { id } => self.unknown(*id),
            Event::CancelInvoke { task } => self.facts(*task).cancel_wanted = true,
            Event::CancelOk(told) => self.cancel_answered(told),
            Event::RedriveInvoke { tasks } => {
                self.redriven.extend(tasks.iter().map(|task| task.0));
            }
            Event::Dispatch(lease) => self.leased(lease),
            Event::Start(lease) => self.started(lease),
            Event::OutcomeInvoke {
                task,
                token,
                code,
                digest,
                stop,
            } => {
                let sent = task::Sent {
                    at: self.now,
                    token: *token,
                    code: *code,
                    digest: *digest,
                    stop: *stop,
                };
                self.facts(*task).sent.push(sent);
            }
            Event::OutcomeOk { task, token } => self.settled(*task, *token),
            Event::Effect { key, task, .. } => self.effect(key, *task),
            Event::Result(told) | Event::Get(told) => self.told(told),
            Event::DeadLetters {
                queue,
                tasks,
                broker_at,
            } => self.dead_letters(queue, tasks, *broker_at),
            Event::PauseOk { queue } => drop(self.paused.insert(queue, self.now)),
            Event::ResumeInvoke { queue } => drop(self.paused.remove(&**queue)),
            Event::Crash { what } if **what == *"broker" => self.broker_gone(),
            Event::Restart {
                broker_at: Some(at),
                ..
            } => self.look_at_sides(*at),
            Event::SplitsInvoke => self.splits_invoked(),
            Event::SplitsOk { splits, broker_at } => self.splits_set(splits, *broker_at),
            Event::WorkerOn(joined) => self.worker_on(joined),
            Event::WorkerOff { conn, broker_at } => self.worker_off(*conn, *broker_at),
            Event::Gate(gate) => self.method_gate(gate),
            Event::WorkerGate(gate) => self.worker_gate(gate),
            _ => {}
        }
    }

    fn facts(&mut self, task: Task) -> &mut Facts<'a> {
        self.tasks.entry(task.0).or_default()
    }

    /// Notes one check, and a violation if it does not hold.
    fn ensure(&mut self, invariant: Invariant, holds: bool, text: impl FnOnce() -> String) {
        *self.report.checks.entry(invariant).or_default() += 1;
        if !holds && self.report.violations.len() < TOLD_MAX {
            self.report.violations.push(Violation {
                invariant,
                at: self.now.at,
                text: text(),
            });
        }
    }

    /// Whether the present is certainly after that.
    fn is_after(&self, then: When) -> bool {
        if self.rules.slack_ms == 0 {
            self.now.position > then.position
        } else {
            self.now.at > then.at + self.rules.slack_ms
        }
    }

    /// Whether an instant is certainly `span` or more after a task was accepted. `broker_at` is the instant on the
    /// broker's clock, where that is known; else the present counts.
    fn is_past(&self, facts: &Facts<'_>, span: u64, broker_at: Option<u64>) -> bool {
        match (facts.created_at, broker_at, facts.acked) {
            (Some(created), Some(at), _) => at >= created.saturating_add(span),
            // Only one of the two is known on the broker's clock: it cannot be said.
            (None, Some(_), _) => false,
            (_, _, Some(acked)) => {
                self.now.at > acked.at.saturating_add(span) + self.rules.slack_ms
            }
            _ => false,
        }
    }

    /// Whether an instant is certainly less than `span` after a task was accepted.
    fn is_within(&self, facts: &Facts<'_>, span: u64, broker_at: Option<u64>) -> bool {
        match (facts.created_at, broker_at, facts.wanted) {
            (Some(created), Some(at), _) => at < created.saturating_add(span),
            (None, _, Some(wanted)) => {
                self.now.at + self.rules.slack_ms < wanted.at.saturating_add(span)
            }
            _ => false,
        }
    }

    fn submission_of(&self, facts: &Facts<'a>) -> Option<&'a Submission> {
        let known = facts.submission.and_then(|id| self.submissions.get(&id));
        known.map(|known| known.submission)
    }

    fn method_of(&self, facts: &Facts<'a>) -> Option<&'a Method> {
        let submission = self.submission_of(facts)?;
        self.methods.get(&*submission.method).copied()
    }

    /// Whether no worker's side of a task was recorded.
    fn is_unseen(&self, task: Task) -> bool {
        let facts = self.tasks.get(&task.0);
        facts
            .and_then(|facts| self.submission_of(facts))
            .is_some_and(|submission| self.rules.unseen.contains(&submission.method))
    }

    fn effect(&mut self, key: &'a Name, task: Task) {
        let earlier = self.effects.insert(key, task.0);
        self.ensure(Invariant::OneTaskPerKey, earlier.is_none(), || {
            format!(
                "the effect of {key:?} happened twice, for {:?} and {task:?}",
                earlier
            )
        });
    }

    fn finish(&mut self) {
        self.check_running();
        if self.rules.complete {
            self.all_answered();
            self.all_ended();
        }
    }
}
