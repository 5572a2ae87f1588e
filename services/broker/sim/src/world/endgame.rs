//! After the last fault: everything must come to its end within a stated time, and then it is looked at once more.

use super::broker::Broker;
use super::policies::QUEUES;
use super::story::{told, unknown};
use super::worker::Worker;
use super::{Action, PATIENT_REST_MS, REST_MS, World};
use crate::check::Invariant;
use crate::history::{Event, Task};
use crate::points::Point;
use plait_broker_core::command::Command;
use plait_broker_core::ids::TaskId;
use plait_broker_log::sim::Faults;
use std::collections::BTreeSet;

/// Time between two looks, µs.
const LOOK_EVERY: u64 = 250_000;

/// Rounds of timers until everything must be forgotten.
const FORGET_ROUNDS: u32 = 400_000;

impl World {
    /// The faults are over.
    pub(super) fn heal(&mut self) {
        self.healing = Some(self.now);
        self.disk.set_faults(Faults::default());
        self.disk.keep_power();
        if self.disk.is_off() {
            // It went in a change that nobody had to answer for, such as the removal of a file.
            self.crash(true);
        }
        for worker in 0..self.workers.len() {
            self.wake(worker);
        }
        self.bring_healers();
        self.look_around();
    }

    /// A large worker of no version, to which any split leaves something, and one of each version that is there: else
    /// all tasks may be for the only slot of one.
    fn bring_healers(&mut self) {
        let living = self.workers.iter().filter(|worker| worker.is_taking());
        let mut versions: BTreeSet<&'static str> = living.map(Worker::version).collect();
        versions.insert("");
        for version in versions {
            self.new_worker(Some(version));
        }
    }

    pub(super) fn look_around(&mut self) {
        let Some(since) = self.healing else { return };
        if self.broker.is_none() {
            self.boot();
        }
        let mut paused = false;
        let mut unfinished = 0;
        if let Some(broker) = &self.broker {
            for queue in broker.partition.queues() {
                paused |= queue.paused.is_some();
                let open = queue.counts.iter().filter(|(state, _)| !state.is_final());
                unfinished += open.map(|(_, count)| *count).sum::<u64>();
            }
        }
        if paused {
            for queue in QUEUES {
                self.resume(queue.into());
            }
        }
        let content = self.clients.iter().all(super::client::Client::is_content);
        // What was decided is told once it is durable.
        let told = self.broker.as_ref().is_some_and(Broker::is_quiet);
        let served = told && !paused && unfinished == 0;
        if served && content && self.calls.is_empty() {
            self.rested = Some(self.now);
            return;
        }
        let rest_ms = if self.plan.steering.is_on() {
            PATIENT_REST_MS
        } else {
            REST_MS
        };
        if self.now > since + rest_ms * 1_000 {
            let discontent = self.clients.iter().filter(|client| !client.is_content());
            let discontent: Vec<String> = discontent.map(super::client::Client::describe).collect();
            let text = format!(
                "no rest {rest_ms} ms after the last fault: {unfinished} unfinished, paused: {paused}, \
                 calls {:?}, clients {discontent:?}",
                self.calls
            );
            self.wrong(Invariant::EverythingEnds, text);
            return;
        }
        self.after(LOOK_EVERY, Action::LookAround);
    }

    /// Looks at every task that was acknowledged, and at the dead letters.
    pub(super) fn look_at_everything(&mut self) {
        let Some(broker) = &self.broker else { return };
        let at = broker.clock(self.now);
        let mut dead = vec![Vec::new(); QUEUES.len()];
        let known: BTreeSet<TaskId> = self.submitted.iter().filter_map(|s| s.task).collect();
        for task in known {
            let view = self.last_look(task, at);
            if let Some(view) = view.as_ref().filter(|view| view.dead_letter)
                && let Some(queue) = QUEUES.iter().position(|queue| **queue == *view.queue)
            {
                dead[queue].push(Task(view.id.0));
            }
            self.tell(Event::Get(match &view {
                Some(view) => told(view, at),
                None => unknown(task, at),
            }));
        }
        for (queue, tasks) in QUEUES.iter().zip(dead) {
            for _ in &tasks {
                self.hit(Point::DeadLetter);
            }
            self.tell(Event::DeadLetters {
                queue: (*queue).into(),
                tasks,
                broker_at: Some(at),
            });
        }
        if self.seed.is_multiple_of(8) {
            self.forget_all();
        }
    }

    /// When every retention is over, nothing is left.
    fn forget_all(&mut self) {
        let Some(mut broker) = self.broker.take() else {
            return;
        };
        let began = broker.clock(self.now);
        let mut time = began;
        let mut step = plait_broker_core::Step::default();
        if let Some(filling) = broker.filling.take() {
            let (archive, written) = (filling.archive, false);
            let given_up = Command::ArchiveWritten { archive, written };
            broker.partition.apply(given_up, time, 0, &mut step);
        }
        for round in 0..FORGET_ROUNDS {
            // Sessions are watched for as long as their streams are open.
            if broker.partition.load().1 + broker.partition.archived().1 == 0 {
                break;
            }
            let due = broker.partition.next_timer().unwrap_or(time);
            time = time.max(due);
            let entropy = u64::from(round);
            let partition = &mut broker.partition;
            partition.apply(Command::Tick, time, entropy, &mut step);
            partition.dispatch(time, entropy, &mut step);
            step = plait_broker_core::Step::default();
        }
        let left = broker.partition.load().1 + broker.partition.archived().1;
        if left == 0 {
            self.hit(Point::Forgotten);
        } else {
            let text = format!(
                "{left} tasks stay {} ms later: {:?} in memory and archived, next timer {:?}, queues {:?}",
                time - began,
                (broker.partition.load(), broker.partition.archived()),
                broker
                    .partition
                    .next_timer()
                    .map(|at| at.saturating_sub(time)),
                broker.partition.queues(),
            );
            self.wrong(Invariant::EverythingEnds, text);
        }
    }
}
