//! Cancelling and watching.

use crate::effect::{Effect, Error, Reply, StopReason};
use crate::ids::{ConnId, ReplyTag, TaskId};
use crate::partition::{Partition, Step};
use crate::record::Record;
use crate::state::slab::NONE;
use std::sync::Arc;

impl Partition {
    pub(super) fn cancel(
        &mut self,
        tag: ReplyTag,
        task: TaskId,
        reason: &Arc<str>,
        step: &mut Step,
    ) {
        // The race of cancel and complete has one winner: whoever is recorded first.
        if let Some(slot) = self.state.open(task)
            && !crate::mutant::is(crate::mutant::Mutant::CancelIgnored)
        {
            self.cancel_slot(slot, reason, step);
        }
        let reply = match self.state.tasks.seek(task) {
            Some(found) => Reply::Task(Box::new(self.view_found(&found))),
            None if self.state.archives.may_hold(task) => Reply::Archived(vec![task]),
            None => Reply::Error(Error::TaskNotFound { task }),
        };
        step.effects.push(Effect::Reply { tag, reply });
    }

    /// Cancels an unfinished task; a running attempt is told.
    pub(crate) fn cancel_slot(&mut self, slot: u32, reason: &Arc<str>, step: &mut Step) {
        self.stop_attempt(slot, StopReason::Cancelled);
        let task = self.state.tasks[slot].id;
        self.commit(
            Record::Cancelled {
                task,
                reason: Arc::clone(reason),
            },
            step,
        );
        self.ended(slot);
    }

    /// Tells the worker that holds the task, if one does, to stop, and takes the lease from it.
    pub(crate) fn stop_attempt(&mut self, slot: u32, reason: StopReason) {
        let (id, token) = (self.state.tasks[slot].id, self.state.tasks[slot].token());
        let worker = self.release(slot);
        if worker != NONE {
            let conn = self.live.workers.slab[worker].conn;
            self.live.stop(conn, id, token, reason);
        }
    }

    pub(super) fn watch(&mut self, conn: ConnId, task: TaskId, step: &mut Step) {
        let Some(found) = self.state.tasks.seek(task) else {
            let error = Error::TaskNotFound { task };
            step.effects.push(if self.state.archives.may_hold(task) {
                Effect::WatchArchived { conn, task }
            } else {
                Effect::WatchFailed { conn, error }
            });
            return;
        };
        if let Some(slot) = self.state.open(task) {
            self.live.watchers.add(&mut self.state.tasks, slot, conn);
        }
        step.effects.push(Effect::TaskChanged {
            conn,
            task: Box::new(self.view_found(&found)),
        });
    }
}
