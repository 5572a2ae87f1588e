//! Archive files: blocks of what the caller keeps on the disk only, beside the log.
//!
//! A file is written once, as a whole, and never changed: to a temporary file, synced, renamed, the directory synced.
//! Before [`Archive::write`] returns, the file does not count; a crash leaves all of it or nothing under its name.
//! Which files are alive is the caller's to know, best by a frame of the log; this module only keeps their bytes.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PLAITARC` |
//! | 8..12 | format version |
//! | 12..16 | zero |
//! | 16..24 | log id |
//! | 24..32 | number of the file |
//! | 32..n | blocks, one after the other: the caller's bytes |
//! | n..m | index: an entry of 32 bytes a block |
//! | m..m+8 | `PLAITEND` |
//! | m+8..m+16 | n, where the index begins |
//! | m+16..m+20 | checksum of bytes 0..32, the index, and m..m+16 |
//!
//! An entry: first key (8), last key (8), offset in the file (8), length (4), checksum of the block (4). Keys ascend
//! from block to block and do not overlap, so a key is found by a binary search of the index, and one read.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};

use crate::LogError;
use crate::disk::{self, DiskFile};
use crate::format::{self, FORMAT_VERSION, archive_name, offset_in_name, u32_at, u64_at};
use crate::reader::Shared;

const MAGIC: &[u8; 8] = b"PLAITARC";
const END_MAGIC: &[u8; 8] = b"PLAITEND";
const HEADER: u64 = 32;
const TRAILER: u64 = 20;
const ENTRY: usize = 32;
/// Bytes gathered for one write.
const BUFFER: usize = 256 * 1024;
/// Synced this often, so that an append's sync never queues behind a whole file.
const SYNC_EVERY: u64 = 4 * 1024 * 1024;

/// Files beside the log that are written once: what the caller keeps on the disk only. Numbers are the caller's.
pub trait Archive: Debug + Send + Sync {
    /// Writes file `number` with the blocks that `write` gives, on this thread. Durable on return, absent on error; a
    /// file of that number is replaced. Appends go on meanwhile.
    fn write(
        &self,
        number: u64,
        write: &mut dyn FnMut(&mut dyn BlockSink) -> io::Result<()>,
    ) -> Result<(), LogError>;

    /// Opens a file and checks all of it but its blocks. [`LogError::Io`] with `NotFound`: there is none.
    fn open(&self, number: u64) -> Result<Arc<dyn ArchiveFile>, LogError>;

    /// The numbers of all files, ascending.
    fn list(&self) -> Result<Vec<u64>, LogError>;

    /// Removes files, durably. Those that are open can be read on; those that do not exist are passed over.
    fn remove(&self, numbers: &[u64]) -> Result<(), LogError>;
}

/// Takes the blocks of a file in order.
pub trait BlockSink {
    /// Adds a block with the keys `first` to `last`, which are above those before it, or it is an error.
    fn block(&mut self, first: u64, last: u64, bytes: &[u8]) -> io::Result<()>;
}

/// An archive file, read from any thread.
pub trait ArchiveFile: Debug + Send + Sync {
    /// How many blocks it has.
    fn blocks(&self) -> usize;

    /// The block with the last keys below `key`, if there are any.
    fn block_below(&self, key: u64) -> Option<usize>;

    /// A block, checked.
    fn read(&self, block: usize) -> Result<Bytes, LogError>;
}

/// The archive files of one log.
#[derive(Debug)]
pub(crate) struct Archives(pub(crate) Arc<Shared>);

impl Archive for Archives {
    fn write(
        &self,
        number: u64,
        write: &mut dyn FnMut(&mut dyn BlockSink) -> io::Result<()>,
    ) -> Result<(), LogError> {
        let shared = &*self.0;
        shared.check_writable()?;
        let name = archive_name(number);
        // The epoch keeps apart what a writer left from an earlier owner may still be doing.
        let temporary = format!("{name}.{}.tmp", shared.epoch);
        let path = shared.disk.describe(&name);
        let written = write_file(shared, &temporary, number, write)
            .map_err(LogError::io("write the archive", &path))
            .and_then(|()| commit(shared, &temporary, &name));
        if written.is_err() {
            // What cannot be removed now is removed at the next open.
            let _ = shared.disk.remove(&temporary);
        }
        written
    }

    fn open(&self, number: u64) -> Result<Arc<dyn ArchiveFile>, LogError> {
        Ok(Arc::new(OpenFile::open(&self.0, number)?))
    }

    fn list(&self) -> Result<Vec<u64>, LogError> {
        let disk = &self.0.disk;
        let names = disk.list();
        let names = names.map_err(LogError::io("list", disk.describe("")))?;
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| offset_in_name(name, format::ARCHIVE_SUFFIX))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn remove(&self, numbers: &[u64]) -> Result<(), LogError> {
        let shared = &*self.0;
        // Held by the log's end, too: a directory that may have another owner is left alone.
        let _owned = shared.snapshots();
        shared.check_writable()?;
        for number in numbers {
            let name = archive_name(*number);
            match shared.disk.remove(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(LogError::io("remove", shared.disk.describe(&name)))?,
            }
        }
        shared.sync_dir()
    }
}

fn commit(shared: &Shared, temporary: &str, name: &str) -> Result<(), LogError> {
    let _owned = shared.snapshots();
    // The log may have been poisoned or dropped meanwhile: then the directory is not ours.
    shared.check_writable()?;
    let path = shared.disk.describe(name);
    shared
        .disk
        .rename(temporary, name)
        .map_err(LogError::io("rename to", path))?;
    shared.sync_dir()
}

