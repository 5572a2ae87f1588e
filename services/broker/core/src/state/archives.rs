//! Tasks that were moved to archive files: what stays in memory of them.
//!
//! A file is known by its bounds, by how many tasks of which state it holds and until when, and by the regions of the
//! log that its payloads lie in. Which tasks are in it is told by the file alone, so whoever asks for one must read it.
//! A task that is in memory is never told from a file: memory wins. One that came back from a file is noted, so that
//! the old entry is not served again.

use super::archived_keys::ArchivedKeys;
use super::methods::Methods;
use super::task::{FAR, Task, flag};
use crate::effect::TaskState;
use crate::ids::{ArchiveId, Millis, TaskId};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks of one method, state and kind in a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) method: u32,
    pub(crate) state: TaskState,
    pub(crate) dead_letter: bool,
    pub(crate) count: u64,
    /// When the latest of them ended.
    pub(crate) ended_at: Millis,
}

/// One file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) first: TaskId,
    pub(crate) last: TaskId,
    pub(crate) groups: Vec<Group>,
    /// When the last idempotency key in it is forgotten.
    pub(crate) key_until: Millis,
    /// How often payloads of its tasks lie in each region of the log.
    pub(crate) regions: BTreeMap<u64, u64>,
    /// Tasks that are in memory again, or were since.
    pub(crate) restored: BTreeSet<TaskId>,
}

impl File {
    pub(crate) fn new() -> Self {
        Self {
            first: TaskId(u64::MAX),
            last: TaskId(0),
            groups: Vec::new(),
            key_until: 0,
            regions: BTreeMap::new(),
            restored: BTreeSet::new(),
        }
    }

    /// Counts a task in.
    pub(crate) fn add(&mut self, task: &Task) {
        (self.first, self.last) = (self.first.min(task.id), self.last.max(task.id));
        let dead_letter = task.flag(flag::DEAD_LETTER);
        let key = (task.method, task.state, dead_letter);
        let of = |group: &&mut Group| (group.method, group.state, group.dead_letter) == key;
        if let Some(group) = self.groups.iter_mut().find(of) {
            group.count += 1;
            group.ended_at = group.ended_at.max(task.ended_at());
        } else {
            self.groups.push(Group {
                method: task.method,
                state: task.state,
                dead_letter,
                count: 1,
                ended_at: task.ended_at(),
            });
        }
        if task.idempotency_key().is_some() {
            let until = task.rare.as_ref().map_or(0, |rare| rare.key_until);
            self.key_until = self.key_until.max(until);
        }
    }

    /// A task of it is in memory again, and counted there. Whether it was counted here.
    pub(crate) fn restore(&mut self, id: TaskId, like: &Group) -> bool {
        if !self.covers(id) || !self.restored.insert(id) {
            return false;
        }
        let of = |group: &&mut Group| {
            let same = (group.method, group.state) == (like.method, like.state);
            same && group.dead_letter == like.dead_letter && group.count > 0
        };
        let group = self.groups.iter_mut().find(of);
        group.map(|group| group.count -= 1).is_some()
    }

    /// Whether it may tell of a task.
    pub(crate) fn covers(&self, id: TaskId) -> bool {
        self.first <= id && id <= self.last && !self.restored.contains(&id)
    }

    pub(crate) fn count(&self) -> u64 {
        self.groups.iter().map(|group| group.count).sum()
    }

    /// When the retention of all its tasks is over.
    fn ends_at(&self, methods: &Methods) -> Millis {
        let ends = self.groups.iter().map(|group| {
            let retention = methods.retention_ms(group.method, group.dead_letter);
            group.ended_at.saturating_add(retention)
        });
        ends.max().unwrap_or(0).max(self.key_until).min(FAR)
    }
}

/// Tasks on their way to a file. Derived: a restart begins anew.
#[derive(Debug)]
pub(crate) struct Moving {
    pub(crate) archive: ArchiveId,
    /// All of them, ascending.
    pub(crate) tasks: Vec<TaskId>,
    /// How many were told already.
    pub(crate) told: usize,
    /// Those that are not to be moved after all.
    pub(crate) spared: BTreeSet<TaskId>,
}

/// All files.
#[derive(Debug, Default)]
pub(crate) struct Archives {
    pub(crate) files: BTreeMap<ArchiveId, File>,
    pub(crate) keys: ArchivedKeys,
    pub(crate) moving: Option<Moving>,
    /// Files begun by this owner.
    pub(crate) begun: u64,
    /// When the first file ends, by the policies in force.
    next_end: Option<Millis>,
}

impl Archives {
    pub(crate) fn insert(&mut self, archive: ArchiveId, file: File, methods: &Methods) {
        let end = file.ends_at(methods);
        self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
        self.files.insert(archive, file);
    }

    /// To be called when policies change, and when files go.
    pub(crate) fn set_ends(&mut self, methods: &Methods) {
        self.next_end = self.files.values().map(|file| file.ends_at(methods)).min();
    }

    /// When a file ends, or something is to be cleared away.
    pub(crate) fn next(&self, now: Millis) -> Option<Millis> {
        if self.keys.is_sweeping() {
            return Some(now);
        }
        self.next_end
    }

    /// Files whose tasks are all to be forgotten.
    pub(crate) fn over(&self, methods: &Methods, now: Millis) -> Vec<ArchiveId> {
        if self.next_end.is_none_or(|end| end > now) {
            return Vec::new();
        }
        let over = self
            .files
            .iter()
            .filter(|(_, file)| file.ends_at(methods) <= now);
        over.map(|(archive, _)| *archive).collect()
    }

    /// Whether a task that is not in memory may be in a file.
    pub(crate) fn may_hold(&self, id: TaskId) -> bool {
        self.files.values().any(|file| file.covers(id))
    }

    /// A task that may be on its way to a file is changed, or forgotten.
    pub(crate) fn spare(&mut self, id: TaskId) {
        if let Some(moving) = &mut self.moving
            && moving.tasks.binary_search(&id).is_ok()
        {
            moving.spared.insert(id);
        }
    }

    /// Tasks in files.
    pub(crate) fn tasks(&self) -> u64 {
        self.files.values().map(File::count).sum()
    }
}
