//! From the log to the state: the newest snapshot, then the frames after it.

use std::io::{self, Read};

use plait_broker_core::ids::Millis;
use plait_broker_core::{Config, Partition};
use plait_broker_log::format::{segment_name, snapshot_name};
use plait_broker_log::{Archive, FRAME_HEADER_LEN, Log, LogError, Offset};

use super::Recovered;
use crate::journal::{Decoder, JournalError};

/// Why the state cannot be rebuilt. Nothing was changed, unless the claim itself failed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log cannot be read, or not be claimed.
    #[error("opening the log: {0}")]
    Log(#[from] LogError),
    /// A frame is not understood.
    #[error("{file}, the frame at offset {at}: {source}")]
    Frame {
        /// The segment's file.
        file: String,
        /// Where it starts.
        at: u64,
        /// Why.
        source: JournalError,
    },
    /// The snapshot is not understood.
    #[error("{file}: {source}")]
    Snapshot {
        /// Its file.
        file: String,
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
pub struct State {
    /// The state machine, before [`Partition::recovered`].
    pub partition: Partition,
    /// The latest time in the log.
    pub time: Millis,
    /// Length of the snapshot that was read.
    pub snapshot_bytes: u64,
    /// What was read.
    pub found: Recovered,
}

/// Rebuilds the state from the newest snapshot and the frames after it. `seed` keys its tables.
pub fn recover(log: &dyn Log, config: Config, seed: u64) -> Result<State, RecoveryError> {
    let mut state = State {
        partition: Partition::seeded(config, seed),
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
            file: segment_of(log, frame.offset),
            at: frame.offset,
            source,
        })?;
        state.found.frames += 1;
        state.found.records += state.replay(records);
    }
    Ok(state)
}

fn segment_of(log: &dyn Log, at: Offset) -> String {
    let segments = log.segments();
    let segment = segments.iter().rev().find(|segment| segment.base <= at);
    segment_name(segment.map_or(0, |segment| segment.base))
}

/// Looks at every living archive file, and names those that nothing refers to, which may go: an owner was gone before
/// they counted, or before it removed them. One that is damaged or missing is told of and does not stop the start, as a
/// damaged payload does not: what it holds is over, and whoever asks for it hears DATA_LOSS. Changes nothing.
pub fn check_archives(
    files: &dyn Archive,
    partition: &Partition,
) -> Result<Vec<u64>, RecoveryError> {
    let living = partition.archives();
    let is_living = |number: &u64| {
        let found = living.binary_search_by_key(number, |(archive, ..)| archive.0);
        found.is_ok()
    };
    let mut stale = files.list()?;
    stale.retain(|number| !is_living(number));
    for (archive, first, last) in &living {
        match files.open(archive.0) {
            Ok(_) => {}
            Err(error @ LogError::FutureFormat { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, %first, %last, "finished tasks are lost: an archive file is unreadable");
            }
        }
    }
    Ok(stale)
}

/// Makes the log this owner's, and removes the archive files that [`check_archives`] named. All that comes before only
/// reads, so a directory that is not understood is left as it is.
pub fn claim(log: &mut dyn Log, stale: &[u64]) -> Result<(), RecoveryError> {
    log.claim()?;
    if !stale.is_empty() {
        tracing::info!(
            files = stale.len(),
            "archive files without tasks are removed"
        );
        log.archive().remove(stale)?;
    }
    Ok(())
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
            let records = records.map_err(|source| RecoveryError::Snapshot {
                file: snapshot_name(at),
                source,
            })?;
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
