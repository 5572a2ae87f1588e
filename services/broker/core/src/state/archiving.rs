//! Moving finished tasks to archive files, and bringing one back.

use super::State;
use super::archives::{File, Group, Moving};
use super::slab::NONE;
use super::table::Found;
use super::task::{FAR, Stage, Task, UNPLACED, flag};
use crate::ids::{ArchiveId, Millis, TaskId};
use crate::image::{ArchiveImage, ArchivedGroup, ArchivedKey, Image, TaskImage};
use crate::record::Record;
use std::sync::Arc;

/// Files and keys in one record of a snapshot.
const FILES: usize = 64;
const KEYS: usize = 4096;

/// Whether a task may leave memory. Flows and their children stay: they are found through each other.
fn may_leave(task: &Task) -> bool {
    let Stage::Done {
        response_at,
        response_len,
        ..
    } = task.stage
    else {
        return false;
    };
    let placed = (task.request_at != UNPLACED || task.request_len + task.envelope_len == 0)
        && (response_at != UNPLACED || response_len == 0);
    placed && stands_alone(task) && task.waiter == NONE && !task.flag(flag::WATCHED)
}

fn stands_alone(task: &Task) -> bool {
    task.birth().is_none() && task.family().is_none()
}

impl State {
    /// A finished task in a slot can be found when the oldest are to leave memory.
    pub(super) fn settle(&mut self, slot: u32) {
        if !self.indexed {
            return;
        }
        let Some(task) = self.tasks.get(slot) else {
            return;
        };
        if task.is_final()
            && stands_alone(task)
            && let Some(until) = self.kept_until(task)
        {
            self.leaving.add(until, task.id);
        }
    }

    /// As [`settle`](Self::settle), unless the task is about to be forgotten.
    pub(crate) fn settle_later(&mut self, slot: u32, now: Millis) {
        let task = &self.tasks[slot];
        if task.is_final() && self.kept_until(task).is_some_and(|until| until > now) {
            self.settle(slot);
        }
    }

    /// Chooses the tasks that would be forgotten first.
    pub(crate) fn begin_move(&mut self, archive: ArchiveId, most: usize) {
        let mut tasks = self.leaving.take_first(most);
        tasks.sort_unstable();
        tasks.dedup();
        self.archives.moving = Some(Moving {
            archive,
            tasks,
            told: 0,
            spared: Default::default(),
        });
    }

    /// The next of the chosen tasks as they are.
    pub(crate) fn move_some(&mut self, most: usize) -> Vec<TaskImage> {
        let Some(mut moving) = self.archives.moving.take() else {
            return Vec::new();
        };
        let mut images = Vec::with_capacity(most.min(moving.tasks.len() - moving.told));
        while images.len() < most
            && let Some(id) = moving.tasks.get(moving.told)
        {
            moving.told += 1;
            match self.leaving_image(*id) {
                Some(image) => images.push(image),
                None => {
                    moving.spared.insert(*id);
                }
            }
        }
        self.archives.moving = Some(moving);
        images
    }

    fn leaving_image(&self, id: TaskId) -> Option<TaskImage> {
        match self.tasks.seek(id)? {
            Found::Retired(task) => Some(self.task_image(&task, self.time)),
            Found::Slot(slot) => {
                let task = &self.tasks[slot];
                may_leave(task).then(|| self.task_image(task, self.time))
            }
        }
    }

    /// Ends a move. With `done` gives the tasks that are in the file as they are here.
    pub(crate) fn end_move(&mut self, archive: ArchiveId, done: bool) -> Vec<TaskId> {
        let moving = self.archives.moving.take_if(|m| m.archive == archive);
        let Some(Moving {
            mut tasks,
            told,
            spared,
            ..
        }) = moving
        else {
            return Vec::new();
        };
        if done && told == tasks.len() {
            tasks.retain(|id| !spared.contains(id));
            for id in spared {
                self.settle_again(id);
            }
            return tasks;
        }
        for id in tasks {
            self.settle_again(id);
        }
        Vec::new()
    }

    /// A task that was chosen stays in memory.
    fn settle_again(&mut self, id: TaskId) {
        match self.tasks.seek(id) {
            Some(Found::Retired(task)) => self.leaving.add(self.retained_until(&task, 0), id),
            Some(Found::Slot(slot)) => self.settle(slot),
            None => {}
        }
    }

    pub(super) fn archived(&mut self, archive: ArchiveId, tasks: &[TaskId]) {
        let mut file = File::new();
        for id in tasks {
            if let Some(mut task) = self.take_finished(*id) {
                file.add(&task);
                self.blobs.hand_over(&mut task, &mut file.regions);
                if let Stage::Done { worker, .. } = task.stage {
                    self.names.release(worker);
                }
            }
        }
        // The tasks stay counted by their methods, until their file goes.
        if file.count() > 0 {
            self.archives.insert(archive, file, &self.methods);
        }
    }

