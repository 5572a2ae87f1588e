//! A snapshot in parts, of the state as it was when it was begun, while the state goes on.
//!
//! Everything but the tasks is small and taken at once. Tasks are taken in ascending order; one that a record is about
//! to change, and that has not been taken, is saved as it is first: copy on write.

use super::slab::NONE;
use super::{State, families};
use crate::ids::{Millis, TaskId};
use crate::image::{Image, TaskImage};
use crate::record::Record;
use std::collections::BTreeMap;

/// A snapshot that is being taken.
#[derive(Debug)]
pub(crate) struct Imaging {
    /// When it was begun.
    now: Millis,
    head: std::vec::IntoIter<Record>,
    /// The first task that was not taken.
    next: TaskId,
    /// Tasks from here on are newer than the snapshot.
    end: TaskId,
    /// Tasks not taken that changed since. None: it was not there.
    saved: BTreeMap<TaskId, Option<TaskImage>>,
    tail: std::vec::IntoIter<Record>,
}

impl State {
    /// Begins a snapshot of the state as of `now`, in place of one that was begun before.
    pub(crate) fn begin_image(&mut self, now: Millis) {
        let now = now.max(self.time);
        let head: Vec<Record> = self.head_images(now).collect();
        let tail: Vec<Record> = self.tail_images().collect();
        self.imaging = Some(Box::new(Imaging {
            now,
            head: head.into_iter(),
            next: TaskId(0),
            end: TaskId(self.next_task),
            saved: BTreeMap::new(),
            tail: tail.into_iter(),
        }));
    }

    /// The next record of the snapshot, with at most so many tasks; None: that was all, or none was begun.
    pub(crate) fn image_part(&mut self, most: usize) -> Option<Record> {
        let mut imaging = self.imaging.take()?;
        let record = imaging
            .head
            .next()
            .or_else(|| self.next_tasks(&mut imaging, most))
            .or_else(|| imaging.tail.next())?;
        self.imaging = Some(imaging);
        Some(record)
    }

    fn next_tasks(&self, imaging: &mut Imaging, most: usize) -> Option<Record> {
        let mut batch = Vec::with_capacity(most);
        let mut living = self.tasks.ascending_from(imaging.next).peekable();
        while batch.len() < most {
            let live = living.peek().map(|(id, _)| *id);
            let live = live.filter(|id| *id < imaging.end);
            let saved = imaging.saved.first_key_value().map(|(id, _)| *id);
            let Some(id) = live.into_iter().chain(saved).min() else {
                imaging.next = imaging.end;
                break;
            };
            imaging.next = TaskId(id.0 + 1);
            let found = living.next_if(|(living, _)| *living == id);
            let image = match imaging.saved.remove(&id) {
                Some(image) => image,
                None => found.map(|(_, found)| self.found_image(found, imaging.now)),
            };
            batch.extend(image);
        }
        (!batch.is_empty()).then_some(Record::Image(Image::Tasks(batch)))
    }

    /// Saves the tasks that a record is about to change and a snapshot has not taken.
    pub(super) fn save_changed(&mut self, record: &Record) {
        match record {
            Record::Started { starts, .. } => starts.iter().for_each(|start| self.save(start.task)),
            Record::Succeeded { tasks } => tasks.iter().for_each(|(id, _)| self.save(*id)),
            Record::Redriven { tasks } => tasks.iter().for_each(|(id, _)| {
                self.save_children(*id);
                self.save(*id);
            }),
            Record::Restored { tasks, .. } => {
                tasks.iter().for_each(|image| self.save(image.task.id));
            }
            Record::Retried { task, .. }
            | Record::Failed { task, .. }
            | Record::Cancelled { task, .. } => self.save(*task),
            Record::Returned { tasks, .. }
            | Record::Suspended { tasks }
            | Record::Expired { tasks, .. }
            | Record::Dropped { tasks }
            | Record::Archived { tasks, .. } => tasks.iter().for_each(|id| self.save(*id)),
            // New tasks are after its end, and all else was taken when it was begun.
            Record::Submitted { .. }
            | Record::ArchivesDropped { .. }
            | Record::SessionsDropped { .. }
            | Record::QueuePaused { .. }
            | Record::QueueResumed { .. }
            | Record::PoliciesApplied { .. }
            | Record::KvPut { .. }
            | Record::KvDeleted { .. }
            | Record::Image(_) => {}
        }
    }

    /// A flow that is run again disowns those of its children that failed.
    fn save_children(&mut self, id: TaskId) {
        let Some(slot) = self.tasks.find(id) else {
            return;
        };
        let mut child = families::first(&self.tasks, slot);
        while child != NONE {
            self.save(self.tasks[child].id);
            child = families::next(&self.tasks, child);
        }
    }

    fn save(&mut self, id: TaskId) {
        let Some(mut imaging) = self.imaging.take() else {
            return;
        };
        if (imaging.next..imaging.end).contains(&id) && !imaging.saved.contains_key(&id) {
            let found = self.tasks.seek(id);
            let image = found.map(|found| self.found_image(found, imaging.now));
            imaging.saved.insert(id, image);
        }
        self.imaging = Some(imaging);
    }

    /// Tasks that are kept only because the snapshot has not taken them.
    pub(crate) fn saved(&self) -> usize {
        self.imaging
            .as_ref()
            .map_or(0, |imaging| imaging.saved.len())
    }
}
