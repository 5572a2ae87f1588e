//! Who begins before whom: queues share starts by their weights, limit keys take turns, and lower latency classes leave
//! slots to higher ones. A second pass, because whether a task waited all the time shows only when it starts.
//!
//! Judged is what is certain: of two that both had something to start all the while. A task counts as waiting from its
//! acknowledgement to its first start if nothing but its turn can have held it, and only while the broker lives.

mod shares;
mod slots;
mod turns;

use super::{Checker, Invariant};
use crate::history::{Entry, Event, Joined, Lease, Limits, Method, Rank, Submission};
use shares::Shares;
use slots::Slots;
use std::collections::{BTreeMap, BTreeSet};
use turns::Turns;

/// Tasks of one method and priority.
type Group<'a> = (&'a str, u8);

/// A task, as far as its turn goes.
#[derive(Debug, Clone, Copy)]
struct Item<'a> {
    group: Group<'a>,
    method: &'a Method,
    rank: Rank,
    key: Option<&'a str>,
    /// Nothing but its turn, and what stops its whole method, holds it before its first start.
    plain: bool,
    /// It may be given up before it starts.
    hurried: bool,
}

/// Workers that serve the same methods.
#[derive(Debug, Default)]
struct Class<'a> {
    methods: Vec<(&'a Method, Rank)>,
    slots: u64,
}

/// What is known at a point of the history.
#[derive(Debug, Default)]
struct Known<'a> {
    workers: BTreeMap<&'a str, (&'a Joined, usize)>,
    classes: Vec<Class<'a>>,
    /// Queues that are or may be paused, methods that are or may be gated.
    paused: BTreeSet<&'a str>,
    gated: BTreeSet<&'a str>,
    /// Tasks that wait for certain, and how many of each group.
    tasks: BTreeSet<u64>,
    /// Tasks that have started: they may be acknowledged later.
    begun: BTreeSet<u64>,
    /// When the broker's process began, on its own clock: what became of older tasks meanwhile is not known.
    since: u64,
    waiting: BTreeMap<Group<'a>, u64>,
    /// Tasks were divided between versions: workers with the same methods may have been given different ones.
    divided: bool,
}

#[derive(Debug, Default)]
struct Sweep<'a> {
    known: Known<'a>,
    shares: Shares<'a>,
    turns: Turns<'a>,
    slots: Slots<'a>,
}

impl<'a> Known<'a> {
    /// Whether a queue has something to start in a class of workers for certain, at a latency class and priority.
    fn has(&self, class: usize, (latency, priority): (u8, u8), queue: &str) -> bool {
        if self.paused.contains(queue) {
            return false;
        }
        let mut methods = self.classes[class].methods.iter();
        methods.any(|(method, rank)| {
            let waits = || self.waiting.get(&(&*method.method, priority)).copied();
            *method.queue == *queue
                && rank.latency == latency
                && !self.gated.contains(&*method.method)
                && method.limits.as_ref().is_none_or(Limits::is_none)
                && waits().unwrap_or(0) > 0
        })
    }

    fn forget_tasks(&mut self) {
        self.tasks.clear();
        self.waiting.clear();
    }
}

impl Limits {
    fn is_none(&self) -> bool {
        self.starts == 0 && self.running == 0 && self.running_per_key == 0
    }
}

impl<'a> Checker<'a> {
    /// The second pass.
    pub(super) fn check_order(&mut self, entries: &'a [Entry]) {
        if !self.steered || self.rules.slack_ms > 0 {
            return;
        }
        let mut sweep = Sweep {
            slots: Slots::new(self.tasks.values().flat_map(|facts| &facts.accepted)),
            ..Sweep::default()
        };
        let parents = self.submissions.values();
        let parents = parents.filter_map(|known| known.submission.parent.as_ref());
        sweep.slots.flows = parents.map(|(flow, _)| flow.0).collect();
        let mut position = 0;
        while let Some(entry) = entries.get(position) {
            let mut leases = Vec::new();
            while let Some(Event::Dispatch(lease)) = entries.get(position).map(|e| &e.event) {
                leases.push(lease);
                position += 1;
            }
            self.now.at = entry.at;
            if leases.is_empty() {
                self.pass(&mut sweep, &entry.event);
                position += 1;
            }
            // Frames are told by worker; tokens have the order in which the broker chose.
            leases.sort_unstable_by_key(|lease| lease.token);
            for lease in leases {
                self.begins(&mut sweep, lease);
            }
        }
    }

