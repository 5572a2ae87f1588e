//! Finished tasks leave memory for archive files, and readers find them there.
//!
//! The state machine reads no file. It says which tasks are to be written, takes them out of memory when they are
//! durable, and says of a number that it does not know which files may tell of it.

use crate::effect::{Effect, TaskState, TaskView};
use crate::ids::{ArchiveId, Millis};
use crate::image::TaskImage;
use crate::partition::{Partition, Step};
use crate::record::{Blob, Record};
use bytes::Bytes;
use std::sync::Arc;

/// Tasks of one file at most. A file of them takes some 800 KB; taking them out of memory some 3 ms.
const TASKS_MAX: u64 = 32_768;

/// A file has this share of what may stay in memory, so that the bound holds for small ones, too.
const SHARE: u64 = 8;

impl Partition {
    /// Tasks of one file.
    fn archive_tasks(&self) -> u64 {
        (self.config.finished_in_memory / SHARE).clamp(1, TASKS_MAX)
    }

    pub(crate) fn begin_archive_now(&mut self) -> Option<ArchiveId> {
        let (most, moving) = (self.archive_tasks(), self.state.archives.moving.is_some());
        let finished = self.state.leaving.len() as u64;
        if moving || finished < self.config.finished_in_memory.saturating_add(most) {
            return None;
        }
        self.state.archives.begun += 1;
        let archive = ArchiveId(self.config.epoch << 32 | self.state.archives.begun);
        self.state.begin_move(archive, most as usize);
        Some(archive)
    }

    pub(super) fn archive_written(&mut self, archive: ArchiveId, written: bool, step: &mut Step) {
        let tasks = self.state.end_move(archive, written);
        if !tasks.is_empty() {
            self.commit(Record::Archived { archive, tasks }, step);
        } else if written && !self.state.archives.files.contains_key(&archive) {
            let archives = vec![archive];
            step.effects.push(Effect::ArchivesReleased { archives });
        }
    }

    /// Forgets files whose tasks are all to be forgotten, and old keys.
    pub(super) fn end_archives(&mut self, now: Millis, step: &mut Step) {
        let archives = self.state.archives.over(&self.state.methods, now);
        if !archives.is_empty() {
            let released = archives.clone();
            self.commit(Record::ArchivesDropped { archives }, step);
            step.effects
                .push(Effect::ArchivesReleased { archives: released });
        }
        self.state.archives.keys.sweep_some(now);
    }

    /// A task of a file as a reader sees it, unless the file does not tell of it any more.
    pub(crate) fn view_archived(
        &self,
        archive: ArchiveId,
        image: &TaskImage,
        now: Millis,
    ) -> Option<TaskView> {
        let id = image.task.id;
        if let Some(found) = self.state.tasks.seek(id) {
            return Some(self.view_found(&found));
        }
        if !self.state.archives.files.get(&archive)?.covers(id) || self.is_over(image, now) {
            return None;
        }
        let number = self.state.methods.find(&image.task.method)?;
        let policy = self.state.methods.policy(number);
        let task = &image.task;
        Some(TaskView {
            id,
            method: Arc::clone(&self.state.methods.get(number).path),
            queue: Arc::clone(&self.state.methods.queue_of(number).name),
            state: image.state,
            priority: task.priority,
            attempt: image.attempt,
            max_attempts: policy.max_attempts,
            worker: None,
            idempotency_key: task.idempotency_key.clone(),
            ordering_key: task.ordering_key.clone(),
            created_at: image.created_at,
            start_at: task.start_at,
            expire_at: task.expire_at,
            ended_at: image.ended_at,
            parent: task.parent.clone(),
            child_count: 0,
            dead_letter: image.dead_letter,
            failure: image.failure.clone(),
            request: present(&task.request),
            response: if image.state == TaskState::Succeeded {
                present(&image.response)
            } else {
                Blob::resident(Bytes::new())
            },
            envelope: task.envelope.clone(),
            progress: None,
            events: image.events.clone(),
        })
    }

    /// Whether the retention of an archived task is over, and the window of its key.
    pub(super) fn is_over(&self, image: &TaskImage, now: Millis) -> bool {
        let Some(method) = self.state.methods.find(&image.task.method) else {
            return true;
        };
        let retention = self.state.methods.retention_ms(method, image.dead_letter);
        let key_until = match image.task.idempotency_key {
            Some(_) => image.key_until,
            None => 0,
        };
        image.ended_at.saturating_add(retention).max(key_until) <= now
    }
}

/// An empty payload is one that is there.
fn present(blob: &Blob) -> Blob {
    match blob.len {
        0 => Blob::resident(Bytes::new()),
        _ => blob.clone(),
    }
}
