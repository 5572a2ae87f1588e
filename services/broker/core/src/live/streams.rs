//! Submitters' streams, and who waits for which result.

use crate::effect::{Effect, TaskResult};
use crate::ids::{ConnId, SessionId, TaskId, Token};
use crate::state::slab::NONE;
use crate::state::table::TaskTable;
use crate::state::task::flag;
use std::collections::BTreeMap;

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) conn: ConnId,
    pub(crate) session: SessionId,
    /// Results of this step.
    results: Vec<TaskResult>,
    /// Tasks whose results of this step are in archive files.
    archived: Vec<TaskId>,
}

/// All streams, by numbers that are never used again: a waiter of a stream that is gone meets nobody.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: BTreeMap<u32, Stream>,
    by_conn: BTreeMap<ConnId, u32>,
    by_session: BTreeMap<SessionId, u32>,
    next: u32,
    /// Streams that wait for a task beside its first one, by slot.
    more: BTreeMap<u32, Vec<u32>>,
    /// Runs of flows that wait for a task that is not their child, by slot.
    runs: BTreeMap<u32, Vec<(TaskId, Token)>>,
    dirty: Vec<u32>,
}

impl Streams {
    /// Opens a stream; tells which one it replaces.
    pub(crate) fn open(&mut self, conn: ConnId, session: SessionId) -> Option<ConnId> {
        let replaced = self.current(&session).filter(|old| *old != conn);
        if let Some(old) = replaced {
            self.close(old);
        }
        self.close(conn);
        let number = self.next;
        self.next = self.next.wrapping_add(1) % NONE;
        self.streams.insert(
            number,
            Stream {
                conn,
                session,
                results: Vec::new(),
                archived: Vec::new(),
            },
        );
        self.by_conn.insert(conn, number);
        self.by_session.insert(session, number);
        replaced
    }

    /// Closes a stream; tells its session.
    pub(crate) fn close(&mut self, conn: ConnId) -> Option<SessionId> {
        let number = self.by_conn.remove(&conn)?;
        let stream = self.streams.remove(&number)?;
        if self.by_session.get(&stream.session) == Some(&number) {
            self.by_session.remove(&stream.session);
        }
        Some(stream.session)
    }

    /// The number of a stream.
    pub(crate) fn number(&self, conn: ConnId) -> Option<u32> {
        self.by_conn.get(&conn).copied()
    }

    /// The session of a stream.
    pub(crate) fn session(&self, conn: ConnId) -> Option<SessionId> {
        self.streams
            .get(self.by_conn.get(&conn)?)
            .map(|stream| stream.session)
    }

    /// The stream that a session is served on.
    pub(crate) fn current(&self, session: &SessionId) -> Option<ConnId> {
        self.streams
            .get(self.by_session.get(session)?)
            .map(|stream| stream.conn)
    }

    /// Lets a stream wait for a task that is not final.
    pub(crate) fn wait(&mut self, tasks: &mut TaskTable, slot: u32, stream: u32) {
        let task = &mut tasks[slot];
        if !self.streams.contains_key(&task.waiter) {
            task.waiter = stream;
            return;
        }
        task.set_flag(flag::MANY_WAITERS, true);
        self.more.entry(slot).or_default().push(stream);
    }

    /// Ends one wait of a stream for a task. Whether it was the task's last one.
    pub(crate) fn forget(&mut self, tasks: &mut TaskTable, slot: u32, stream: u32) -> bool {
        let mut others = self.more.remove(&slot).unwrap_or_default();
        let task = &mut tasks[slot];
        if task.waiter == stream {
            task.waiter = others.pop().unwrap_or(NONE);
        } else if let Some(at) = others.iter().position(|other| *other == stream) {
            others.remove(at);
        }
        task.set_flag(flag::MANY_WAITERS, !others.is_empty());
        let last = task.waiter == NONE;
        if !others.is_empty() {
            self.more.insert(slot, others);
        }
        last
    }

    /// Sends a result to every stream that waits for the task.
    pub(crate) fn deliver(
        &mut self,
        tasks: &mut TaskTable,
        slot: u32,
        result: impl Fn(&TaskTable) -> TaskResult,
    ) {
        let first = std::mem::replace(&mut tasks[slot].waiter, NONE);
        if first == NONE {
            return;
        }
        self.push(first, || result(tasks));
        if tasks[slot].flag(flag::MANY_WAITERS) {
            tasks[slot].set_flag(flag::MANY_WAITERS, false);
            for stream in self.more.remove(&slot).unwrap_or_default() {
                self.push(stream, || result(tasks));
            }
        }
    }

    /// Sends a result to a stream, if it is still there.
    pub(crate) fn push(&mut self, stream: u32, result: impl FnOnce() -> TaskResult) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            if entry.results.is_empty() {
                self.dirty.push(stream);
            }
            entry.results.push(result());
        }
    }

    /// Sends word to a stream, if it is still there, that a result must be read.
    pub(crate) fn push_archived(&mut self, stream: u32, task: TaskId) {
        if let Some(entry) = self.streams.get_mut(&stream) {
            if entry.archived.is_empty() {
                self.dirty.push(stream);
            }
            entry.archived.push(task);
        }
    }

    /// The results of this step.
    pub(crate) fn flush(&mut self, effects: &mut Vec<Effect>) {
        for stream in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.streams.get_mut(&stream) else {
                continue;
            };
            let conn = entry.conn;
            if !entry.results.is_empty() {
                let results = std::mem::take(&mut entry.results);
                effects.push(Effect::Results { conn, results });
            }
            if !entry.archived.is_empty() {
                let tasks = std::mem::take(&mut entry.archived);
                effects.push(Effect::ResultsArchived { conn, tasks });
            }
        }
    }

    /// Lets a run wait for a task that is not its child.
    pub(crate) fn run_waits(&mut self, slot: u32, run: (TaskId, Token)) -> bool {
        let runs = self.runs.entry(slot).or_default();
        let new = !runs.contains(&run);
        if new {
            runs.push(run);
        }
        new
    }

    /// Ends the waits of runs for a task.
    pub(crate) fn take_runs(&mut self, slot: u32) -> Vec<(TaskId, Token)> {
        if self.runs.is_empty() {
            return Vec::new();
        }
        self.runs.remove(&slot).unwrap_or_default()
    }
}
