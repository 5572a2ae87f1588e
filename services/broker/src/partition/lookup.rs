//! Finished tasks wherever they are: in memory, or in an archive file.
//!
//! The state machine is asked first and last. What is read between may be out of date by then (its retention may be
//! over, or somebody may run it again), so the last word is the state machine's.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use plait_broker_core::Partition;
use plait_broker_core::command::Command;
use plait_broker_core::effect::{Reply, TaskResult, TaskView};
use plait_broker_core::ids::{ArchiveId, TaskId};
use plait_broker_core::image::TaskImage;

use super::archived::{Bounds, Finder, OpenFiles, ReadError, Walk};
use super::handle::{CallError, Handle};

/// How often a task is looked for again that moved while it was looked for. Moving takes longer than looking, so once
/// is nearly always enough.
const ROUNDS: usize = 5;

/// Archived tasks that the state machine is shown at once, about 1 ms.
const SHOWN_AT_ONCE: usize = 1024;

/// What a list is asked for.
pub struct Listing {
    /// Tasks below it, newest first.
    pub before: TaskId,
    /// Tasks wanted.
    pub limit: usize,
    /// Tasks looked at, at most, in memory; and as many in files.
    pub scan: usize,
    /// Which are wanted.
    pub keep: Keep,
}

/// Says which tasks are wanted.
pub type Keep = Arc<dyn Fn(&TaskView) -> bool + Send + Sync>;

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listing({} before {})", self.limit, self.before)
    }
}

/// A page, and where to go on if there is more.
pub type Page = (Vec<TaskView>, Option<TaskId>);

/// What became of a look for one task.
enum Look {
    Done(Option<Box<TaskView>>),
    /// It may be in these.
    Files(Vec<ArchiveId>),
}

/// What was read of a task.
struct Read {
    /// Which of those asked for.
    index: usize,
    task: TaskId,
    archives: Vec<ArchiveId>,
    found: Result<Option<(ArchiveId, TaskImage)>, ReadError>,
}

impl Handle {
    /// A task. [`CallError::Unreadable`] if a file that may have it cannot tell.
    pub async fn task(&self, task: TaskId) -> Result<Option<TaskView>, CallError> {
        let mut found = self.tasks(vec![task]).await?;
        found.pop().transpose().map(Option::flatten)
    }

    /// Tasks, in the order of their ids.
    pub async fn tasks(
        &self,
        ids: Vec<TaskId>,
    ) -> Result<Vec<Result<Option<TaskView>, CallError>>, CallError> {
        let mut out: Vec<_> = ids.iter().map(|_| Ok(None)).collect();
        let mut open: Vec<(usize, TaskId)> = ids.into_iter().enumerate().collect();
        for round in 1..=ROUNDS {
            let read = self.read(open, &mut out).await?;
            open = self.show(read, &mut out, round == ROUNDS).await?;
            if open.is_empty() {
                break;
            }
        }
        Ok(out)
    }

