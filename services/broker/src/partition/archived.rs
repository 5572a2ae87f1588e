//! Reading archive files: one task, or tasks from the newest to the oldest.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use plait_broker_core::ids::{ArchiveId, TaskId};
use plait_broker_core::image::TaskImage;
use plait_broker_log::{Archive, ArchiveFile, LogError};

use crate::journal::{self, JournalError};

/// Files that are kept open. An open one takes a descriptor and some 16 KiB for its index.
const OPEN_MAX: usize = 128;

/// Why a file does not tell what it holds.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read, or is not what was written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A block of it is not understood.
    #[error("archive file {archive}: {source}")]
    Journal {
        /// Its number.
        archive: u64,
        /// Why.
        source: JournalError,
    },
}

impl ReadError {
    /// Whether there is no such file: it may have been removed just now.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Log(LogError::Io { source, .. })
            if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The files, of which those used last are open.
#[derive(Debug)]
pub(super) struct OpenFiles {
    archive: Arc<dyn Archive>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    files: HashMap<ArchiveId, (Arc<dyn ArchiveFile>, u64)>,
    uses: u64,
}

impl OpenFiles {
    pub(super) fn new(archive: Arc<dyn Archive>) -> Self {
        Self {
            archive,
            open: Mutex::default(),
        }
    }

    pub(super) fn archive(&self) -> &dyn Archive {
        &*self.archive
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file, opened and its index checked if it is not open.
    pub(super) fn file(&self, archive: ArchiveId) -> Result<Arc<dyn ArchiveFile>, ReadError> {
        let mut open = self.open();
        open.uses += 1;
        let uses = open.uses;
        if let Some((file, used)) = open.files.get_mut(&archive) {
            *used = uses;
            return Ok(Arc::clone(file));
        }
        drop(open);
        let file = self.archive.open(archive.0)?;
        let mut open = self.open();
        if open.files.len() >= OPEN_MAX
            && let Some((oldest, _)) = open.files.iter().min_by_key(|(_, (_, used))| *used)
        {
            let oldest = *oldest;
            open.files.remove(&oldest);
        }
        open.files.insert(archive, (Arc::clone(&file), uses));
        Ok(file)
    }

    /// Removes files that nothing refers to any more. What cannot be removed is removed at the next start.
    pub(super) fn remove(&self, archives: &[ArchiveId]) {
        for archive in archives {
            self.open().files.remove(archive);
        }
        let numbers: Vec<u64> = archives.iter().map(|archive| archive.0).collect();
        match self.archive.remove(&numbers) {
            Ok(()) => tracing::debug!(files = numbers.len(), "archive files were removed"),
            Err(error) => tracing::warn!(%error, "an archive file could not be removed"),
        }
    }
}

/// Reads tasks one by one; those that are near each other cost one read.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    files: &'a OpenFiles,
    /// The block read last.
    block: Option<(ArchiveId, usize, Vec<TaskImage>)>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(files: &'a OpenFiles) -> Self {
        Self { files, block: None }
    }

    /// The task, from the first of the files that has it. An error only if none has it and one could not be read.
    pub(super) fn find(
        &mut self,
        task: TaskId,
        archives: &[ArchiveId],
    ) -> Result<Option<(ArchiveId, TaskImage)>, ReadError> {
        let mut failed = None;
        for archive in archives {
            match self.find_in(task, *archive) {
                Ok(None) => {}
                Ok(Some(image)) => return Ok(Some((*archive, image))),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    fn find_in(
        &mut self,
        task: TaskId,
        archive: ArchiveId,
    ) -> Result<Option<TaskImage>, ReadError> {
        let file = self.files.file(archive)?;
        let Some(number) = file.block_below(task.0.saturating_add(1)) else {
            return Ok(None);
        };
        let known = |(of, block, _): &(ArchiveId, usize, _)| (*of, *block) == (archive, number);
        if !self.block.as_ref().is_some_and(known) {
            self.block = Some((archive, number, read_block(&*file, archive, number)?));
        }
        let tasks = self.block.as_ref().map_or(&[][..], |(_, _, tasks)| tasks);
        let found = tasks.binary_search_by_key(&task, TaskImage::id);
        Ok(found.ok().map(|at| tasks[at].clone()))
    }
}

fn read_block(
    file: &dyn ArchiveFile,
    archive: ArchiveId,
    block: usize,
) -> Result<Vec<TaskImage>, ReadError> {
    let bytes = file.read(block)?;
    journal::decode_block(&bytes).map_err(|source| ReadError::Journal {
        archive: archive.0,
        source,
    })
}

/// A living file and its bounds.
pub(super) type Bounds = (ArchiveId, TaskId, TaskId);

/// Walks through files from the newest task to the oldest.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    files: &'a OpenFiles,
    before: TaskId,
    /// Files not begun, the one with the highest bound last.
    ahead: Vec<Bounds>,
    begun: Vec<Begun>,
}

/// A file in which the walk is.
#[derive(Debug)]
struct Begun {
    archive: ArchiveId,
    file: Arc<dyn ArchiveFile>,
    block: usize,
    /// What is left of the block, ascending.
    tasks: Vec<TaskImage>,
}

impl<'a> Walk<'a> {
    /// A walk through tasks below `before`.
    pub(super) fn new(files: &'a OpenFiles, mut ahead: Vec<Bounds>, before: TaskId) -> Self {
        ahead.sort_unstable_by_key(|(_, _, last)| *last);
        Self {
            files,
            before,
            ahead,
            begun: Vec::new(),
        }
    }

    /// The next task.
    pub(super) fn step(&mut self) -> Result<Option<(ArchiveId, TaskImage)>, ReadError> {
        loop {
            let heads = self.begun.iter().enumerate();
            let newest = heads
                .filter_map(|(at, begun)| Some((begun.tasks.last()?.id(), at)))
                .max();
            if let Some((_, _, last)) = self.ahead.last()
                && newest.is_none_or(|(id, _)| *last >= id)
            {
                self.begin()?;
                continue;
            }
            let Some((_, at)) = newest else {
                return Ok(None);
            };
            let begun = &mut self.begun[at];
            let Some(task) = begun.tasks.pop() else {
                return Ok(None);
            };
            let archive = begun.archive;
            if begun.tasks.is_empty() && !begun.next_block()? {
                self.begun.swap_remove(at);
            }
            return Ok(Some((archive, task)));
        }
    }

    fn begin(&mut self) -> Result<(), ReadError> {
        let Some((archive, ..)) = self.ahead.pop() else {
            return Ok(());
        };
        let file = self.files.file(archive)?;
        let Some(block) = file.block_below(self.before.0) else {
            return Ok(());
        };
        let mut tasks = read_block(&*file, archive, block)?;
        tasks.retain(|task| task.id() < self.before);
        self.begun.push(Begun {
            archive,
            file,
            block,
            tasks,
        });
        Ok(())
    }
}

impl Begun {
    /// Reads the block before. None is left: false.
    fn next_block(&mut self) -> Result<bool, ReadError> {
        let Some(block) = self.block.checked_sub(1) else {
            return Ok(false);
        };
        self.block = block;
        self.tasks = read_block(&*self.file, self.archive, block)?;
        Ok(true)
    }
}
