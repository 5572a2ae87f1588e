//! Finished tasks in archive files: written beside the log, read when the state machine says so.

use super::story::{Call, Deferred, told, unknown};
use super::{Action, World};
use crate::check::Invariant;
use crate::history::{Event, Task};
use crate::points::Point;
use plait_broker::journal;
use plait_broker_core::Partition;
use plait_broker_core::command::Command;
use plait_broker_core::effect::{TaskResult, TaskView};
use plait_broker_core::ids::{ArchiveId, ConnId, Millis, ReplyTag, TaskId};
use plait_broker_core::image::TaskImage;
use plait_broker_log::{FileLog, Log, LogError};
use std::collections::BTreeMap;

/// Tasks taken from the state machine at once, and tasks in a block.
const PART: usize = 16;

/// Who asked for tasks that are in files.
#[derive(Debug, Clone)]
pub(super) enum Asker {
    Results(ConnId, Vec<TaskId>),
    Cancel(TaskId),
    Get(TaskId),
    Redrive(Vec<TaskId>),
}

/// A file that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) archive: ArchiveId,
    parts: Vec<Vec<TaskImage>>,
    full: bool,
}

type Found = Option<(ArchiveId, TaskImage)>;

/// A task as the files have it; the first file that has it counts, as in the real lookup.
fn find(log: &FileLog, partition: &Partition, task: TaskId) -> Result<Found, String> {
    let files = log.archive();
    for archive in partition.archives_of(task) {
        let file = files.open(archive.0).map_err(|error| error.to_string())?;
        let Some(block) = file.block_below(task.0 + 1) else {
            continue;
        };
        let bytes = file.read(block).map_err(|error| error.to_string())?;
        let tasks = journal::decode_block(&bytes).map_err(|error| error.to_string())?;
        if let Some(image) = tasks.into_iter().find(|image| image.id() == task) {
            return Ok(Some((archive, image)));
        }
    }
    Ok(None)
}

/// A task wherever it is.
pub(super) fn look(
    log: &FileLog,
    partition: &Partition,
    task: TaskId,
    now: Millis,
) -> Result<Option<TaskView>, String> {
    if let Some(view) = partition.task(task) {
        return Ok(Some(view));
    }
    let found = find(log, partition, task)?;
    Ok(found.and_then(|(archive, image)| partition.archived_task(archive, &image, now)))
}

impl World {
    /// Moves some finished tasks on, if there are too many.
    pub(super) fn advance_archive(&mut self) {
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        if broker.filling.is_none() {
            broker.filling = broker.partition.begin_archive().map(|archive| Filling {
                archive,
                parts: Vec::new(),
                full: false,
            });
        }
        let Some(filling) = broker.filling.as_mut().filter(|filling| !filling.full) else {
            return;
        };
        let tasks = broker.partition.archive_part(PART);
        filling.full = tasks.is_empty();
        if filling.full {
            let delay = self.dice.span(4 * self.plan.sync);
            self.after(delay, Action::WriteArchive(self.life));
        } else {
            filling.parts.push(tasks);
        }
    }

    pub(super) fn write_archive(&mut self) {
        let Some(broker) = self.broker.as_mut() else {
            return;
        };
        let Some(filling) = broker.filling.take() else {
            return;
        };
        let archive = filling.archive;
        let mut parts = filling.parts;
        let written = broker.log.archive().write(archive.0, &mut |out| {
            for tasks in parts.drain(..) {
                let (Some(first), Some(last)) = (tasks.first(), tasks.last()) else {
                    continue;
                };
                let (first, last) = (first.id().0, last.id().0);
                let bytes = journal::encode_block(tasks).map_err(std::io::Error::other)?;
                out.block(first, last, &bytes)?;
            }
            Ok(())
        });
        let written = written.is_ok();
        self.hit(if written {
            Point::ArchiveWritten
        } else {
            Point::ArchiveFailed
        });
        if self.disk.is_off() {
            return self.crash(true);
        }
        self.command(Command::ArchiveWritten { archive, written });
    }

    /// Files that nothing refers to any more; what cannot be removed is removed at the next start.
    pub(super) fn remove_archives(&mut self, archives: &[ArchiveId]) {
        let numbers: Vec<u64> = archives.iter().map(|archive| archive.0).collect();
        self.hit(Point::ArchiveRemoved);
        if let Some(broker) = &self.broker {
            let _ = broker.log.archive().remove(&numbers);
        }
    }

