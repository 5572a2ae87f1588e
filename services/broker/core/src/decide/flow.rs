//! Flows: tasks that wait for their children, and children whose flow has ended.

use crate::effect::{StopReason, TaskState};
use crate::ids::{ConnId, Millis, TaskId, Token};
use crate::partition::{Partition, Step};
use crate::record::ReturnCause;
use crate::state::families;
use crate::state::leases::{Lease, Run};
use crate::state::slab::NONE;

/// Children that are looked at in one step: bounds the pause when a large flow ends.
const REAP_MAX: usize = 512;

impl Partition {
    /// The slot of a flow whose run under this token is the present one, on an attached worker.
    pub(crate) fn running(&self, task: TaskId, token: Token) -> Option<u32> {
        let slot = self.state.tasks.find(task)?;
        let current = self.state.tasks[slot].token() == token;
        (current && self.lease(slot).is_some_and(|lease| lease.worker != NONE)).then_some(slot)
    }

    /// What the present run of a flow asked for so far.
    pub(crate) fn run_mut(&mut self, slot: u32) -> Option<&mut Run> {
        let task = &self.state.tasks[slot];
        let recorded = task.family().map_or(0, |family| family.count);
        let lease = self.state.leases.slab.get_mut(task.lease())?;
        let fresh = || {
            Box::new(Run {
                recorded,
                ..Run::default()
            })
        };
        Some(lease.run.get_or_insert_with(fresh))
    }

    /// A run of a flow waits for a task that is not final.
    pub(crate) fn run_awaits(&mut self, flow: u32, slot: u32) {
        let (id, token) = (self.state.tasks[flow].id, self.state.tasks[flow].token());
        let (new, foreign) = match self.state.tasks[slot].birth_mut() {
            Some(birth) if birth.parent == id => {
                (std::mem::replace(&mut birth.awaited, token) != token, false)
            }
            _ => (self.live.streams.run_waits(slot, (id, token)), true),
        };
        if !new {
            return;
        }
        let Some(run) = self.run_mut(flow) else {
            return;
        };
        run.outstanding += 1;
        run.foreign += u64::from(foreign);
        if run.outstanding == 1 {
            self.show_suspended(flow);
        }
    }

    /// A task that a run waited for needs no waiting any more.
    pub(crate) fn awaited_ended(&mut self, flow: TaskId, token: Token, foreign: bool) {
        let Some(slot) = self.running(flow, token) else {
            return;
        };
        let Some(run) = self.run_mut(slot) else {
            return;
        };
        run.outstanding = run.outstanding.saturating_sub(1);
        run.foreign = run.foreign.saturating_sub(u64::from(foreign));
        run.news = true;
        if run.outstanding == 0 {
            self.show_running(slot);
            self.move_attempt(slot, false);
            self.changed(slot);
        }
    }

    /// A flow with awaited tasks holds no slot of its worker.
    fn show_suspended(&mut self, slot: u32) {
        let method = self.state.tasks[slot].method;
        self.state.methods.discount(method, TaskState::Running);
        self.state.methods.count(method, TaskState::Suspended);
        self.move_attempt(slot, true);
        self.changed(slot);
    }

    /// The attempt of a flow begins to wait, or goes on.
    fn move_attempt(&mut self, slot: u32, waits: bool) {
        let lease = self.lease(slot);
        if let Some((worker, latency)) = lease.map(|lease| (lease.worker, lease.latency)) {
            let worker = self.live.workers.changing(worker);
            *worker.counter(!waits, latency) -= 1;
            *worker.counter(waits, latency) += 1;
        }
    }

    /// Counts a suspended flow as RUNNING again, as the records do.
    pub(crate) fn show_running(&mut self, slot: u32) {
        let method = self.state.tasks[slot].method;
        self.state.methods.discount(method, TaskState::Suspended);
        self.state.methods.count(method, TaskState::Running);
    }

    /// A task that may be a child, or a flow, became final.
    pub(crate) fn child_ended(&mut self, slot: u32) {
        let task = &self.state.tasks[slot];
        if task.state != TaskState::Succeeded
            && task.family().is_some_and(|family| family.unfinished > 0)
        {
            self.live.reaping.push_back((task.id, None));
        }
        let Some(birth) = self.state.tasks[slot].birth_mut() else {
            return;
        };
        let parent = birth.parent;
        // A child that is redriven ends again, and then nobody waits for it unless somebody asked anew.
        let awaited = std::mem::replace(&mut birth.awaited, Token(0));
        if awaited != Token(0) {
            self.awaited_ended(parent, awaited, false);
        }
        let parent_state = self.state.tasks.by_id(parent).map(|parent| parent.state);
        if parent_state == Some(TaskState::Suspended) {
            self.live.wakeups.push(parent);
        }
    }

