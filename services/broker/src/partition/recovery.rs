//! From the log to the state: the newest snapshot, then the frames after it.

use std::io::{self, Read};

use plait_broker_core::ids::Millis;
use plait_broker_core::{Config, Partition};
use plait_broker_log::{FRAME_HEADER_LEN, Log, LogError};

use super::Recovered;
use crate::journal::{Decoder, JournalError};

/// Why the state cannot be rebuilt. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log cannot be read.
    #[error("reading the log: {0}")]
    Log(#[from] LogError),
    /// A frame is not understood.
    #[error("the frame at offset {at}: {source}")]
    Frame {
        /// Where it starts.
        at: u64,
        /// Why.
        source: JournalError,
    },
    /// The snapshot is not understood.
    #[error("the snapshot at offset {at}: {source}")]
    Snapshot {
        /// Whose state it holds.
        at: u64,
        /// Why.
        source: JournalError,
    },
    /// The snapshot cannot be read to its end.
    #[error("reading a snapshot: {0}")]
    Read(io::Error),
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(io::Error),
}

/// The state and what was found.
#[derive(Debug)]
pub(super) struct State {
    pub(super) partition: Partition,
    /// The latest time in the log.
    pub(super) time: Millis,
    /// Length of the snapshot that was read.
    pub(super) snapshot_bytes: u64,
    pub(super) found: Recovered,
}

/// Rebuilds the state.
pub(super) fn recover(log: &dyn Log, config: Config) -> Result<State, RecoveryError> {
    let mut state = State {
        partition: Partition::new(config),
        time: 0,
        snapshot_bytes: 0,
        found: Recovered::default(),
    };
    let mut decoder = Decoder::default();
    let mut from = 0;
    if let Some((at, bytes)) = log.load_snapshot()? {
        state.snapshot(&mut decoder, at, bytes)?;
        from = at;
    }
    for frame in log.frames(from)? {
        let frame = frame?;
        let records = decoder.frame(&frame.body, frame.offset + FRAME_HEADER_LEN);
        let records = records.map_err(|source| RecoveryError::Frame {
            at: frame.offset,
            source,
        })?;
        state.found.frames += 1;
        state.found.records += state.replay(records);
    }
    Ok(state)
}

impl State {
    fn replay(&mut self, (time, records): (Millis, Vec<plait_broker_core::record::Record>)) -> u64 {
        self.time = self.time.max(time);
        let count = records.len() as u64;
        for record in records {
            self.partition.replay(record, time);
        }
        count
    }

    fn snapshot(
        &mut self,
        decoder: &mut Decoder,
        at: u64,
        mut bytes: Box<dyn Read + Send>,
    ) -> Result<(), RecoveryError> {
        while let Some(chunk) = next_chunk(&mut *bytes).map_err(RecoveryError::Read)? {
            self.snapshot_bytes += chunk.len() as u64;
            let records = decoder.chunk(&chunk);
            let records = records.map_err(|source| RecoveryError::Snapshot { at, source })?;
            self.found.snapshot_records += self.replay(records);
        }
        Ok(())
    }
}

fn next_chunk(bytes: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    let mut got = 0;
    while got < len.len() {
        match bytes.read(&mut len[got..])? {
            0 if got == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => got += read,
        }
    }
    let len = u32::from_le_bytes(len) as usize;
    let mut chunk = Vec::new();
    // Grows with what is there, so a length that lies costs no memory.
    bytes.take(len as u64).read_to_end(&mut chunk)?;
    if chunk.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(chunk))
}