    /// Takes a finished task out of memory; what its key stands for is kept.
    fn take_finished(&mut self, id: TaskId) -> Option<Task> {
        if let Some(task) = self.tasks.remove_retired(id) {
            return Some(task);
        }
        let slot = self.tasks.find(id)?;
        let task = &self.tasks[slot];
        if !task.is_final() || !stands_alone(task) {
            return None;
        }
        if let (Some(key), Some(rare)) = (task.idempotency_key(), &task.rare)
            && self.dedup.stands_for(&self.tasks, slot)
        {
            let method = Arc::clone(&self.methods.policy(task.method).method);
            self.archives
                .keys
                .insert((&method, key), id, rare.digest, rare.key_until);
        }
        self.wheel.cancel(&mut self.tasks, slot);
        self.dedup.remove(&self.tasks, slot);
        self.tasks.remove(slot)
    }

    pub(super) fn archives_dropped(&mut self, archives: &[ArchiveId]) {
        for archive in archives {
            let Some(file) = self.archives.files.remove(archive) else {
                continue;
            };
            if self.indexed {
                let groups = file.groups.iter();
                groups.for_each(|group| self.methods.discount_archived(group));
            }
            self.blobs.release_regions(&file.regions);
        }
        self.archives.set_ends(&self.methods);
        self.archives.keys.sweep();
    }

    /// Counts what is in files after replay.
    pub(super) fn index_archives(&mut self) {
        for file in self.archives.files.values() {
            let groups = file.groups.iter();
            groups.for_each(|group| self.methods.count_archived(group));
        }
        self.archives.set_ends(&self.methods);
    }

    pub(super) fn restored(&mut self, archive: ArchiveId, image: &TaskImage) {
        let Some(method) = self.methods.find(&image.task.method) else {
            return;
        };
        let id = image.task.id;
        if !image.state.is_final() || self.tasks.seek(id).is_some() {
            return;
        }
        self.load_task(image);
        let Some(slot) = self.tasks.find(id) else {
            return;
        };
        let group = Group {
            method,
            state: image.state,
            dead_letter: image.dead_letter,
            count: 1,
            ended_at: 0,
        };
        let file = self.archives.files.get_mut(&archive);
        if file.is_some_and(|file| file.restore(id, &group)) && self.indexed {
            self.methods.discount_archived(&group);
        }
        self.enter(slot);
    }

    /// Files and keys for a snapshot.
    pub(super) fn archive_images(&self) -> impl Iterator<Item = Record> + '_ {
        let mut files = self.archives.files.iter();
        let mut keys = self.archives.keys.image(self.time);
        std::iter::from_fn(move || {
            let file = |(archive, file): (&ArchiveId, &File)| self.file_image(*archive, file);
            let files: Vec<ArchiveImage> = files.by_ref().take(FILES).map(file).collect();
            let most = if files.is_empty() { KEYS } else { 0 };
            let keys: Vec<ArchivedKey> = keys.by_ref().take(most).collect();
            let some = !files.is_empty() || !keys.is_empty();
            some.then_some(Record::Image(Image::Archives { files, keys }))
        })
    }

    fn file_image(&self, archive: ArchiveId, file: &File) -> ArchiveImage {
        let group = |group: &Group| ArchivedGroup {
            method: Arc::clone(&self.methods.policy(group.method).method),
            state: group.state,
            dead_letter: group.dead_letter,
            count: group.count,
            ended_at: group.ended_at,
        };
        ArchiveImage {
            archive,
            first: file.first,
            last: file.last,
            groups: file.groups.iter().map(group).collect(),
            key_until: file.key_until,
            regions: file
                .regions
                .iter()
                .map(|(at, count)| (*at, *count))
                .collect(),
            restored: file.restored.iter().copied().collect(),
        }
    }

    pub(super) fn load_archive(&mut self, image: &ArchiveImage) {
        let group = |group: &ArchivedGroup| {
            Some(Group {
                method: self.methods.find(&group.method)?,
                state: group.state,
                dead_letter: group.dead_letter,
                count: group.count,
                ended_at: group.ended_at.min(FAR),
            })
        };
        let file = File {
            first: image.first,
            last: image.last,
            groups: image.groups.iter().filter_map(group).collect(),
            key_until: image.key_until.min(FAR),
            regions: image.regions.iter().copied().collect(),
            restored: image.restored.iter().copied().collect(),
        };
        self.blobs.hold_regions(&file.regions);
        self.archives.insert(image.archive, file, &self.methods);
    }
}
