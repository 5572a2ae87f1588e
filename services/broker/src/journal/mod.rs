//! The log's bytes: facts of the state machine to frames and back. The format and its promise are in
//! `proto/plait/log/v1/record.proto`. It knows no policy of when to write or read.

mod archives;
mod columns;
mod decode;
mod encode;
mod image;
mod refusal;
mod submitted;
mod task_images;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use plait::pb::plait::log::v1 as pb;
use plait_broker_core::ids::{Millis, Offset};
use plait_broker_core::record::Record;
use prost::Message;

pub use archives::{decode_block, encode_block};
pub use decode::Decoder;

/// The version that this release writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// What of a frame comes before the payload area, its length field included.
const LEN_BYTES: usize = 4;

/// Why bytes that the log vouches for are not what this release understands.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The frame is shorter than it says.
    #[error("a frame of {len} bytes is too short for its meta")]
    Truncated {
        /// Its length.
        len: usize,
    },
    /// Not the protobuf it should be.
    #[error("a frame's meta cannot be decoded: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// Written by a later release.
    #[error(
        "its records have format version {found}, this release reads versions 1 to {VERSION}; nothing was changed: \
         start the release that wrote it, or a later one"
    )]
    FutureVersion {
        /// Its version.
        found: u32,
    },
    /// A column that does not fit its record.
    #[error("column {name} has {found} entries for {count} tasks")]
    Column {
        /// Which.
        name: &'static str,
        /// Its entries.
        found: usize,
        /// The tasks of the record.
        count: usize,
    },
    /// A value with no meaning here: of a later release that did not raise the version as it must, or of a defect.
    #[error(
        "a record's {field} has no meaning to this release; start the release that wrote it, or a later one"
    )]
    Unknown {
        /// Which.
        field: &'static str,
    },
    /// Payloads that do not end where the frame ends.
    #[error("the payloads of a frame end at {end} of {len} bytes")]
    Payloads {
        /// Where they end.
        end: u64,
        /// Where the frame ends.
        len: u64,
    },
    /// A payload that is neither in memory nor, as it must be, anywhere else.
    #[error("a record to be written lacks its payload")]
    PayloadMissing,
}

/// A frame to append: the parts of its body.
#[derive(Debug)]
pub struct EncodedFrame {
    /// Length field and meta.
    pub head: Bytes,
    /// The payload area; no empty ones.
    pub payloads: Vec<Bytes>,
    /// Bytes of the payload area.
    pub payload_bytes: u64,
}

impl EncodedFrame {
    /// Bytes of the whole body.
    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.payload_bytes
    }

    /// Whether there is nothing in it; never so for a frame made by [`encode`].
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }
}

/// Turns records into a frame. Payloads are counted, not copied.
pub fn encode(records: Vec<Record>, time: Millis) -> Result<EncodedFrame, JournalError> {
    let mut encoder = encode::Encoder::new(time);
    let records = records
        .into_iter()
        .map(|r| encoder.record(r))
        .collect::<Result<Vec<_>, _>>()?;
    let (payloads, payload_bytes) = encoder.into_payloads();
    Ok(EncodedFrame {
        head: prefixed(records, time),
        payloads,
        payload_bytes,
    })
}

/// Turns records of a snapshot, whose payloads are in the log already, into one chunk of it.
pub fn encode_image(records: Vec<Record>, time: Millis) -> Result<Bytes, JournalError> {
    let mut encoder = encode::Encoder::new(time);
    let records = records
        .into_iter()
        .map(|r| encoder.record(r))
        .collect::<Result<Vec<_>, _>>()?;
    match encoder.into_payloads() {
        (_, 0) => Ok(prefixed(records, time)),
        (_, end) => Err(JournalError::Payloads { end, len: 0 }),
    }
}

fn prefixed(records: Vec<pb::Record>, time: Millis) -> Bytes {
    let meta = pb::FrameMeta {
        version: VERSION,
        time_ms: time,
        records,
    };
    let len = meta.encoded_len();
    let mut head = BytesMut::with_capacity(LEN_BYTES + len);
    head.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    meta.encode_raw(&mut head);
    head.freeze()
}

/// The length that a chunk or frame begins with, and what follows it.
pub fn split_head(body: &[u8]) -> Result<(&[u8], &[u8]), JournalError> {
    let truncated = JournalError::Truncated { len: body.len() };
    let Some((prefix, rest)) = body.split_first_chunk::<LEN_BYTES>() else {
        return Err(truncated);
    };
    rest.split_at_checked(u32::from_le_bytes(*prefix) as usize)
        .ok_or(truncated)
}

/// Where the payload area of a frame begins, told where its body does.
fn payload_area(body_at: Offset, meta: &[u8]) -> Offset {
    body_at + (LEN_BYTES + meta.len()) as u64
}
