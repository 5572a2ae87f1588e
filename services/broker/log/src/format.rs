//! The bytes of the log on the disk: a compatibility promise. Format version 1.
//!
//! All numbers are little-endian; every checksum is CRC-32C. Release N+1 reads what release N
//! wrote. **Any** change below, to frames too, raises the version in the segment header, and a
//! version that is not known stops the open before anything is written.
//!
//! # Versions, and going back
//! Every file says its version: segment, frame, manifest, snapshot, archive file; what the caller
//! keeps inside has a version of its own (`plait.log.v1`). An open first only reads. It checks the
//! manifest, the header of each segment, and each frame from the newest snapshot on; the caller
//! then rebuilds its state, and only its [`crate::Log::claim`] changes a byte: of the lock file,
//! the manifest, the tail, or by removing what is left over. So a release that is put back over
//! the directory of a later one says which file has which version and which it reads, and ends;
//! the later release then goes on as if nothing had been tried. A directory that lacks a lock
//! file gets an empty one. What a start does not read (frames below the newest snapshot, blocks
//! of archive files) is never newer than what it reads, since one release writes one version.
//!
//! # Files of one directory
//! | name | what |
//! |---|---|
//! | `lock` | flock(2) of the owner; holds its process number |
//! | `manifest` | log id, epoch, proven tail, which segments must exist |
//! | `<base>.seg` | a segment; `<base>` is the offset of its first frame, 20 digits |
//! | `<at>.snap` | a snapshot of the state at offset `<at>`, 20 digits |
//! | `<n>.arc` | an archive file: finished tasks that are in no snapshot, 20 digits |
//! | `spare-<n>` | a file prepared for a later segment; its bytes mean nothing |
//! | `*.tmp` | an unfinished manifest, snapshot or archive; removed at open |
//!
//! # Segment
//! A block of 4,096 bytes, then frames. The block is written before the file gets its name and
//! never again. Logical offset `o` is the file's byte `4096 + o - base`.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PLAITSEG` |
//! | 8..12 | format version |
//! | 12..16 | zero |
//! | 16..24 | log id: a segment of another log is refused |
//! | 24..32 | base |
//! | 32..40 | base of the segment before (its own, if it is the first): finds a missing one |
//! | 40..48 | epoch of the owner that began it |
//! | 48..56 | salt, unpredictable, new for each segment |
//! | 56..60 | zero |
//! | 60..64 | checksum of bytes 0..60 |
//!
//! # Frame
//! A header of 32 bytes, the body, zeros to a multiple of 8. A frame never straddles segments:
//! one that does not fit starts the next, so logical space has no holes.
//!
//! | bytes | field |
//! |---|---|
//! | 0..3 | `PLF` |
//! | 3 | format version |
//! | 4..8 | length of the body |
//! | 8..16 | epoch of the owner that wrote it |
//! | 16..24 | the segment's salt |
//! | 24..28 | checksum of the body |
//! | 28..32 | checksum of the frame's logical offset (8 bytes) followed by header bytes 0..28 |
//!
//! The header's checksum covers the body's, so the two bind every byte but the padding, which
//! carries nothing. Salt and offset bind the frame to this life of this file and to its place:
//! **segment files are reused without being cleared**, and neither a frame of an earlier life, nor
//! one copied elsewhere, nor a payload that looks like a frame, can pass.
//!
//! # Where the log ends
//! A frame is written only after the one before is synced. So at most one frame, the last, can be
//! torn, and **an intact header beyond a bad frame proves that the bad frame was durable**: that
//! is corruption, and open fails. So is a bad frame below the manifest's proven tail, below a
//! snapshot, or in a segment that has a successor. Otherwise the bad frame was never acknowledged,
//! and open cuts it. What cannot be told apart from a torn write: damage to the very last frame
//! after an unclean end. A clean end proves its tail in the manifest.

use crc32c::{crc32c, crc32c_append};

use crate::{LogError, Offset};

/// The body of a frame starts this many bytes after the frame's offset.
pub const FRAME_HEADER_LEN: u64 = 32;

/// The first frame of a segment starts at this byte of the file.
pub const SEGMENT_HEADER_LEN: u64 = 4096;

/// Frames start at multiples of this many bytes.
pub const FRAME_ALIGN: u64 = 8;

/// The version written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 8] = b"PLAITSEG";
const FRAME_MAGIC: &[u8; 3] = b"PLF";
const HEADER_BYTES: usize = 64;

/// The bytes that a frame with a body of `len` bytes takes in the log.
#[must_use]
pub const fn frame_size(len: u64) -> u64 {
    (FRAME_HEADER_LEN + len).next_multiple_of(FRAME_ALIGN)
}

/// The file of the segment that starts at `base`.
#[must_use]
pub fn segment_name(base: Offset) -> String {
    format!("{base:020}.seg")
}

/// The file of the snapshot at `at`.
#[must_use]
pub fn snapshot_name(at: Offset) -> String {
    format!("{at:020}.snap")
}

/// What the name of an archive file ends with.
pub(crate) const ARCHIVE_SUFFIX: &str = ".arc";

/// The archive file of this number.
#[must_use]
pub fn archive_name(number: u64) -> String {
    format!("{number:020}{ARCHIVE_SUFFIX}")
}