    pub(super) fn look_up_later(&mut self, asker: Asker) {
        let delay = self.dice.span(self.plan.sync);
        self.after(delay, Action::LookUp(self.life, asker));
    }

    /// Reads files for somebody. The answer is told with the group that it rests on.
    pub(super) fn look_up(&mut self, asker: Asker) {
        self.hit(Point::ArchiveRead);
        let errors = self.seen.errors();
        let was_off = self.disk.is_off();
        let answered = match asker.clone() {
            Asker::Results(conn, tasks) => self.look_up_results(conn, &tasks),
            Asker::Cancel(task) => self.look_up_one(task, Event::CancelOk),
            Asker::Get(task) => self.look_up_one(task, Event::Get),
            Asker::Redrive(tasks) => self.redrive_archived(tasks),
        };
        let Err(error) = answered else { return };
        if self.seen.errors() == errors && !was_off {
            let text = format!("an archived task cannot be read: {error}");
            self.wrong(Invariant::AckedIsKept, text);
        } else if let Asker::Results(conn, _) = asker {
            self.close(conn);
        }
    }

    fn look_up_one(
        &mut self,
        task: TaskId,
        event: impl FnOnce(crate::history::Told) -> Event,
    ) -> Result<(), String> {
        let now = self.now;
        let Some(broker) = self.broker.as_mut() else {
            return Ok(());
        };
        let time = broker.open(now);
        let view = look(&broker.log, &broker.partition, task, time)?;
        let answer = match view {
            Some(view) => event(told(&view, time)),
            None => Event::Get(unknown(task, time)),
        };
        self.answer(Deferred::Tell(answer));
        Ok(())
    }

    fn look_up_results(&mut self, conn: ConnId, tasks: &[TaskId]) -> Result<(), String> {
        let now = self.now;
        let Some(broker) = self.broker.as_mut() else {
            return Ok(());
        };
        let time = broker.open(now);
        let (mut results, mut open) = (Vec::new(), Vec::new());
        for task in tasks {
            match look(&broker.log, &broker.partition, *task, time)? {
                None => results.push(TaskResult::not_found(*task)),
                Some(view) => match view.into_result() {
                    Some(result) => results.push(result),
                    // Somebody ran it again meanwhile.
                    None => open.push(*task),
                },
            }
        }
        for result in &mut results {
            let TaskResult {
                task,
                result: Ok(blob),
            } = result
            else {
                continue;
            };
            if let (None, Some(at), true) = (&blob.bytes, blob.at, blob.len > 0) {
                let read = broker.reader.read(at, blob.len as usize);
                let read = read.map_err(|error: LogError| format!("response of {task}: {error}"));
                blob.bytes = Some(read?);
            }
        }
        self.answer(Deferred::Results(conn, results));
        if !open.is_empty() && self.reaches(conn) {
            self.command(Command::Await {
                conn,
                tasks: open,
                forget: Vec::new(),
                parent: None,
            });
        }
        Ok(())
    }

    fn redrive_archived(&mut self, tasks: Vec<TaskId>) -> Result<(), String> {
        let Some(broker) = self.broker.as_ref() else {
            return Ok(());
        };
        let mut archived = BTreeMap::new();
        for task in &tasks {
            archived.insert(*task, find(&broker.log, &broker.partition, *task)?);
        }
        self.hit(Point::ArchiveRedriven);
        let tag: ReplyTag = self.tag(Call::Other);
        let dry_run = false;
        self.command(Command::Redrive {
            tag,
            tasks,
            archived,
            dry_run,
        });
        Ok(())
    }

    /// A view of a task, for the last look.
    pub(super) fn last_look(&mut self, task: TaskId, at: Millis) -> Option<TaskView> {
        let broker = self.broker.as_ref()?;
        match look(&broker.log, &broker.partition, task, at) {
            Ok(view) => view,
            Err(error) => {
                let text = format!("{:?} cannot be read: {error}", Task(task.0));
                self.wrong(Invariant::AckedIsKept, text);
                None
            }
        }
    }
}
