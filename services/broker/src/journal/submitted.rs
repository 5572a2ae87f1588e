//! Reading what every task of a frame has: its columns and its place in the payload area.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::plait::log::v1 as pb;
use plait_broker_core::ids::{Millis, Offset, TaskId};
use plait_broker_core::record::{Blob, NewTask};

use super::JournalError;
use super::columns::Collapsed;
use super::decode::{key, priority};

/// The payload area of a frame while its records are walked.
pub(super) struct Area {
    pub(super) at: Offset,
    pub(super) end: Offset,
    pub(super) time: Millis,
}

impl Area {
    pub(super) fn take(&mut self, len: u32) -> Result<Blob, JournalError> {
        if len == 0 {
            return Ok(Blob::default());
        }
        let at = self.at;
        self.at += u64::from(len);
        if self.at > self.end {
            return Err(JournalError::Payloads {
                end: self.at,
                len: self.end,
            });
        }
        Ok(Blob::stored(at, len))
    }

    pub(super) fn time_after(&self, after: i64) -> Millis {
        self.time.wrapping_add(after as u64)
    }
}

/// The columns of a Submitted record, checked.
pub(super) struct SubmittedColumns<'a> {
    pub(super) method: Collapsed<'a, u32>,
    priority: Collapsed<'a, u32>,
    start_after: Collapsed<'a, i64>,
    expire_after: Collapsed<'a, i64>,
    idempotency_key: Collapsed<'a, String>,
    ordering_key: Collapsed<'a, String>,
    limit_key: Collapsed<'a, String>,
    digest_high: Collapsed<'a, u64>,
    digest_low: Collapsed<'a, u64>,
    request_len: Collapsed<'a, u32>,
    envelope_len: Collapsed<'a, u32>,
}

impl<'a> SubmittedColumns<'a> {
    pub(super) fn new(fact: &'a pb::Submitted, n: usize) -> Result<Self, JournalError> {
        let none = String::new;
        let keys = &fact.idempotency_keys;
        Ok(Self {
            method: Collapsed::new("method_index", &fact.method_index, n, 0)?,
            priority: Collapsed::new("priorities", &fact.priorities, n, 0)?,
            start_after: Collapsed::new("start_after_ms", &fact.start_after_ms, n, 0)?,
            expire_after: Collapsed::new("expire_after_ms", &fact.expire_after_ms, n, 0)?,
            idempotency_key: Collapsed::new("idempotency_keys", keys, n, none())?,
            ordering_key: Collapsed::new("ordering_keys", &fact.ordering_keys, n, none())?,
            limit_key: Collapsed::new("limit_keys", &fact.limit_keys, n, none())?,
            digest_high: Collapsed::new("digests_high", &fact.digests_high, n, 0)?,
            digest_low: Collapsed::new("digests_low", &fact.digests_low, n, 0)?,
            request_len: Collapsed::new("request_lens", &fact.request_lens, n, 0)?,
            envelope_len: Collapsed::new("envelope_lens", &fact.envelope_lens, n, 0)?,
        })
    }

    pub(super) fn task(
        &self,
        index: usize,
        id: TaskId,
        method: Arc<str>,
        area: &mut Area,
    ) -> Result<NewTask, JournalError> {
        let (high, low) = (*self.digest_high.get(index), *self.digest_low.get(index));
        Ok(NewTask {
            id,
            method,
            priority: priority(*self.priority.get(index))?,
            start_at: area.time_after(*self.start_after.get(index)),
            expire_at: area.time_after(*self.expire_after.get(index)),
            idempotency_key: key(self.idempotency_key.get(index)),
            ordering_key: key(self.ordering_key.get(index)),
            limit_key: key(self.limit_key.get(index)),
            parent: None,
            flags: Bytes::new(),
            digest: u128::from(high) << 64 | u128::from(low),
            request: area.take(*self.request_len.get(index))?,
            envelope: area.take(*self.envelope_len.get(index))?,
        })
    }
}
