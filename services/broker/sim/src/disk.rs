//! The simulated disk with eyes: it notes in which operation the power went, and which faults happened.

use plait_broker_log::disk::{Disk, DiskFile, DiskLock, LockError};
use plait_broker_log::sim::SimDisk;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::points::Point;

/// What a life of the disk met.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    points: Mutex<Vec<Point>>,
    /// Injected errors, so that one without a cause can be told.
    errors: AtomicU32,
}

impl Seen {
    fn points(&self) -> MutexGuard<'_, Vec<Point>> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Vec<Point> {
        std::mem::take(&mut self.points())
    }

    /// Errors since the start of the world.
    pub(crate) fn errors(&self) -> u32 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// The disk as one process sees it.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: Arc<dyn Disk>,
    disk: SimDisk,
    seen: Arc<Seen>,
}

#[derive(Debug)]
struct WatchedFile {
    inner: Arc<dyn DiskFile>,
    disk: SimDisk,
    seen: Arc<Seen>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Segment,
    Snapshot,
    Manifest,
}

impl Kind {
    fn of(name: &str) -> Self {
        if name.contains(".snap") {
            Self::Snapshot
        } else if name.contains("manifest") {
            Self::Manifest
        } else {
            Self::Segment
        }
    }
}

impl Watched {
    pub(crate) fn mount(disk: &SimDisk, seen: &Arc<Seen>) -> Arc<dyn Disk> {
        Arc::new(Self {
            inner: disk.mount(),
            disk: disk.clone(),
            seen: Arc::clone(seen),
        })
    }

    fn file(&self, inner: Arc<dyn DiskFile>, name: &str) -> Arc<dyn DiskFile> {
        Arc::new(WatchedFile {
            inner,
            disk: self.disk.clone(),
            seen: Arc::clone(&self.seen),
            kind: Kind::of(name),
        })
    }

    fn note<T>(&self, was_off: bool, result: io::Result<T>, cut: Point) -> io::Result<T> {
        note(
            &self.disk,
            &self.seen,
            was_off,
            result,
            (cut, Point::DirFailed),
        )
    }
}

fn note<T>(
    disk: &SimDisk,
    seen: &Seen,
    was_off: bool,
    result: io::Result<T>,
    (cut, failed): (Point, Point),
) -> io::Result<T> {
    if let Err(error) = &result {
        if disk.is_off() && !was_off {
            seen.points().push(cut);
        } else if let Some(code) = error.raw_os_error() {
            let no_space = code == 28;
            seen.points()
                .push(if no_space { Point::NoSpace } else { failed });
            seen.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
    result
}

impl Disk for Watched {
    fn describe(&self, name: &str) -> String {
        self.inner.describe(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let was_off = self.disk.is_off();
        let file = self.note(was_off, self.inner.create(name), Point::CutInCreate)?;
        Ok(self.file(file, name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.inner.open(name)?, name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let was_off = self.disk.is_off();
        self.note(was_off, self.inner.rename(from, to), Point::CutInRename)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let was_off = self.disk.is_off();
        self.note(was_off, self.inner.remove(name), Point::CutInRemove)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        let was_off = self.disk.is_off();
        self.note(was_off, self.inner.sync_dir(), Point::CutInDirSync)
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        self.inner.lock(name)
    }

    fn entropy(&self) -> u64 {
        self.inner.entropy()
    }
}

impl WatchedFile {
    fn note<T>(
        &self,
        was_off: bool,
        result: io::Result<T>,
        points: (Point, Point),
    ) -> io::Result<T> {
        note(&self.disk, &self.seen, was_off, result, points)
    }
}

impl DiskFile for WatchedFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let cut = match self.kind {
            Kind::Segment => Point::CutInWrite,
            Kind::Snapshot => Point::CutInSnapshotWrite,
            Kind::Manifest => Point::CutInManifest,
        };
        let was_off = self.disk.is_off();
        self.note(
            was_off,
            self.inner.write_at(parts, at),
            (cut, Point::WriteFailed),
        )
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let was_off = self.disk.is_off();
        let read = self.inner.read_at(buf, at);
        self.note(was_off, read, (Point::ReadFailed, Point::ReadFailed))
    }

    fn sync(&self) -> io::Result<()> {
        let cut = match self.kind {
            Kind::Segment => Point::CutInSync,
            Kind::Snapshot => Point::CutInSnapshotSync,
            Kind::Manifest => Point::CutInManifest,
        };
        let was_off = self.disk.is_off();
        self.note(was_off, self.inner.sync(), (cut, Point::SyncFailed))
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
}