/// The offset in a name made by [`segment_name`] or [`snapshot_name`], or the number in one by [`archive_name`].
pub(crate) fn offset_in_name(name: &str, suffix: &str) -> Option<Offset> {
    let digits = name.strip_suffix(suffix)?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if all_digits {
        digits.parse().ok()
    } else {
        None
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Checks what every file of the log begins with: eight letters and a version.
pub(crate) fn check_preamble(bytes: &[u8], magic: &[u8; 8], file: &str) -> Result<(), LogError> {
    if bytes.len() < 12 || bytes[..8] != magic[..] {
        let found = &bytes[..bytes.len().min(8)];
        let expected = String::from_utf8_lossy(magic);
        let found = format!("it begins with {found:02x?}, not with {expected}");
        return Err(LogError::corrupt(file, 0, found));
    }
    let found = u32_at(bytes, 8);
    if found > FORMAT_VERSION {
        let file = file.to_owned();
        return Err(LogError::FutureFormat {
            file,
            found,
            supported: FORMAT_VERSION,
        });
    }
    if found == 0 {
        return Err(LogError::corrupt(file, 8, "format version 0"));
    }
    Ok(())
}

/// Checks that the last four of `bytes` are the checksum of those before.
pub(crate) fn check_sum(bytes: &[u8], file: &str) -> Result<(), LogError> {
    let at = bytes.len() - 4;
    let (found, expected) = (u32_at(bytes, at), crc32c(&bytes[..at]));
    if found == expected {
        return Ok(());
    }
    let found = format!("checksum {found:08x} where {expected:08x} is right");
    Err(LogError::corrupt(file, at as u64, found))
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u64,
    pub(crate) base: Offset,
    pub(crate) prev_base: Offset,
    pub(crate) epoch: u64,
    pub(crate) salt: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN as usize);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for field in [
            self.log_id,
            self.base,
            self.prev_base,
            self.epoch,
            self.salt,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&[0; 4]);
        let sum = crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out.resize(SEGMENT_HEADER_LEN as usize, 0);
        out
    }

    pub(crate) fn decode(block: &[u8], file: &str) -> Result<Self, LogError> {
        check_preamble(block, SEGMENT_MAGIC, file)?;
        if block.len() < SEGMENT_HEADER_LEN as usize {
            return Err(LogError::corrupt(
                file,
                block.len() as u64,
                "the file ends here",
            ));
        }
        check_sum(&block[..HEADER_BYTES], file)?;
        Ok(Self {
            log_id: u64_at(block, 16),
            base: u64_at(block, 24),
            prev_base: u64_at(block, 32),
            epoch: u64_at(block, 40),
            salt: u64_at(block, 48),
        })
    }
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) len: u32,
    pub(crate) epoch: u64,
    pub(crate) salt: u64,
    pub(crate) body_sum: u32,
}

/// Why bytes are not the frame that would be due at their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadFrame {
    Zeros,
    NoMagic,
    Version(u8),
    OtherSalt,
    HeaderSum,
    /// The header is intact, but the frame would end after the segment.
    PastEnd(FrameHeader),
    /// The header is intact, but the body's checksum is this.
    BodySum(FrameHeader, u32),
}

impl BadFrame {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Zeros => "zeros instead of a frame".to_owned(),
            Self::NoMagic => "no frame begins here".to_owned(),
            Self::Version(found) => format!("a frame of unknown format version {found}"),
            Self::OtherSalt => "a frame of another segment".to_owned(),
            Self::HeaderSum => "a frame header with a wrong checksum".to_owned(),
            Self::PastEnd(header) => {
                format!(
                    "a frame of {} bytes that runs past the segment's end",
                    header.len
                )
            }
            Self::BodySum(header, found) => format!(
                "a frame of {} bytes whose body has checksum {found:08x} where {:08x} is right",
                header.len, header.body_sum
            ),
        }
    }

    /// The header, if it is intact and only the body is bad.
    pub(crate) fn header(&self) -> Option<FrameHeader> {
        match self {
            Self::PastEnd(header) | Self::BodySum(header, _) => Some(*header),
            _ => None,
        }
    }
}

impl FrameHeader {
    pub(crate) fn encode(&self, offset: Offset) -> [u8; FRAME_HEADER_LEN as usize] {
        let mut out = [0; FRAME_HEADER_LEN as usize];
        out[..3].copy_from_slice(FRAME_MAGIC);
        out[3] = FORMAT_VERSION as u8;
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..24].copy_from_slice(&self.salt.to_le_bytes());
        out[24..28].copy_from_slice(&self.body_sum.to_le_bytes());
        let sum = header_sum(&out, offset);
        out[28..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(crate) fn decode(raw: &[u8], offset: Offset, salt: u64) -> Result<Self, BadFrame> {
        if raw.iter().all(|byte| *byte == 0) {
            return Err(BadFrame::Zeros);
        }
        if raw[..3] != FRAME_MAGIC[..] {
            return Err(BadFrame::NoMagic);
        }
        if u64_at(raw, 16) != salt {
            return Err(BadFrame::OtherSalt);
        }
        if u32::from(raw[3]) != FORMAT_VERSION {
            return Err(BadFrame::Version(raw[3]));
        }
        if u32_at(raw, 28) != header_sum(raw, offset) {
            return Err(BadFrame::HeaderSum);
        }
        let (len, epoch, body_sum) = (u32_at(raw, 4), u64_at(raw, 8), u32_at(raw, 24));
        Ok(Self {
            len,
            epoch,
            salt,
            body_sum,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        frame_size(u64::from(self.len))
    }
}

fn header_sum(raw: &[u8], offset: Offset) -> u32 {
    crc32c_append(crc32c(&offset.to_le_bytes()), &raw[..28])
}
