//! A directory whose syncs do nothing: the setting `sync = "none"`.

use std::io::{self, IoSlice};
use std::sync::Arc;

use plait_broker_log::RealDisk;
use plait_broker_log::disk::{Disk, DiskFile, DiskLock, LockError};

/// What is written survives the process, and not the machine.
#[derive(Debug)]
pub(crate) struct NoSyncDisk(pub(crate) RealDisk);

#[derive(Debug)]
struct NoSyncFile(Arc<dyn DiskFile>);

impl Disk for NoSyncDisk {
    fn describe(&self, name: &str) -> String {
        self.0.describe(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(NoSyncFile(self.0.create(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(NoSyncFile(self.0.open(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        self.0.lock(name)
    }

    fn entropy(&self) -> u64 {
        self.0.entropy()
    }
}

impl DiskFile for NoSyncFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        self.0.write_at(parts, at)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(buf, at)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}