    fn pass(&mut self, sweep: &mut Sweep<'a>, event: &'a Event) {
        match event {
            Event::SubmitOk {
                task,
                existing: false,
                created_at: Some(at),
                ..
            } if *at > sweep.known.since => self.waits(sweep, task.0),
            Event::Restart {
                broker_at: Some(at),
                ..
            } => sweep.known.since = *at,
            Event::OutcomeOk { token, .. } => sweep.slots.ends(*token),
            Event::CancelInvoke { task } => {
                let item = self.item(task.0);
                sweep.turns.unsure(item, true);
            }
            Event::CancelInfo { task } => sweep.turns.unsure(self.item(task.0), false),
            Event::CancelOk(told) => sweep.turns.unsure(self.item(told.task.0), false),
            Event::PauseInvoke { queue } => {
                sweep.known.paused.insert(queue);
                sweep.shares.again();
            }
            Event::ResumeOk { queue } => drop(sweep.known.paused.remove(&**queue)),
            Event::Gate(gate) => {
                sweep.shares.again();
                match gate.permits {
                    Some(_) => drop(sweep.known.gated.insert(&gate.of)),
                    None => drop(sweep.known.gated.remove(&*gate.of)),
                }
            }
            Event::WorkerGate(gate) => sweep.slots.gate(&gate.of, gate.permits.is_some()),
            Event::WorkerOn(joined) => {
                sweep.known.workers.insert(&joined.worker, (joined, 0));
                sweep.slots.forget(&joined.worker);
                self.classify(sweep);
            }
            Event::WorkerOff { conn, .. } => {
                let workers = &mut sweep.known.workers;
                let gone = workers.values().find(|(joined, _)| joined.conn == *conn);
                if let Some((joined, _)) = gone.copied() {
                    workers.remove(&*joined.worker);
                    sweep.slots.forget(&joined.worker);
                    self.classify(sweep);
                }
            }
            Event::SplitsInvoke => sweep.known.divided = true,
            Event::WeightsInvoke { method } => sweep.turns.weights_invoked(method),
            Event::WeightsOk { method, weights } => sweep.turns.weights_set(method, weights),
            Event::Crash { what } if **what == *"broker" => {
                let slots = std::mem::take(&mut sweep.slots);
                let known = &mut sweep.known;
                known.forget_tasks();
                known.workers.clear();
                known.gated.clear();
                known.classes.clear();
                sweep.shares.again();
                sweep.turns.broker_gone();
                sweep.slots = slots.after_crash();
            }
            _ => {}
        }
    }

    /// A task, if all that its turn hangs on is known.
    fn item(&self, task: u64) -> Option<Item<'a>> {
        let facts = self.tasks.get(&task)?;
        let (submission, method) = self.submission_of(facts).zip(self.method_of(facts))?;
        let rank = method.rank?;
        let Submission {
            order,
            delay_ms,
            parent,
            ..
        } = submission;
        let free = order.is_none() && *delay_ms == 0 && parent.is_none();
        Some(Item {
            group: (
                &*method.method,
                submission.priority.unwrap_or(rank.priority),
            ),
            method,
            rank,
            key: submission.limit.as_deref(),
            plain: free && !self.redriven.contains(&task),
            hurried: submission.deadline_ms.is_some(),
        })
    }

    fn waits(&mut self, sweep: &mut Sweep<'a>, task: u64) {
        let Some(item) = self.item(task) else { return };
        sweep.turns.comes(&item);
        let starts = self.tasks.get(&task).is_some_and(|f| !f.leases.is_empty());
        let later = starts && !sweep.known.begun.contains(&task);
        if item.plain && later && sweep.known.tasks.insert(task) {
            *sweep.known.waiting.entry(item.group).or_default() += 1;
            sweep.turns.waits(&item);
        }
    }

    fn begins(&mut self, sweep: &mut Sweep<'a>, lease: &'a Lease) {
        let task = lease.task.0;
        let Some(item) = self.item(task) else {
            // Whose start it was is not known.
            sweep.shares.again();
            return sweep.turns.forget();
        };
        let class = sweep.known.workers.get(&*lease.worker).map(|(_, at)| *at);
        let class = class.filter(|_| !sweep.known.divided);
        if let Some(class) = class {
            let found = sweep.shares.begins(&sweep.known, class, &item);
            self.ensure(Invariant::Shared, found.is_none(), || {
                format!("t{task:x} starts, and {}", found.unwrap_or_default())
            });
            let class = &sweep.known.classes[class];
            let found = sweep.slots.begins(&sweep.known, class, (lease, &item));
            self.ensure(Invariant::Reserved, found.is_none(), || {
                format!("t{task:x} takes a slot: {}", found.unwrap_or_default())
            });
        }
        if !sweep.known.divided {
            let passed = sweep.turns.begins(&item);
            self.ensure(Invariant::TakesTurns, passed.is_none(), || {
                format!(
                    "t{task:x} of {:?} starts beyond its share, and {passed:?} waits all the while",
                    item.key
                )
            });
        }
        sweep.known.begun.insert(task);
        if sweep.known.tasks.remove(&task) {
            let waiting = sweep.known.waiting.entry(item.group).or_default();
            *waiting -= 1;
            sweep.turns.waits_no_more(&item);
            sweep.shares.leave(&sweep.known, &item);
        }
    }

    /// Who serves the same methods as whom.
    fn classify(&self, sweep: &mut Sweep<'a>) {
        sweep.shares.again();
        let mut sets: BTreeMap<Vec<&'a str>, usize> = BTreeMap::new();
        let known = &mut sweep.known;
        known.classes.clear();
        for (joined, number) in known.workers.values_mut() {
            let mut set: Vec<&'a str> = joined.methods.iter().map(|method| &**method).collect();
            set.sort_unstable();
            *number = *sets.entry(set.clone()).or_insert_with(|| {
                let methods = set.iter().filter_map(|m| self.methods.get(m).copied());
                known.classes.push(Class {
                    methods: methods.filter_map(|m| Some((m, m.rank?))).collect(),
                    slots: 0,
                });
                known.classes.len() - 1
            });
            known.classes[*number].slots += u64::from(joined.slots);
        }
    }
}
