//! Checking the frames of a row of segments, and telling a torn tail from corruption. The rules
//! are in `format`. Reads only.

use std::sync::Arc;

use crate::format::{BadFrame, FORMAT_VERSION, FRAME_ALIGN, FRAME_HEADER_LEN};
use crate::manifest::Manifest;
use crate::segment::{Segment, Step, Walk};
use crate::{LogError, Offset};

/// How the last segment ends.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) at: Offset,
    /// Where the last frame of the last segment starts, if it has one.
    pub(crate) last_frame: Option<Offset>,
    /// How many bytes of a torn frame lie at `at`.
    pub(crate) torn: u64,
    /// How many frames were checked.
    pub(crate) frames: u64,
}

pub(crate) fn check_length(segment: &Segment, end: Offset) -> Result<(), LogError> {
    if segment.limit() < end {
        let found = format!("the file ends here, its frames go on to offset {end}");
        return Err(LogError::corrupt(&segment.path, segment.bytes(), found));
    }
    Ok(())
}

/// Segments whose frames are to be checked.
pub(crate) struct Chain<'a> {
    pub(crate) segments: &'a [Arc<Segment>],
    pub(crate) manifest: &'a Manifest,
}

impl Chain<'_> {
    /// Checks the frames from `from` on and finds the tail, which cannot be below `proven`.
    pub(crate) fn check(&self, from: Offset, proven: Offset) -> Result<Tail, LogError> {
        let mut tail = Tail::default();
        for pair in self.segments.windows(2) {
            let end = pair[1].base();
            check_length(&pair[0], end)?;
            if end > from {
                self.check_full(&pair[0], end, &mut tail)?;
            }
            pair[0].advance(end);
        }
        if let Some(last) = self.segments.last() {
            self.check_last(last, proven, &mut tail)?;
            last.advance(tail.at);
        }
        Ok(tail)
    }

    /// Checks a segment whose frames must end exactly at `end`.
    pub(crate) fn check_full(
        &self,
        segment: &Arc<Segment>,
        end: Offset,
        tail: &mut Tail,
    ) -> Result<(), LogError> {
        let mut walk = Walk::new(Arc::clone(segment), segment.base(), end);
        let bad = self.walk(&mut walk, tail)?;
        check_version(segment, bad.as_ref())?;
        if walk.at() == end {
            return Ok(());
        }
        let found = bad.map_or_else(|| "a cut frame".to_owned(), |bad| bad.describe());
        let found = format!("{found}, and the frames go on to offset {end}");
        Err(segment.corrupt(walk.at(), found))
    }

    /// Finds where the last segment ends, and whether that can be the end of the log.
    fn check_last(
        &self,
        segment: &Arc<Segment>,
        proven: Offset,
        tail: &mut Tail,
    ) -> Result<(), LogError> {
        tail.last_frame = None;
        let mut walk = Walk::new(Arc::clone(segment), segment.base(), segment.limit());
        let bad = self.walk(&mut walk, tail)?;
        tail.at = walk.at();
        let found = bad
            .as_ref()
            .map_or_else(|| "the file's end".to_owned(), BadFrame::describe);
        check_version(segment, bad.as_ref())?;
        if tail.at < proven {
            let found = format!("{found}, but the log was durable up to offset {proven}");
            return Err(segment.corrupt(tail.at, found));
        }
        if let Some(later) = segment.header_after(tail.at + FRAME_ALIGN)? {
            let found = format!("{found}, but a frame follows at offset {later}");
            return Err(segment.corrupt(tail.at, found));
        }
        tail.torn = bad
            .map_or(0, |bad| torn(&bad))
            .min(segment.limit() - tail.at);
        Ok(())
    }

    /// Walks to the end or to what is not a frame.
    fn walk(&self, walk: &mut Walk, tail: &mut Tail) -> Result<Option<BadFrame>, LogError> {
        let mut epoch = walk.segment().header.epoch;
        loop {
            let frame = match walk.step()? {
                Step::Frame(frame) => frame,
                Step::Bad(bad) => return Ok(Some(bad)),
                Step::End => return Ok(None),
            };
            if frame.epoch < epoch || frame.epoch > self.manifest.epoch {
                let (found, newest) = (frame.epoch, self.manifest.epoch);
                let found = format!("a frame of epoch {found}, not within {epoch} to {newest}");
                return Err(walk.segment().corrupt(frame.offset, found));
            }
            epoch = frame.epoch;
            tail.last_frame = Some(frame.offset);
            tail.frames += 1;
        }
    }
}

/// A frame of a later release is no damage, whatever else its bytes look like.
fn check_version(segment: &Segment, bad: Option<&BadFrame>) -> Result<(), LogError> {
    match bad {
        Some(BadFrame::Version(found)) if u32::from(*found) > FORMAT_VERSION => {
            Err(LogError::FutureFormat {
                file: segment.path.clone(),
                found: u32::from(*found),
                supported: FORMAT_VERSION,
            })
        }
        _ => Ok(()),
    }
}

/// How many bytes of a torn frame must be zeroed. Bytes without an intact salt are those of an
/// earlier life of the file: they can never pass, and stay.
fn torn(bad: &BadFrame) -> u64 {
    match bad {
        BadFrame::HeaderSum => FRAME_HEADER_LEN,
        other => other.header().map_or(0, |header| header.size()),
    }
}
