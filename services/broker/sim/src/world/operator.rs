//! The operator and the scheduler: pauses, windows, redrives.

use super::policies::QUEUES;
use super::story::Call;
use super::{Action, World};
use crate::history::{Event, Name, Task};
use crate::points::Point;
use plait_broker_core::command::{Command, WorkerGate};
use plait_broker_core::effect::TaskState;
use plait_broker_core::ids::TaskId;
use std::collections::BTreeMap;

impl World {
    pub(super) fn operator_acts(&mut self) {
        if self.healing.is_some() {
            return;
        }
        let delay = self.dice.span(self.plan.operator_every);
        self.after(delay, Action::Operator);
        let queue: Name = QUEUES[self.dice.below(3) as usize].into();
        match self.dice.below(10) {
            0..3 => self.pause(queue),
            3..6 => self.resume(queue),
            6..8 => self.set_window(),
            8 => self.redrive(),
            _ => {}
        }
    }

    /// One change of a queue at a time: two at once would have no order that can be known.
    fn is_changing(&self, queue: &Name) -> bool {
        self.calls
            .values()
            .any(|call| matches!(call, Call::Pause(other) | Call::Resume(other) if other == queue))
    }

    pub(super) fn pause(&mut self, queue: Name) {
        if self.is_changing(&queue) {
            return;
        }
        self.tell(Event::PauseInvoke {
            queue: queue.clone(),
        });
        let tag = self.tag(Call::Pause(queue.clone()));
        let delay = self.dice.span(5_000);
        let reason = "simulation".into();
        self.after(
            delay,
            Action::Call(Command::PauseQueue { tag, queue, reason }),
        );
    }

    pub(super) fn resume(&mut self, queue: Name) {
        if self.is_changing(&queue) {
            return;
        }
        self.tell(Event::ResumeInvoke {
            queue: queue.clone(),
        });
        let tag = self.tag(Call::Resume(queue.clone()));
        let delay = self.dice.span(5_000);
        self.after(delay, Action::Call(Command::ResumeQueue { tag, queue }));
    }

    /// Lets a queue go on at the very instant of some deadline, its timers late: what waits there must not start.
    pub(super) fn edge(&mut self, queue: &Name) {
        if self.broker.is_none() || self.is_changing(queue) {
            return;
        }
        self.hit(Point::DeadlineEdge);
        self.tell(Event::ResumeInvoke {
            queue: queue.clone(),
        });
        let tag = self.tag(Call::Resume(queue.clone()));
        let queue = queue.clone();
        self.command_with(Command::ResumeQueue { tag, queue }, true);
    }

    fn set_window(&mut self) {
        let Some(at) = self.dice.index(self.workers.len()) else {
            return;
        };
        let windows = vec![(self.workers[at].name.clone(), self.dice.range(1, 10) as u32)];
        let tag = self.tag(Call::Other);
        let delay = self.dice.span(5_000);
        self.after(delay, Action::Call(Command::SetWindows { tag, windows }));
        self.set_gate(at);
    }

    /// As the breaker of a worker does: nothing, or a few probes; it is over by itself.
    fn set_gate(&mut self, at: usize) {
        let gate = WorkerGate {
            worker: self.workers[at].name.clone(),
            permits: Some(self.dice.below(4) as u32),
            valid_ms: self.dice.span(10_000),
        };
        let (tag, gates) = (self.tag(Call::Other), vec![gate]);
        let delay = self.dice.span(5_000);
        let set = Command::SetWorkerGates { tag, gates };
        self.after(delay, Action::Call(set));
    }

    fn redrive(&mut self) {
        let Some(broker) = &self.broker else { return };
        let (failed, _) = broker
            .partition
            .tasks_before(TaskId(u64::MAX), 2, 200, &|view| {
                view.state == TaskState::Failed
            });
        let tasks: Vec<TaskId> = failed.iter().map(|view| view.id).collect();
        if tasks.is_empty() {
            return;
        }
        self.hit(Point::Redriven);
        self.tell(Event::RedriveInvoke {
            tasks: tasks.iter().map(|task| Task(task.0)).collect(),
        });
        let tag = self.tag(Call::Other);
        let delay = self.dice.span(5_000);
        let dry_run = false;
        self.after(
            delay,
            Action::Call(Command::Redrive {
                tag,
                tasks,
                archived: BTreeMap::new(),
                dry_run,
            }),
        );
    }
}
