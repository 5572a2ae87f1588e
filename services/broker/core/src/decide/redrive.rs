//! Running failed tasks again, also those that were archived.

use crate::effect::{Error, Reply, TaskState};
use crate::ids::{ArchiveId, Millis, TaskId};
use crate::image::TaskImage;
use crate::partition::{Partition, Step};
use crate::record::Record;
use crate::state::table::Found;
use crate::state::task::FAR;
use std::collections::BTreeMap;

/// What was read from archive files.
type Archived = BTreeMap<TaskId, Option<(ArchiveId, TaskImage)>>;

/// Where a task that can be run again is.
enum Place<'a> {
    Memory,
    File(ArchiveId, &'a TaskImage),
    /// It must be read first.
    Unread,
}

impl Partition {
    /// Runs failed tasks again. Tasks that cannot be are passed over; if none can, the first one's reason is told.
    pub(super) fn redrive(
        &mut self,
        tasks: Vec<TaskId>,
        archived: &Archived,
        dry_run: bool,
        now: Millis,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        let (mut failed, mut unread, mut refused) = (Vec::new(), Vec::new(), None);
        let mut files: BTreeMap<ArchiveId, BTreeMap<TaskId, TaskImage>> = BTreeMap::new();
        for task in tasks {
            match self.may_redrive(task, archived, now) {
                Ok(Place::Memory) => failed.push(task),
                Ok(Place::File(archive, image)) => {
                    failed.push(task);
                    let file = files.entry(archive).or_default();
                    file.insert(task, image.clone());
                }
                Ok(Place::Unread) => unread.push(task),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if !unread.is_empty() {
            return Ok(Reply::Archived(unread));
        }
        failed.sort_unstable();
        failed.dedup();
        if let (true, Some(error)) = (failed.is_empty(), refused) {
            return Err(error);
        }
        let count = failed.len() as u64;
        if !dry_run && count > 0 {
            for (archive, images) in files {
                let tasks = images.into_values().collect();
                self.commit(Record::Restored { archive, tasks }, step);
            }
            self.run_again(failed, now, step);
        }
        Ok(Reply::Count(count))
    }

    fn run_again(&mut self, failed: Vec<TaskId>, now: Millis, step: &mut Step) {
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

    /// Only a failed task can be run again; and a child of a failed flow only by its flow, which asks for it anew.
    fn may_redrive<'a>(
        &self,
        task: TaskId,
        archived: &'a Archived,
        now: Millis,
    ) -> Result<Place<'a>, Error> {
        let conflict = |task, state| Err(Error::StateConflict { task, state });
        let entry = match self.state.tasks.seek(task) {
            Some(Found::Slot(slot)) => &self.state.tasks[slot],
            Some(Found::Retired(retired)) => return conflict(task, retired.state),
            None => return self.may_redrive_archived(task, archived, now),
        };
        if entry.state != TaskState::Failed {
            return conflict(task, entry.state);
        }
        let flow = entry
            .birth()
            .and_then(|birth| self.state.tasks.by_id(birth.parent));
        match flow {
            Some(flow) if flow.state == TaskState::Failed => conflict(flow.id, flow.state),
            _ => Ok(Place::Memory),
        }
    }

    fn may_redrive_archived<'a>(
        &self,
        task: TaskId,
        archived: &'a Archived,
        now: Millis,
    ) -> Result<Place<'a>, Error> {
        let read = match archived.get(&task) {
            None if self.state.archives.may_hold(task) => return Ok(Place::Unread),
            read => read.and_then(Option::as_ref),
        };
        let alive = |(archive, image): &&'a (ArchiveId, TaskImage)| {
            let file = self.state.archives.files.get(archive);
            file.is_some_and(|file| file.covers(task)) && !self.is_over(image, now)
        };
        match read.filter(alive) {
            Some((archive, image)) if image.state == TaskState::Failed => {
                Ok(Place::File(*archive, image))
            }
            Some((_, image)) => Err(Error::StateConflict {
                task,
                state: image.state,
            }),
            None => Err(Error::TaskNotFound { task }),
        }
    }

    fn new_deadline(&self, id: TaskId, now: Millis) -> Millis {
        let method = self.state.tasks.by_id(id).map_or(0, |task| task.method);
        now.saturating_add(self.state.methods.policy(method).deadline_ms)
            .min(FAR)
    }
}
