//! The manifest: the few facts of a log that its segments cannot tell by themselves.
//!
//! It is replaced as a whole (temporary file, sync, rename, directory sync) at open, at a clean
//! end and before a release. It is never on the path of an append.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PLAITMAN` |
//! | 8..12 | format version |
//! | 12..16 | number of kept segments |
//! | 16..24 | log id |
//! | 24..32 | epoch of the newest owner |
//! | 32..40 | tail: the log was durable up to here when this was written |
//! | 40..48 | floor: from here on no segment may be missing |
//! | 48.. | base and end of each kept segment below the floor |
//! | last 4 | checksum of all before |

use std::io::IoSlice;

use crc32c::crc32c;

use crate::disk::{self, Disk};
use crate::format::{self, FORMAT_VERSION, u32_at, u64_at};
use crate::{LogError, Offset};

pub(crate) const NAME: &str = "manifest";
const TEMPORARY: &str = "manifest.tmp";
const MAGIC: &[u8; 8] = b"PLAITMAN";
const FIXED: usize = 48;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) log_id: u64,
    pub(crate) epoch: u64,
    pub(crate) tail: Offset,
    pub(crate) floor: Offset,
    /// Base and end of segments below the floor that a release had to keep.
    pub(crate) kept: Vec<(Offset, Offset)>,
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + 16 * self.kept.len() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&(self.kept.len() as u32).to_le_bytes());
        for field in [self.log_id, self.epoch, self.tail, self.floor] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for (base, end) in &self.kept {
            out.extend_from_slice(&base.to_le_bytes());
            out.extend_from_slice(&end.to_le_bytes());
        }
        let sum = crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], file: &str) -> Result<Self, LogError> {
        format::check_preamble(bytes, MAGIC, file)?;
        let kept = if bytes.len() < FIXED {
            0
        } else {
            u32_at(bytes, 12) as usize
        };
        if bytes.len() != FIXED + 16 * kept + 4 {
            return Err(LogError::corrupt(
                file,
                bytes.len() as u64,
                "the length is wrong",
            ));
        }
        format::check_sum(bytes, file)?;
        let pair = |i| {
            (
                u64_at(bytes, FIXED + 16 * i),
                u64_at(bytes, FIXED + 16 * i + 8),
            )
        };
        Ok(Self {
            log_id: u64_at(bytes, 16),
            epoch: u64_at(bytes, 24),
            tail: u64_at(bytes, 32),
            floor: u64_at(bytes, 40),
            kept: (0..kept).map(pair).collect(),
        })
    }

    /// Reads the manifest of a directory.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Self, LogError> {
        let file = disk.describe(NAME);
        let handle = disk.open(NAME).map_err(LogError::io("open", &file))?;
        let size = handle.size().map_err(LogError::io("read", &file))?;
        let mut bytes = vec![0; size as usize];
        disk::read_exact(&*handle, &mut bytes, 0).map_err(LogError::io("read", &file))?;
        Self::decode(&bytes, &file)
    }

    /// Makes this the manifest of a directory, durably.
    pub(crate) fn store(&self, disk: &dyn Disk) -> Result<(), LogError> {
        let temporary = disk.describe(TEMPORARY);
        let write = || {
            let file = disk.create(TEMPORARY)?;
            file.write_at(&mut [IoSlice::new(&self.encode())], 0)?;
            file.sync()?;
            disk.rename(TEMPORARY, NAME)?;
            disk.sync_dir()
        };
        write().map_err(LogError::io("replace the manifest by", temporary))
    }
}