    /// Looks for tasks in memory, then in files.
    async fn read(
        &self,
        open: Vec<(usize, TaskId)>,
        out: &mut [Result<Option<TaskView>, CallError>],
    ) -> Result<Vec<Read>, CallError> {
        let look = move |p: &mut Partition, _| {
            let one = |(index, id): (usize, TaskId)| (index, id, look(p, id));
            open.into_iter().map(one).collect::<Vec<_>>()
        };
        let mut wanted = Vec::new();
        for (index, id, look) in self.query(look).await? {
            match look {
                Look::Done(view) => out[index] = Ok(view.map(|view| *view)),
                Look::Files(archives) => wanted.push((index, id, archives)),
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        // Those that are near each other are read together.
        wanted.sort_unstable_by_key(|(_, id, _)| *id);
        self.blocking(move |files| {
            let mut finder = Finder::new(files);
            let one = |(index, task, archives): (usize, TaskId, Vec<ArchiveId>)| Read {
                index,
                task,
                found: finder.find(task, &archives),
                archives,
            };
            wanted.into_iter().map(one).collect()
        })
        .await
    }

    /// Shows the state machine what was read. Gives back those that moved meanwhile.
    async fn show(
        &self,
        read: Vec<Read>,
        out: &mut [Result<Option<TaskView>, CallError>],
        last: bool,
    ) -> Result<Vec<(usize, TaskId)>, CallError> {
        let (mut found, mut again) = (Vec::new(), Vec::new());
        for Read {
            index,
            task,
            archives,
            found: one,
        } in read
        {
            match one {
                Ok(image) => found.push((index, task, archives, image)),
                Err(error) if error.is_gone() && !last => again.push((index, task)),
                Err(error) => out[index] = Err(unreadable(task, &error)),
            }
        }
        let judge = move |p: &mut Partition, now| {
            let one = |(index, task, archives, image): (_, TaskId, Vec<ArchiveId>, Option<_>)| {
                let image: Option<(ArchiveId, TaskImage)> = image;
                let view = image.and_then(|(archive, image)| p.archived_task(archive, &image, now));
                let view = view.or_else(|| p.task(task));
                let moved = view.is_none() && p.archives_of(task) != archives;
                (index, task, view, moved)
            };
            found.into_iter().map(one).collect::<Vec<_>>()
        };
        for (index, task, view, moved) in self.query(judge).await? {
            match moved {
                true => again.push((index, task)),
                false => out[index] = Ok(view),
            }
        }
        Ok(again)
    }

    /// Final outcomes, and those tasks that have none: they are run again.
    pub async fn results(
        &self,
        tasks: Vec<TaskId>,
        unreadable: impl Fn(TaskId) -> TaskResult,
    ) -> Result<(Vec<TaskResult>, Vec<TaskId>), CallError> {
        let found = self.tasks(tasks.clone()).await?;
        let (mut results, mut open) = (Vec::with_capacity(tasks.len()), Vec::new());
        for (task, found) in tasks.into_iter().zip(found) {
            match found {
                Ok(None) => results.push(TaskResult::not_found(task)),
                Ok(Some(view)) => match view.into_result() {
                    Some(result) => results.push(result),
                    None => open.push(task),
                },
                Err(CallError::Unreadable(task)) => results.push(unreadable(task)),
                Err(error) => return Err(error),
            }
        }
        Ok((results, open))
    }

    /// Runs failed tasks again, archived ones included. Answers with how many.
    pub async fn redrive(&self, tasks: Vec<TaskId>, dry_run: bool) -> Result<u64, CallError> {
        let mut archived = BTreeMap::new();
        loop {
            let (bytes, tasks, read) = (8 * tasks.len(), tasks.clone(), archived.clone());
            let redrive = |tag| Command::Redrive {
                tag,
                tasks,
                archived: read,
                dry_run,
            };
            let wanted = match self.call(bytes, redrive).await? {
                Reply::Archived(wanted) => wanted,
                Reply::Count(count) => return Ok(count),
                _ => return Ok(0),
            };
            // What was asked for is answered, so each round asks for other tasks.
            for (task, found) in self.images(wanted).await? {
                archived.insert(task, found);
            }
        }
    }

    /// Tasks as files have them.
    async fn images(
        &self,
        tasks: Vec<TaskId>,
    ) -> Result<Vec<(TaskId, Option<(ArchiveId, TaskImage)>)>, CallError> {
        let find = move |p: &mut Partition, _| {
            let one = |id| (id, p.archives_of(id));
            tasks.into_iter().map(one).collect::<Vec<_>>()
        };
        let wanted = self.query(find).await?;
        let read = self
            .blocking(move |files| {
                let mut finder = Finder::new(files);
                let one =
                    |(id, archives): (TaskId, Vec<ArchiveId>)| (id, finder.find(id, &archives));
                wanted.into_iter().map(one).collect::<Vec<_>>()
            })
            .await?;
        let one = |(id, found): (TaskId, Result<_, ReadError>)| match found {
            Ok(found) => Ok((id, found)),
            Err(error) if error.is_gone() => Ok((id, None)),
            Err(error) => Err(unreadable(id, &error)),
        };
        read.into_iter().map(one).collect()
    }

    /// A page of tasks, newest first.
    pub async fn list(&self, wanted: Listing) -> Result<Page, CallError> {
        let Listing {
            before,
            limit,
            scan,
            keep,
        } = wanted;
        let wanted = Arc::clone(&keep);
        let in_memory = move |p: &mut Partition, _| {
            let page = p.tasks_before(before, limit, scan, &*wanted);
            let lowest = page.1.unwrap_or(TaskId(0));
            let mut files = p.archives();
            files.retain(|(_, first, last)| *first < before && *last >= lowest);
            (page, files)
        };
        let ((found, next), files) = self.query(in_memory).await?;
        if files.is_empty() {
            return Ok((found, next));
        }
        let mut merge = Merge {
            known: found.iter().map(|task| task.id).collect(),
            found,
            lowest: next.unwrap_or(TaskId(0)),
            at: before,
            limit,
        };
        let mut left = scan;
        while left > 0 && !merge.is_full() {
            let most = left.min(SHOWN_AT_ONCE);
            let read = self
                .walk(files.clone(), merge.at, merge.lowest, most)
                .await?;
            let end = read.len() < most;
            left -= read.len();
            merge.at = match read.last() {
                Some((_, image)) if !end => image.id(),
                _ => merge.lowest,
            };
            let keep = Arc::clone(&keep);
            let judge = move |p: &mut Partition, now| {
                let read = read.iter();
                let views = read.filter_map(|(of, image)| p.archived_task(*of, image, now));
                views.filter(|view| keep(view)).collect::<Vec<_>>()
            };
            merge.add(self.query(judge).await?);
            if end {
                break;
            }
        }
        Ok(merge.page())
    }

    /// Archived tasks from below `before` down to `lowest`.
    async fn walk(
        &self,
        files: Vec<Bounds>,
        before: TaskId,
        lowest: TaskId,
        most: usize,
    ) -> Result<Vec<(ArchiveId, TaskImage)>, CallError> {
        let ahead: Vec<Bounds> = files
            .into_iter()
            .filter(|(_, first, _)| *first < before)
            .collect();
        let read = self.blocking(move |files| {
            let mut walk = Walk::new(files, ahead, before);
            let mut read = Vec::new();
            while read.len() < most
                && let Some((archive, image)) = walk.step()?
                && image.id() >= lowest
            {
                read.push((archive, image));
            }
            Ok(read)
        });
        let read: Result<Vec<_>, ReadError> = read.await?;
        read.map_err(|error| unreadable(lowest, &error))
    }

    /// Does what may wait for the disk on a thread of its own.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&OpenFiles) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let files = Arc::clone(self.files());
        self.beside(move || read(&files))
            .await
            .ok_or(CallError::Stopped)
    }
}

fn look(partition: &Partition, id: TaskId) -> Look {
    if let Some(view) = partition.task(id) {
        return Look::Done(Some(Box::new(view)));
    }
    match partition.archives_of(id) {
        none if none.is_empty() => Look::Done(None),
        some => Look::Files(some),
    }
}

fn unreadable(task: TaskId, error: &ReadError) -> CallError {
    tracing::error!(%error, "an archive file cannot be read");
    CallError::Unreadable(task)
}

/// What was found in memory, and what is found in files, newest first.
struct Merge {
    found: Vec<TaskView>,
    /// What memory told, which wins.
    known: HashSet<TaskId>,
    /// Memory was looked through down to here.
    lowest: TaskId,
    /// Files were looked through down to here.
    at: TaskId,
    limit: usize,
}

impl Merge {
    fn add(&mut self, views: Vec<TaskView>) {
        for view in views {
            if self.known.insert(view.id) {
                self.found.push(view);
            }
        }
    }

    /// Whether enough was found above where the files were looked through.
    fn is_full(&self) -> bool {
        let sure = self.found.iter().filter(|view| view.id >= self.at);
        sure.count() >= self.limit || self.at <= self.lowest
    }

    fn page(mut self) -> Page {
        let bound = self.at.max(self.lowest);
        self.found.retain(|view| view.id >= bound);
        self.found
            .sort_unstable_by_key(|view| std::cmp::Reverse(view.id));
        if self.found.len() > self.limit {
            self.found.truncate(self.limit);
            let next = self.found.last().map(|view| view.id);
            return (self.found, next);
        }
        let next = (bound > TaskId(0)).then_some(bound);
        (self.found, next)
    }
}