    pub(super) fn suspend(
        &mut self,
        conn: ConnId,
        leases: &[(TaskId, Token)],
        now: Millis,
        step: &mut Step,
    ) {
        let Some(worker) = self.live.workers.of(conn) else {
            return;
        };
        let mut slots = Vec::new();
        for (task, token) in leases {
            let Some(slot) = self.held_by(worker, *task, *token) else {
                continue;
            };
            if self.is_at_most_once(slot) {
                let text = "a flow that must not start twice was unloaded".to_owned();
                self.lose_attempt(slot, text, now, step);
                continue;
            }
            self.wake_if_due(slot);
            self.release(slot);
            slots.push(slot);
        }
        self.unload(&slots, step);
    }

    /// A flow that is about to be unloaded is run again at once if its run did not see the latest result, as it may be
    /// when its worker unloads it, or if there is none to come.
    fn wake_if_due(&mut self, slot: u32) {
        let news = self
            .lease(slot)
            .and_then(|lease| lease.run.as_ref())
            .is_none_or(|run| run.news);
        let task = &self.state.tasks[slot];
        if news || task.family().is_none_or(|family| family.unfinished == 0) {
            let id = task.id;
            self.live.wakeups.push(id);
        }
    }

    /// Whether a flow stands still, and may be run again.
    pub(super) fn can_be_unloaded(&self, slot: u32) -> bool {
        self.lease(slot).is_some_and(Lease::is_waiting) && !self.is_at_most_once(slot)
    }

    /// Flows that stand still for longer than an attempt may take make room on their worker. That is no failure: what
    /// they wait for has deadlines of its own.
    pub(super) fn unload_waiting(&mut self, slots: &[u32], step: &mut Step) {
        for slot in slots {
            self.wake_if_due(*slot);
            self.stop_attempt(*slot, StopReason::AttemptTimedOut);
        }
        self.unload(slots, step);
    }

    /// Suspended flows with a child that ended are READY.
    pub(crate) fn wake_flows(&mut self, step: &mut Step) {
        let mut flows = std::mem::take(&mut self.live.wakeups);
        flows.sort_unstable();
        flows.dedup();
        let suspended = |id: TaskId| {
            let slot = self.state.tasks.find(id)?;
            (self.state.tasks[slot].state == TaskState::Suspended).then_some(slot)
        };
        let slots: Vec<u32> = flows.into_iter().filter_map(suspended).collect();
        self.give_back(slots, ReturnCause::ChildEnded, step);
    }

    /// Cancels unfinished children of flows that ended without success, some in each step.
    pub(crate) fn reap(&mut self, step: &mut Step) {
        let mut left = REAP_MAX;
        while left > 0
            && let Some((flow, from)) = self.live.reaping.pop_front()
        {
            let (children, next) = self.children(flow, from, left);
            left = left.saturating_sub(children.len().max(1));
            if next.is_some() {
                self.live.reaping.push_front((flow, next));
            }
            for child in children {
                if !self.state.tasks[child].is_final() {
                    self.end_child(child, step);
                }
            }
        }
    }

    /// Some children of a flow that ended and has unfinished ones, and the one to go on with.
    fn children(
        &self,
        flow: TaskId,
        from: Option<TaskId>,
        most: usize,
    ) -> (Vec<u32>, Option<TaskId>) {
        let tasks = &self.state.tasks;
        let mut found = Vec::new();
        // A flow that is run again meanwhile has its children back.
        let over = |slot: &u32| {
            let flow = &tasks[*slot];
            flow.is_final() && flow.family().is_some_and(|family| family.unfinished > 0)
        };
        let Some(slot) = tasks.find(flow).filter(over) else {
            return (found, None);
        };
        let resume = from.and_then(|child| tasks.find(child));
        let mut child = resume.unwrap_or_else(|| families::first(tasks, slot));
        while child != NONE && found.len() < most {
            found.push(child);
            child = families::next(tasks, child);
        }
        let next = tasks.get(child).map(|child| child.id);
        (found, next)
    }

    fn end_child(&mut self, slot: u32, step: &mut Step) {
        self.cancel_slot(slot, &crate::state::PARENT_ENDED.into(), step);
    }
}
