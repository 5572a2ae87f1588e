//! Commands of operators and of the scheduler: policies, pauses, windows, redrives, keys.

use crate::command::Command;
use crate::effect::{Effect, Error, Reply, TaskState};
use crate::ids::{Millis, ReplyTag, TaskId};
use crate::partition::{Partition, Step};
use crate::record::Record;
use crate::state::table::Found;
use crate::state::task::FAR;
use bytes::Bytes;
use std::sync::Arc;

impl Partition {
    /// Commands that are answered by one reply.
    pub(super) fn control(&mut self, command: Command, now: Millis, step: &mut Step) {
        let (tag, reply) = match command {
            Command::Redrive {
                tag,
                tasks,
                dry_run,
            } => (tag, self.redrive(tasks, dry_run, now, step)),
            Command::PauseQueue { tag, queue, reason } => {
                (tag, self.pause(queue, Some(reason), step))
            }
            Command::ResumeQueue { tag, queue } => (tag, self.pause(queue, None, step)),
            Command::ApplyPolicies { tag, policies } => {
                if !policies.is_empty() {
                    self.commit(Record::PoliciesApplied { policies }, step);
                }
                (tag, Ok(Reply::Done))
            }
            Command::SetWindows { tag, windows } => (tag, Ok(self.set_windows(windows))),
            Command::KvPut {
                tag,
                key,
                value,
                expected,
            } => (tag, self.kv_put(key, value, expected, step)),
            Command::KvDelete { tag, key, expected } => (tag, self.kv_delete(key, expected, step)),
            _ => return,
        };
        answer(tag, reply, step);
    }

    /// Runs failed tasks again. Tasks that cannot be are passed over; if none can, the first one's reason is told.
    fn redrive(
        &mut self,
        tasks: Vec<TaskId>,
        dry_run: bool,
        now: Millis,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        let (mut failed, mut refused) = (Vec::new(), None);
        for task in tasks {
            match self.may_redrive(task) {
                Ok(()) => failed.push(task),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        failed.sort_unstable();
        failed.dedup();
        if let (true, Some(error)) = (failed.is_empty(), refused) {
            return Err(error);
        }
        let count = failed.len() as u64;
        if !dry_run && count > 0 {
            // The newest first: each then finds its place at the front of its ordering line.
            let tasks = failed
                .into_iter()
                .rev()
                .map(|id| (id, self.new_deadline(id, now)));
            let tasks: Vec<(TaskId, Millis)> = tasks.collect();
            let slots: Vec<u32> = tasks
                .iter()
                .filter_map(|(id, _)| self.state.tasks.find(*id))
                .collect();
            self.commit(Record::Redriven { tasks }, step);
            slots.into_iter().for_each(|slot| self.changed(slot));
        }
        Ok(Reply::Count(count))
    }

    /// Only a failed task can be run again; and a child of a failed flow only by its flow, which asks for it anew.
    fn may_redrive(&self, task: TaskId) -> Result<(), Error> {
        let conflict = |task, state| Err(Error::StateConflict { task, state });
        let entry = match self.state.tasks.seek(task) {
            Some(Found::Slot(slot)) => &self.state.tasks[slot],
            Some(Found::Retired(retired)) => return conflict(task, retired.state),
            None => return Err(Error::TaskNotFound { task }),
        };
        if entry.state != TaskState::Failed {
            return conflict(task, entry.state);
        }
        let flow = entry
            .birth()
            .and_then(|birth| self.state.tasks.by_id(birth.parent));
        match flow {
            Some(flow) if flow.state == TaskState::Failed => conflict(flow.id, flow.state),
            _ => Ok(()),
        }
    }

    fn new_deadline(&self, id: TaskId, now: Millis) -> Millis {
        let method = self.state.tasks.by_id(id).map_or(0, |task| task.method);
        now.saturating_add(self.state.methods.policy(method).deadline_ms)
            .min(FAR)
    }

    fn pause(
        &mut self,
        queue: Arc<str>,
        reason: Option<Arc<str>>,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        let Some(number) = self.state.methods.by_name.get(&queue) else {
            return Err(Error::QueueNotFound { queue });
        };
        let paused = self.state.methods.queues[*number as usize].paused.as_ref();
        match reason {
            Some(reason) if paused != Some(&reason) => {
                self.commit(Record::QueuePaused { queue, reason }, step);
            }
            None if paused.is_some() => self.commit(Record::QueueResumed { queue }, step),
            _ => {}
        }
        Ok(Reply::Done)
    }

    fn set_windows(&mut self, windows: Vec<(Arc<str>, u32)>) -> Reply {
        let mut unknown = Vec::new();
        for (worker, window) in windows {
            match self.live.workers.by_id.get(&worker).copied() {
                Some(number) => self.live.workers.changing(number).window = Some(window.max(1)),
                None => unknown.push(worker),
            }
        }
        Reply::Unknown(unknown)
    }

    fn kv_put(
        &mut self,
        key: Arc<str>,
        value: Bytes,
        expected: Option<u64>,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        self.check_version(&key, expected)?;
        let version = self.state.kv.version.saturating_add(1);
        self.commit(
            Record::KvPut {
                key,
                value,
                version,
            },
            step,
        );
        Ok(Reply::Version(version))
    }

    fn kv_delete(
        &mut self,
        key: Arc<str>,
        expected: Option<u64>,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        self.check_version(&key, expected)?;
        if self.state.kv.version_of(&key) > 0 {
            self.commit(Record::KvDeleted { key }, step);
        }
        Ok(Reply::Done)
    }

    fn check_version(&self, key: &str, expected: Option<u64>) -> Result<(), Error> {
        let version = self.state.kv.version_of(key);
        match expected {
            Some(expected) if expected != version => Err(Error::VersionMismatch { version }),
            _ => Ok(()),
        }
    }
}

fn answer(tag: ReplyTag, reply: Result<Reply, Error>, step: &mut Step) {
    let reply = reply.unwrap_or_else(Reply::Error);
    step.effects.push(Effect::Reply { tag, reply });
}
