//! The [`Disk`] that is a directory of the machine.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, DiskLock, LockError};

/// A directory of the machine's file system.
#[derive(Debug)]
pub struct RealDisk {
    dir: PathBuf,
    handle: File,
}

impl RealDisk {
    /// Opens the directory, creating it (mode 0700, durably) with its parents if it is absent.
    /// The mode of a directory that exists is left alone.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(dir)?;
        let missing = absolute.ancestors().take_while(|path| !path.exists());
        let missing: Vec<_> = missing.collect();
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        for parent in missing.iter().filter_map(|path| path.parent()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            handle: File::open(dir)?,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Disk for RealDisk {
    fn describe(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600);
        Ok(Arc::new(RealFile(options.open(self.path(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is not ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(self.path(name)).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        Ok(Box::new(RealLock { file }))
    }

    fn entropy(&self) -> u64 {
        // The standard library seeds these keys from the operating system.
        RandomState::new().build_hasher().finish()
    }
}

/// The number in the file, unless it is that of an earlier owner: the holder leaves its own only
/// when it claims the log.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let pid = text.trim().parse().ok()?;
    let runs = !Path::new("/proc/self").exists() || Path::new(&format!("/proc/{pid}")).exists();
    runs.then_some(pid)
}

#[derive(Debug)]
struct RealLock {
    /// The lock lives as long as this handle.
    file: File,
}

impl DiskLock for RealLock {
    fn announce(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, mut parts: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        while !parts.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.0, parts, at))?;
            if written == 0 && !parts.iter().all(|part| part.is_empty()) {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
