//! Rare facts of a submission, checked and encoded.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::plait::log::v1::Envelope;
use plait::pb::v1 as pb;
use plait_broker_core::command::SubmitOptions;
use plait_broker_core::ids::{TaskId, Token};
use prost::Message;

use super::{flag, times};
use crate::limits::Limits;
use crate::status::{Refused, invalid, too_large};

/// What the options of a task say.
#[derive(Clone, Default)]
pub(super) struct Options {
    /// None when they say nothing.
    pub(super) more: Option<Box<SubmitOptions>>,
    /// For tasks that the column of limit keys says nothing of.
    pub(super) limit_key: Option<Arc<str>>,
}

/// Checks the options of a task.
pub(super) fn checked(mut options: pb::TaskOptions, limits: &Limits) -> Result<Options, Refused> {
    let text = std::mem::take(&mut options.limit_key);
    let limit_key = key("options.limit_key", &text, limits)?;
    let more = if options == pb::TaskOptions::default() {
        None
    } else {
        Some(Box::new(more(options, limits)?))
    };
    Ok(Options { more, limit_key })
}

fn more(mut options: pb::TaskOptions, limits: &Limits) -> Result<SubmitOptions, Refused> {
    let delay = options
        .delay
        .as_ref()
        .map(|d| times::millis("options.delay", d))
        .transpose()?;
    let deadline = options
        .deadline
        .as_ref()
        .map(|d| times::millis("options.deadline", d))
        .transpose()?;
    let parent = options.parent.as_mut();
    let flags = parent.map_or_else(Vec::new, |parent| std::mem::take(&mut parent.flags));
    Ok(SubmitOptions {
        delay_ms: delay.unwrap_or(0),
        deadline_ms: deadline,
        priority: options.priority.map(priority).transpose()?,
        envelope: envelope(options.metadata, limits)?,
        flags: flag::readings(flags)?,
        parent: options
            .parent
            .map(|parent| flow_parent(parent, limits))
            .transpose()?,
    })
}

fn priority(priority: i32) -> Result<u8, Refused> {
    let checked = u8::try_from(priority)
        .ok()
        .filter(|priority| *priority <= 9);
    checked.ok_or_else(|| invalid("options.priority", format!("{priority} is not 0 to 9")))
}

/// A key; empty text means none.
pub(super) fn key(field: &str, text: &str, limits: &Limits) -> Result<Option<Arc<str>>, Refused> {
    match text.len() {
        0 => Ok(None),
        len if len > limits.key_bytes_max => Err(too_large(field, len, limits.key_bytes_max)),
        _ => Ok(Some(Arc::from(text))),
    }
}

fn flow_parent(
    parent: pb::FlowParent,
    limits: &Limits,
) -> Result<(TaskId, Token, Option<Arc<str>>), Refused> {
    if parent.task == 0 {
        return Err(invalid("options.parent.task", "must name a task"));
    }
    let child_key = key("options.parent.child_key", &parent.child_key, limits)?;
    Ok((TaskId(parent.task), Token(parent.token), child_key))
}

/// Metadata as the log keeps it.
pub(super) fn envelope(metadata: Vec<pb::Metadatum>, limits: &Limits) -> Result<Bytes, Refused> {
    if metadata.is_empty() {
        return Ok(Bytes::new());
    }
    let size = metadata
        .iter()
        .map(|entry| entry.key.len() + entry.value.len())
        .sum();
    if size > limits.metadata_bytes_max {
        return Err(too_large(
            "options.metadata",
            size,
            limits.metadata_bytes_max,
        ));
    }
    metadata.iter().try_for_each(check_entry)?;
    Ok(Envelope { metadata }.encode_to_vec().into())
}

fn check_entry(entry: &pb::Metadatum) -> Result<(), Refused> {
    let field = || format!("options.metadata[{:?}]", entry.key);
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if entry.key.is_empty() || !entry.key.bytes().all(legal) {
        return Err(invalid(
            field(),
            "a key is one or more of a-z, 0-9, '-', '_' and '.'",
        ));
    }
    if entry.key.starts_with("grpc-") || entry.key.starts_with("plait-") {
        return Err(invalid(
            field(),
            "keys that begin with grpc- or plait- are reserved",
        ));
    }
    let printable = |byte: &u8| matches!(byte, b' '..=b'~');
    if !entry.key.ends_with("-bin") && !entry.value.iter().all(printable) {
        return Err(invalid(
            field(),
            "a text value is printable ASCII; use a -bin key for bytes",
        ));
    }
    Ok(())
}

/// The metadata of an envelope.
pub(super) fn metadata(envelope: &Bytes) -> Vec<pb::Metadatum> {
    if envelope.is_empty() {
        return Vec::new();
    }
    // What cannot be decoded was written by nobody: the log's checksums would have told.
    Envelope::decode(envelope.clone())
        .map(|envelope| envelope.metadata)
        .unwrap_or_default()
}
