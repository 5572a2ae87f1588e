//! Who watches which task.

use crate::ids::{ConnId, TaskId};
use crate::state::table::TaskTable;
use crate::state::task::flag;
use std::collections::BTreeMap;

/// Watches, and watched tasks that changed in this step.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    by_task: BTreeMap<TaskId, Vec<ConnId>>,
    by_conn: BTreeMap<ConnId, Vec<TaskId>>,
    changed: Vec<TaskId>,
}

impl Watchers {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_task.is_empty()
    }

    /// Lets a stream watch a task that is not final.
    pub(crate) fn add(&mut self, tasks: &mut TaskTable, slot: u32, conn: ConnId) {
        tasks[slot].set_flag(flag::WATCHED, true);
        let id = tasks[slot].id;
        let conns = self.by_task.entry(id).or_default();
        if !conns.contains(&conn) {
            conns.push(conn);
            self.by_conn.entry(conn).or_default().push(id);
        }
    }

    /// A stream watches nothing any more.
    pub(crate) fn remove(&mut self, tasks: &mut TaskTable, conn: ConnId) {
        for id in self.by_conn.remove(&conn).unwrap_or_default() {
            let Some(conns) = self.by_task.get_mut(&id) else {
                continue;
            };
            conns.retain(|other| *other != conn);
            if conns.is_empty() {
                self.by_task.remove(&id);
                if let Some(slot) = tasks.find(id) {
                    tasks[slot].set_flag(flag::WATCHED, false);
                }
            }
        }
    }

    /// A task changed.
    pub(crate) fn changed(&mut self, tasks: &TaskTable, slot: u32) {
        let task = &tasks[slot];
        if task.flag(flag::WATCHED) && self.changed.last() != Some(&task.id) {
            self.changed.push(task.id);
        }
    }

    /// Tasks that changed in this step, each with those who watch it. Watches of final tasks end.
    pub(crate) fn take_changed(&mut self, tasks: &mut TaskTable) -> Vec<(u32, Vec<ConnId>)> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        let mut told = Vec::new();
        for id in changed {
            let Some(slot) = tasks.find(id) else { continue };
            let conns = self.by_task.get(&id).cloned().unwrap_or_default();
            if tasks[slot].is_final() {
                self.by_task.remove(&id);
                tasks[slot].set_flag(flag::WATCHED, false);
                for conn in &conns {
                    self.end(*conn, id);
                }
            }
            told.push((slot, conns));
        }
        told
    }

    fn end(&mut self, conn: ConnId, id: TaskId) {
        if let Some(ids) = self.by_conn.get_mut(&conn) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_conn.remove(&conn);
            }
        }
    }
}
