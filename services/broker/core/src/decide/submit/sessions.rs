//! Submitters' streams: opening, closing, and waiting for results.

use super::super::Partition;
use crate::effect::{Effect, TaskResult};
use crate::ids::{ConnId, Millis, SessionId, TaskId, Token};
use crate::partition::Step;
use crate::state::table::Found;

impl Partition {
    pub(crate) fn session_opened(&mut self, conn: ConnId, session: SessionId, step: &mut Step) {
        if let Some(old) = self.live.streams.close(conn) {
            self.live.held.drop_session(&old);
        }
        self.live.held.drop_session(&session);
        if let Some(replaced) = self.live.streams.open(conn, session) {
            step.effects
                .push(Effect::SessionReplaced { conn: replaced });
        }
        let last_sequence = self.state.sessions.last(&session);
        step.effects.push(Effect::SessionOpened {
            conn,
            last_sequence,
        });
    }

    pub(crate) fn session_closed(&mut self, conn: ConnId) {
        if let Some(session) = self.live.streams.close(conn) {
            self.live.held.drop_session(&session);
        }
    }

    pub(crate) fn await_results(
        &mut self,
        conn: ConnId,
        wanted: (&[TaskId], &[TaskId]),
        parent: Option<(TaskId, Token)>,
        now: Millis,
        step: &mut Step,
    ) {
        let Some(stream) = self.live.streams.number(conn) else {
            return;
        };
        let (tasks, forget) = wanted;
        for id in forget {
            self.forget_one(stream, *id);
        }
        let run = parent.and_then(|(task, token)| self.running(task, token));
        for id in tasks {
            self.await_one(stream, *id, run);
        }
        if let Some(flow) = run
            && let Some(run) = self.run_mut(flow)
        {
            run.news = false;
            if run.outstanding > 0
                && let Some(parent) = parent
            {
                self.allow_run(parent, now, step);
            }
        }
    }

    /// A stream waits for a task, perhaps for a flow.
    pub(super) fn await_one(&mut self, stream: u32, id: TaskId, flow: Option<u32>) {
        let slot = match self.state.tasks.seek(id) {
            Some(Found::Slot(slot)) if !self.state.tasks[slot].is_final() => slot,
            found => return self.result_now(stream, id, found),
        };
        self.live.streams.wait(&mut self.state.tasks, slot, stream);
        if let Some(flow) = flow
            && flow != slot
        {
            self.run_awaits(flow, slot);
        }
    }

    /// The result of a task that is final, or unknown.
    fn result_now(&mut self, stream: u32, id: TaskId, found: Option<Found>) {
        let result = match found {
            Some(Found::Slot(slot)) => self.result(&self.state.tasks[slot]),
            Some(Found::Retired(task)) => self.result(&task),
            None if self.state.archives.may_hold(id) => {
                return self.live.streams.push_archived(stream, id);
            }
            None => TaskResult::not_found(id),
        };
        self.live.streams.push(stream, || result);
    }

    /// A stream waits no longer; nor does the flow that it waited for.
    fn forget_one(&mut self, stream: u32, id: TaskId) {
        let Some(slot) = self.state.open(id) else {
            return;
        };
        if !self
            .live
            .streams
            .forget(&mut self.state.tasks, slot, stream)
        {
            return;
        }
        let Some(birth) = self.state.tasks[slot].birth_mut() else {
            return;
        };
        let parent = birth.parent;
        let awaited = std::mem::replace(&mut birth.awaited, Token(0));
        if awaited != Token(0) {
            self.awaited_ended(parent, awaited, false);
        }
    }
}
