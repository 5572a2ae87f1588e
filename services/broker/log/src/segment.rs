//! One segment file: opening it, walking its frames, looking for what lies beyond a bad one.
//! It only reads; who may write where is the business of `file_log` and `recovery`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use crc32c::crc32c;

use crate::disk::{self, Disk, DiskFile};
use crate::format::{
    BadFrame, FRAME_ALIGN, FRAME_HEADER_LEN, FrameHeader, SEGMENT_HEADER_LEN, SegmentHeader,
    segment_name,
};
use crate::{Frame, LogError, Offset, SegmentInfo};

/// How much is read at a time when frames are walked.
const WINDOW: u64 = 1024 * 1024;

/// How much is read first when a frame is looked for backwards; each further piece is twice as long,
/// up to [`WINDOW`]. Small, because most frames that are not full of payloads are.
const BACK: u64 = 4096;

/// One segment of the log, shared by the writer and all readers.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
    /// The path, for errors.
    pub(crate) path: String,
    /// The offset after the last durable frame.
    end: AtomicU64,
    /// The file's size, prepared space included; grows if frames go beyond it.
    bytes: AtomicU64,
}

impl Segment {
    pub(crate) fn new(
        header: SegmentHeader,
        file: Arc<dyn DiskFile>,
        path: String,
        bytes: u64,
    ) -> Self {
        let (end, bytes) = (AtomicU64::new(header.base), AtomicU64::new(bytes));
        Self {
            header,
            file,
            path,
            end,
            bytes,
        }
    }

    /// Opens the file of the segment at `base` and checks its header.
    pub(crate) fn open(disk: &dyn Disk, base: Offset) -> Result<Self, LogError> {
        let name = segment_name(base);
        let path = disk.describe(&name);
        let file = disk.open(&name).map_err(LogError::io("open", &path))?;
        let bytes = file.size().map_err(LogError::io("read", &path))?;
        let mut block = vec![0; bytes.min(SEGMENT_HEADER_LEN) as usize];
        disk::read_exact(&*file, &mut block, 0).map_err(LogError::io("read", &path))?;
        let header = SegmentHeader::decode(&block, &path)?;
        if header.base != base {
            let found = format!("it says that it starts at offset {}", header.base);
            return Err(LogError::corrupt(&path, 24, found));
        }
        Ok(Self::new(header, file, path, bytes))
    }

    pub(crate) fn base(&self) -> Offset {
        self.header.base
    }

    pub(crate) fn end(&self) -> Offset {
        self.end.load(Ordering::Acquire)
    }

    /// Publishes that the frames up to `end` are durable.
    pub(crate) fn advance(&self, end: Offset) {
        self.bytes.fetch_max(self.position(end), Ordering::Relaxed);
        self.end.store(end, Ordering::Release);
    }

