//! Payloads by their place in the log, each proven by its frame's checksum before it is handed out.
//!
//! A frame's checksum covers its whole body, so payloads are read in batches and a frame is checked
//! once for all that a batch wants of it. The frames read last are kept, since tasks that were
//! accepted together are mostly wanted together, though in several batches.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::reader::lock;
use crate::{FRAME_HEADER_LEN, Frame, LogError, LogReader, Offset};

/// Bytes of frames that are kept.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Frames that are kept; they are looked through one by one.
const KEPT_FRAMES_MAX: usize = 32;

/// A payload, or why it cannot be had; one error is shared by all payloads of a bad frame.
pub type PayloadResult = Result<Bytes, Arc<LogError>>;

/// Reads payloads, checked. Works from any thread; a read blocks on the disk.
#[derive(Debug)]
pub struct Payloads {
    reader: Arc<dyn LogReader>,
    /// The newest first.
    kept: Mutex<VecDeque<Frame>>,
}

/// A frame that was found bad, so that it is checked once a batch.
struct Bad {
    range: Range<Offset>,
    error: Arc<LogError>,
}

impl Payloads {
    /// Payloads of the log that the reader reads.
    #[must_use]
    pub fn new(reader: Arc<dyn LogReader>) -> Self {
        Self {
            reader,
            kept: Mutex::default(),
        }
    }

    /// The payloads at these places (offset and length), in their order. A payload that is not
    /// what was written is an error, mostly [`LogError::Corrupt`]. The bytes are the caller's own, or
    /// pin no more than twice their size.
    pub fn read(&self, wanted: &[(Offset, usize)]) -> Vec<PayloadResult> {
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_unstable_by_key(|index| wanted[*index].0);
        let mut out = vec![Ok(Bytes::new()); wanted.len()];
        let mut current: Option<Frame> = None;
        let mut bad: Option<Bad> = None;
        for index in order {
            let (at, len) = wanted[index];
            if len == 0 {
                continue;
            }
            if let Some(bad) = bad.as_ref().filter(|bad| bad.range.contains(&at)) {
                out[index] = Err(Arc::clone(&bad.error));
                continue;
            }
            if !current.as_ref().is_some_and(|frame| holds(frame, at)) {
                match self.frame_of(at) {
                    Ok(frame) => current = Some(frame),
                    Err(found) => {
                        out[index] = Err(Arc::clone(&found.error));
                        bad = Some(found);
                        continue;
                    }
                }
            }
            if let Some(frame) = &current {
                out[index] = cut(frame, at, len).map_err(Arc::new);
            }
        }
        out
    }

    /// The frame that holds the byte at `at`, checked.
    fn frame_of(&self, at: Offset) -> Result<Frame, Bad> {
        if let Some(frame) = lock(&self.kept).iter().find(|frame| holds(frame, at)) {
            return Ok(frame.clone());
        }
        let range = self.reader.locate(at).map_err(|error| Bad {
            range: at..at + 1,
            error: Arc::new(error),
        })?;
        let frame = self.reader.frame(range.start).map_err(|error| Bad {
            range,
            error: Arc::new(error),
        })?;
        self.keep(&frame);
        Ok(frame)
    }

    fn keep(&self, frame: &Frame) {
        let mut kept = lock(&self.kept);
        kept.push_front(frame.clone());
        let mut bytes = 0;
        let count = kept.iter().take(KEPT_FRAMES_MAX).take_while(|frame| {
            bytes += frame.body.len();
            bytes <= KEPT_BYTES_MAX
        });
        let count = count.count();
        kept.truncate(count);
    }
}

fn holds(frame: &Frame, at: Offset) -> bool {
    at >= frame.offset + FRAME_HEADER_LEN && at < frame.end()
}

/// A payload of a frame. A small one is copied, so that it does not keep the whole frame in memory.
fn cut(frame: &Frame, at: Offset, len: usize) -> Result<Bytes, LogError> {
    let start = (at - frame.offset - FRAME_HEADER_LEN) as usize;
    let range = start..start.saturating_add(len);
    let Some(bytes) = frame.body.get(range.clone()) else {
        let len = len as u64;
        return Err(LogError::OutOfRange { at, len });
    };
    if len < frame.body.len() / 2 {
        Ok(Bytes::copy_from_slice(bytes))
    } else {
        Ok(frame.body.slice(range))
    }
}
