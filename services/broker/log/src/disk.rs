//! The one door to files: what a log needs of a directory, and nothing more.
//!
//! The contract is POSIX at its weakest. A write is durable only after [`DiskFile::sync`] of that
//! file. A creation, rename or removal is durable only after [`Disk::sync_dir`]. After a failed
//! sync the written bytes may be readable and yet gone after the next crash.
//!
//! Names are flat: no separators, one directory.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// One directory.
pub trait Disk: Debug + Send + Sync + 'static {
    /// The name to show to people, usually a path.
    fn describe(&self, name: &str) -> String;

    /// Creates a file, empty, replacing one of the same name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing one of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Open handles keep its bytes.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// All names, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Takes the directory for this owner until the guard drops. The lock file is created if it is
    /// absent, and otherwise not changed.
    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError>;

    /// A number that nobody outside can foresee; the salt of a segment.
    fn entropy(&self) -> u64;
}

/// One open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all parts in order at `at`, growing the file if needed.
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()>;

    /// Reads up to `buf.len()` bytes at `at`; less only at the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;

    /// Makes the bytes (and the length) durable: fdatasync.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// A held lock. It is let go on drop.
pub trait DiskLock: Debug + Send {
    /// Leaves the owner's process number for those who are refused. Default: nothing.
    fn announce(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Another owner has it; its process, if it left a number.
    Held(Option<u32>),
    /// The lock file could not be used.
    Io(io::Error),
}

/// Fills `buf` from `at`, or fails with `UnexpectedEof`.
pub fn read_exact(file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<()> {
    if file.read_at(buf, at)? == buf.len() {
        return Ok(());
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Writes `count` zero bytes at `at`.
pub fn write_zeros(file: &dyn DiskFile, at: u64, count: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut done = 0;
    while done < count {
        let len = (count - done).min(ZEROS.len() as u64);
        file.write_at(&mut [IoSlice::new(&ZEROS[..len as usize])], at + done)?;
        done += len;
    }
    Ok(())
}
