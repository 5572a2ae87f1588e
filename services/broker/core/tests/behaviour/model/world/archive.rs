//! The disk's part of archiving: files that are durable when they are written, and readers that look into them.

use super::World;
use plait_broker_core::command::Command;
use plait_broker_core::effect::*;
use plait_broker_core::ids::*;
use plait_broker_core::image::TaskImage;
use std::collections::BTreeMap;

/// A task as a file has it, and as it was shown when it was written.
#[derive(Debug, Clone)]
pub(super) struct Written {
    image: TaskImage,
    shown: String,
}

pub(super) type File = BTreeMap<TaskId, Written>;

/// Files, and the one that is being filled.
#[derive(Debug, Default)]
pub(super) struct Archive {
    files: BTreeMap<ArchiveId, File>,
    filling: Option<(ArchiveId, File)>,
}

impl World {
    /// A file is begun, filled on, or done: well or not.
    pub(super) fn archives(&mut self) {
        let Some((archive, mut file)) = self.archive.filling.take() else {
            let archive = self.partition.begin_archive();
            self.archive.filling = archive.map(|archive| (archive, File::new()));
            return;
        };
        let most = 1 + self.random.below(4) as usize;
        let part = self.partition.archive_part(most);
        assert!(part.len() <= most);
        if !part.is_empty() {
            for image in part {
                let last = file.last_key_value().map(|(id, _)| *id);
                assert!(last.is_none_or(|last| last < image.id()), "ascending");
                let view = self.partition.task(image.id()).expect("it is in memory");
                let shown = shown(view);
                file.insert(image.id(), Written { image, shown });
            }
            self.archive.filling = Some((archive, file));
            return;
        }
        let written = self.random.permille(850);
        if written {
            self.archive.files.insert(archive, file);
        }
        self.command(Command::ArchiveWritten { archive, written });
    }

    /// What is being filled comes to its end.
    pub(super) fn archives_end(&mut self) {
        while self.archive.filling.is_some() {
            self.archives();
        }
    }

    /// The process is gone; files of which the log does not tell are removed.
    pub(super) fn archive_restarts(&mut self) {
        self.archive.filling = None;
        let living: Vec<ArchiveId> = self.partition.archives().iter().map(|a| a.0).collect();
        for archive in &living {
            assert!(
                self.archive.files.contains_key(archive),
                "{archive:?} is lost"
            );
        }
        self.archive
            .files
            .retain(|archive, _| living.contains(archive));
    }

    pub(super) fn archives_released(&mut self, archives: &[ArchiveId]) {
        for archive in archives {
            let file = self.archive.files.remove(archive);
            assert!(file.is_some(), "{archive:?} is released once");
        }
    }

    /// A task wherever it is. What a file tells is what memory told.
    pub(super) fn find(&self, id: TaskId) -> Option<TaskView> {
        if let Some(view) = self.partition.task(id) {
            return Some(view);
        }
        let mut found = self.read(id).filter_map(|(archive, written)| {
            let view = self
                .partition
                .archived_task(archive, &written.image, self.now)?;
            assert_eq!(shown(view.clone()), written.shown);
            Some(view)
        });
        let view = found.next();
        assert!(found.next().is_none(), "one file tells of {id}");
        view
    }

    /// Of what is forgotten nothing tells, nor does an old file.
    pub(super) fn check_forgotten(&self) {
        let newest = self.ledger.tasks.keys().last().map_or(0, |id| id.0);
        for id in (1..newest).map(TaskId) {
            if !self.ledger.tasks.contains_key(&id) {
                assert!(self.find(id).is_none(), "{id} was forgotten");
            }
        }
    }

    /// What living files say of a task.
    fn read(&self, id: TaskId) -> impl Iterator<Item = (ArchiveId, &Written)> {
        let archives = self.partition.archives_of(id).into_iter();
        archives.filter_map(move |archive| {
            let file = &self.archive.files[&archive];
            file.get(&id).map(|written| (archive, written))
        })
    }

    pub(super) fn archived_results(&mut self, conn: ConnId, tasks: &[TaskId]) {
        let mut results = Vec::new();
        for task in tasks {
            match self.find(*task) {
                Some(view) => match view.into_result() {
                    Some(result) => results.push(result),
                    // Somebody runs it again: then the stream asks once more.
                    None => self.command(Command::Await {
                        conn,
                        tasks: vec![*task],
                        forget: Vec::new(),
                        parent: None,
                    }),
                },
                None => results.push(TaskResult::not_found(*task)),
            }
        }
        for result in &results {
            self.check_result(result);
        }
        self.client.results(conn, &results);
    }

    /// Runs tasks again, as the shell does: what must be read is read, and then it is asked once more.
    pub(super) fn redrive(&mut self, tasks: Vec<TaskId>) {
        let mut archived = BTreeMap::new();
        loop {
            let command = Command::Redrive {
                tag: ReplyTag(1),
                tasks: tasks.clone(),
                archived: archived.clone(),
                dry_run: false,
            };
            self.command(command);
            let effects = self.pending.back().map(|step| &step.effects[..]);
            let wanted = effects
                .unwrap_or_default()
                .iter()
                .find_map(|effect| match effect {
                    Effect::Reply {
                        reply: Reply::Archived(wanted),
                        ..
                    } => Some(wanted.clone()),
                    _ => None,
                });
            let Some(wanted) = wanted else { return };
            for task in wanted {
                let read = self.read(task).next();
                let read = read.map(|(archive, written)| (archive, written.image.clone()));
                assert!(
                    archived.insert(task, read).is_none(),
                    "{task} was read already"
                );
            }
        }
    }
}

/// A view without what is not durable.
fn shown(mut view: TaskView) -> String {
    view.progress = None;
    format!("{view:?}")
}
