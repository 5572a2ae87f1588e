//! Payloads that only the log has.

use std::sync::Arc;

use bytes::Bytes;
use plait_broker_core::record::Blob;
use plait_broker_log::LogReader;
use tonic::Status;

/// Brings the payloads that are not in memory, all of them in one go on a thread that may block.
pub(super) async fn load<'a>(
    reader: &Arc<dyn LogReader>,
    blobs: impl Iterator<Item = &'a mut Blob>,
) -> Result<(), Status> {
    let mut missing: Vec<&mut Blob> = blobs
        .filter(|blob| blob.len > 0 && blob.bytes.is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted: Option<Vec<_>> = missing
        .iter()
        .map(|b| Some((b.at?, b.len as usize)))
        .collect();
    let wanted = wanted.ok_or_else(|| lost("it is nowhere"))?;
    let reader = Arc::clone(reader);
    let read = move || -> Result<Vec<Bytes>, _> {
        wanted
            .into_iter()
            .map(|(at, len)| reader.read(at, len))
            .collect()
    };
    let read = tokio::task::spawn_blocking(read)
        .await
        .map_err(lost)?
        .map_err(lost)?;
    for (blob, bytes) in missing.iter_mut().zip(read) {
        blob.bytes = Some(bytes);
    }
    Ok(())
}

/// The bytes of a blob that was loaded.
pub(super) fn bytes(blob: Blob) -> Bytes {
    blob.bytes.unwrap_or_default()
}

fn lost(error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "a payload cannot be read");
    Status::data_loss(format!("a payload cannot be read from the log: {error}"))
}