fn write_file(
    shared: &Shared,
    temporary: &str,
    number: u64,
    write: &mut dyn FnMut(&mut dyn BlockSink) -> io::Result<()>,
) -> io::Result<()> {
    let header = header(shared.log_id, number);
    let mut out = Writer {
        file: shared.disk.create(temporary)?,
        buffer: header.to_vec(),
        at: 0,
        synced: 0,
        index: Vec::new(),
        last: None,
    };
    write(&mut out)?;
    let index_at = out.position();
    let mut tail = std::mem::take(&mut out.index);
    tail.extend_from_slice(END_MAGIC);
    tail.extend_from_slice(&index_at.to_le_bytes());
    let sum = crc32c_append(crc32c(&header), &tail);
    tail.extend_from_slice(&sum.to_le_bytes());
    out.buffer.extend_from_slice(&tail);
    out.flush()?;
    out.file.sync()
}

fn header(log_id: u64, number: u64) -> [u8; HEADER as usize] {
    let mut out = [0; HEADER as usize];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&log_id.to_le_bytes());
    out[24..32].copy_from_slice(&number.to_le_bytes());
    out
}

/// A file that is being written.
struct Writer {
    file: Arc<dyn DiskFile>,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    at: u64,
    synced: u64,
    index: Vec<u8>,
    /// The last key so far.
    last: Option<u64>,
}

impl Writer {
    fn position(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file
            .write_at(&mut [IoSlice::new(&self.buffer)], self.at)?;
        self.at = self.position();
        self.buffer.clear();
        if self.at - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.at;
        }
        Ok(())
    }
}

impl BlockSink for Writer {
    fn block(&mut self, first: u64, last: u64, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        if first > last || self.last.is_some_and(|before| first <= before) {
            return Err(io::Error::other("the keys of blocks do not ascend"));
        }
        self.last = Some(last);
        for field in [first, last, self.position()] {
            self.index.extend_from_slice(&field.to_le_bytes());
        }
        self.index.extend_from_slice(&len.to_le_bytes());
        self.index.extend_from_slice(&crc32c(bytes).to_le_bytes());
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }
}

/// Where a block is.
#[derive(Debug, Clone, Copy)]
struct Entry {
    first: u64,
    at: u64,
    len: u32,
    sum: u32,
}

/// A file that is whole but for its blocks, which are checked when they are read.
#[derive(Debug)]
struct OpenFile {
    file: Arc<dyn DiskFile>,
    path: String,
    entries: Vec<Entry>,
}

impl OpenFile {
    fn open(shared: &Shared, number: u64) -> Result<Self, LogError> {
        let name = archive_name(number);
        let path = shared.disk.describe(&name);
        let file = shared.disk.open(&name);
        let file = file.map_err(LogError::io("open", &path))?;
        let size = file.size().map_err(LogError::io("read", &path))?;
        let mut head = vec![0; size.min(HEADER) as usize];
        disk::read_exact(&*file, &mut head, 0).map_err(LogError::io("read", &path))?;
        format::check_preamble(&head, MAGIC, &path)?;
        if size < HEADER + TRAILER {
            return Err(LogError::corrupt(&path, size, "the file ends here"));
        }
        if head[..] != header(shared.log_id, number)[..] {
            let found = "an archive of another log or number";
            return Err(LogError::corrupt(&path, 12, found));
        }
        let entries = read_index(&*file, &head, size, &path)?;
        Ok(Self {
            file,
            path,
            entries,
        })
    }
}

fn read_index(
    file: &dyn DiskFile,
    head: &[u8],
    size: u64,
    path: &str,
) -> Result<Vec<Entry>, LogError> {
    let mut trailer = [0; TRAILER as usize];
    let end = size - TRAILER;
    disk::read_exact(file, &mut trailer, end).map_err(LogError::io("read", path))?;
    let begin = u64_at(&trailer, 8);
    let fits = (HEADER..=end).contains(&begin) && (end - begin).is_multiple_of(ENTRY as u64);
    if trailer[..8] != END_MAGIC[..] || !fits {
        let found = "the end mark or the index's place is wrong";
        return Err(LogError::corrupt(path, end, found));
    }
    let mut index = vec![0; (end - begin) as usize];
    disk::read_exact(file, &mut index, begin).map_err(LogError::io("read", path))?;
    let sum = [&index[..], &trailer[..16]]
        .iter()
        .fold(crc32c(head), |sum, part| crc32c_append(sum, part));
    if sum != u32_at(&trailer, 16) {
        let found = "the checksum of the index is wrong";
        return Err(LogError::corrupt(path, begin, found));
    }
    let entry = |raw: &[u8]| Entry {
        first: u64_at(raw, 0),
        at: u64_at(raw, 16),
        len: u32_at(raw, 24),
        sum: u32_at(raw, 28),
    };
    Ok(index.chunks_exact(ENTRY).map(entry).collect())
}

impl ArchiveFile for OpenFile {
    fn blocks(&self) -> usize {
        self.entries.len()
    }

    fn block_below(&self, key: u64) -> Option<usize> {
        self.entries
            .partition_point(|entry| entry.first < key)
            .checked_sub(1)
    }

    fn read(&self, block: usize) -> Result<Bytes, LogError> {
        let entry = self.entries[block];
        let mut bytes = vec![0; entry.len as usize];
        match disk::read_exact(&*self.file, &mut bytes, entry.at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let found = "the file ends inside a block";
                return Err(LogError::corrupt(&self.path, entry.at, found));
            }
            other => other.map_err(LogError::io("read", &self.path))?,
        }
        let found = crc32c(&bytes);
        if found != entry.sum {
            let found = format!("checksum {found:08x} where {:08x} is right", entry.sum);
            return Err(LogError::corrupt(&self.path, entry.at, found));
        }
        Ok(bytes.into())
    }
}