    /// The byte of the file at which an offset lies.
    pub(crate) fn position(&self, at: Offset) -> u64 {
        SEGMENT_HEADER_LEN + (at - self.base())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The offset after the last one for which the file has bytes.
    pub(crate) fn limit(&self) -> Offset {
        self.base() + self.bytes().saturating_sub(SEGMENT_HEADER_LEN)
    }

    pub(crate) fn info(&self) -> SegmentInfo {
        SegmentInfo {
            base: self.base(),
            end: self.end(),
            bytes: self.bytes(),
        }
    }

    pub(crate) fn read(&self, at: Offset, len: usize) -> Result<Bytes, LogError> {
        let mut out = BytesMut::zeroed(len);
        disk::read_exact(&*self.file, &mut out, self.position(at))
            .map_err(LogError::io("read", &self.path))?;
        Ok(out.freeze())
    }

    pub(crate) fn corrupt(&self, at: Offset, found: impl Into<String>) -> LogError {
        LogError::corrupt(&self.path, self.position(at), found)
    }

    /// Where the first intact frame header at or after `from` lies, if there is one. Its body is
    /// of no interest: the header alone proves that all before it was durable.
    pub(crate) fn header_after(&self, from: Offset) -> Result<Option<Offset>, LogError> {
        let mut at = from;
        while self.limit().saturating_sub(at) >= FRAME_HEADER_LEN {
            let piece = self.read(at, WINDOW.min(self.limit() - at) as usize)?;
            if let Some(found) = self.header_in(&piece, at) {
                return Ok(Some(found));
            }
            // The last places of a piece have too few bytes in it: they are the next one's first.
            let places = (piece.len() as u64 - FRAME_HEADER_LEN) / FRAME_ALIGN + 1;
            at += places * FRAME_ALIGN;
        }
        Ok(None)
    }

    /// The last intact frame header that lies wholly before `before`, if there is one. What looks
    /// like one inside a payload is none: a header's checksum binds it to its place and this file.
    pub(crate) fn header_before(
        &self,
        before: Offset,
    ) -> Result<Option<(Offset, FrameHeader)>, LogError> {
        let mut size = BACK;
        let mut end = before - before % FRAME_ALIGN;
        while end.saturating_sub(self.base()) >= FRAME_HEADER_LEN {
            let at = end.saturating_sub(size).max(self.base());
            let piece = self.read(at, (end - at) as usize)?;
            let places = (piece.len() as u64 - FRAME_HEADER_LEN) / FRAME_ALIGN;
            for place in (0..=places).rev() {
                let start = (place * FRAME_ALIGN) as usize;
                let raw = &piece[start..start + FRAME_HEADER_LEN as usize];
                let found = at + place * FRAME_ALIGN;
                if raw[0] == b'P'
                    && let Ok(header) = FrameHeader::decode(raw, found, self.header.salt)
                {
                    return Ok(Some((found, header)));
                }
            }
            // The next piece ends where the first place of this one would have its last byte.
            end = at + FRAME_HEADER_LEN - FRAME_ALIGN;
            size = (size * 2).min(WINDOW);
            if at == self.base() {
                break;
            }
        }
        Ok(None)
    }

    fn header_in(&self, piece: &[u8], at: Offset) -> Option<Offset> {
        let places = piece
            .windows(FRAME_HEADER_LEN as usize)
            .step_by(FRAME_ALIGN as usize);
        let places = (at..).step_by(FRAME_ALIGN as usize).zip(places);
        // One comparison sorts out nearly every place.
        let mut likely = places.filter(|(_, raw)| raw[0] == b'P');
        let salt = self.header.salt;
        likely
            .find(|(at, raw)| FrameHeader::decode(raw, *at, salt).is_ok())
            .map(|(at, _)| at)
    }
}

/// A piece of a segment held in memory.
#[derive(Debug)]
struct Window {
    at: Offset,
    held: Bytes,
}

impl Window {
    fn new(at: Offset) -> Self {
        Self {
            at,
            held: Bytes::new(),
        }
    }

    /// The `len` bytes at `at`, which end at or before `limit`; no copy if they are held.
    fn bytes(
        &mut self,
        segment: &Segment,
        at: Offset,
        len: u64,
        limit: Offset,
    ) -> Result<Bytes, LogError> {
        let held = at >= self.at && at + len <= self.at + self.held.len() as u64;
        if !held {
            let size = WINDOW.max(len).min(limit - at);
            self.held = segment.read(at, size as usize)?;
            self.at = at;
        }
        let start = (at - self.at) as usize;
        Ok(self.held.slice(start..start + len as usize))
    }
}

/// What a walk finds next.
#[derive(Debug)]
pub(crate) enum Step {
    Frame(Frame),
    /// No more frames: what is here instead of one.
    Bad(BadFrame),
    /// The limit is reached, or too near for a frame.
    End,
}

/// Walks the frames of one segment, checking each.
#[derive(Debug)]
pub(crate) struct Walk {
    segment: Arc<Segment>,
    at: Offset,
    limit: Offset,
    window: Window,
}

impl Walk {
    /// Walks from the frame at `from` up to `limit`.
    pub(crate) fn new(segment: Arc<Segment>, from: Offset, limit: Offset) -> Self {
        Self {
            segment,
            at: from,
            limit,
            window: Window::new(from),
        }
    }

    /// Where the next frame is due.
    pub(crate) fn at(&self) -> Offset {
        self.at
    }

    pub(crate) fn limit(&self) -> Offset {
        self.limit
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    pub(crate) fn step(&mut self) -> Result<Step, LogError> {
        let (at, limit) = (self.at, self.limit);
        if limit.saturating_sub(at) < FRAME_HEADER_LEN {
            return Ok(Step::End);
        }
        let raw = self
            .window
            .bytes(&self.segment, at, FRAME_HEADER_LEN, limit)?;
        let header = match FrameHeader::decode(&raw, at, self.segment.header.salt) {
            Ok(header) => header,
            Err(bad) => return Ok(Step::Bad(bad)),
        };
        if header.size() > limit - at {
            return Ok(Step::Bad(BadFrame::PastEnd(header)));
        }
        let body_at = at + FRAME_HEADER_LEN;
        let body = self
            .window
            .bytes(&self.segment, body_at, u64::from(header.len), limit)?;
        let sum = crc32c(&body);
        if sum != header.body_sum {
            return Ok(Step::Bad(BadFrame::BodySum(header, sum)));
        }
        self.at = at + header.size();
        Ok(Step::Frame(Frame {
            offset: at,
            epoch: header.epoch,
            body,
        }))
    }
}
