//! Payloads that only the log has. What is served was proven by its checksum; what cannot be is said to be lost.

use std::sync::Arc;

use bytes::Bytes;
use plait_broker_core::record::Blob;
use tonic::Status;

use crate::partition::Handle;

/// Brings the payloads that are not in memory, all of them in one go on a thread that may block. One that is not what
/// was written stays without bytes: see [`bytes`].
pub(super) async fn load<'a>(
    partition: &Handle,
    blobs: impl Iterator<Item = &'a mut Blob>,
) -> Result<(), Status> {
    let missing = blobs.filter(|blob| is_lost(blob));
    let (mut missing, wanted): (Vec<&mut Blob>, Vec<_>) = missing
        .filter_map(|blob| {
            let wanted = (blob.at?, blob.len as usize);
            Some((blob, wanted))
        })
        .unzip();
    if missing.is_empty() {
        return Ok(());
    }
    let read = partition.payloads(wanted).await;
    let read = read.ok_or_else(|| Status::internal("reading payloads was given up"))?;
    let mut told = None;
    for (blob, found) in missing.iter_mut().zip(read) {
        match found {
            Ok(bytes) => blob.bytes = Some(bytes),
            // All payloads of a frame share one error, which says file and position.
            Err(error) if told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &error)) => {}
            Err(error) => {
                tracing::error!(offset = blob.at, len = blob.len, %error, "a payload is lost");
                told = Some(error);
            }
        }
    }
    Ok(())
}

/// Whether a blob that was loaded has no bytes to serve.
pub(super) fn is_lost(blob: &Blob) -> bool {
    blob.len > 0 && blob.bytes.is_none()
}

/// The bytes of a blob that was loaded; none if they are lost.
pub(super) fn bytes(blob: Blob) -> Option<Bytes> {
    match blob.bytes {
        None if blob.len > 0 => None,
        bytes => Some(bytes.unwrap_or_default()),
    }
}
