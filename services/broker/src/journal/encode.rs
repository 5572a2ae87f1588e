//! Facts to messages.

use bytes::Bytes;
use plait::pb::plait::log::v1::{self as pb, record::Fact};
use plait_broker_core::ids::{Millis, TaskId};
use plait_broker_core::policy::MethodPolicy;
use plait_broker_core::record::{
    Acceptance, Blob, ChildKey, ExpiryCause, Failure, NewTask, Record, ReturnCause, Start,
};

use super::columns::{collapse, column, deltas, keys};
use super::{JournalError, archives, image, refusal};

/// Turns records of one frame into messages and gathers their payloads.
#[derive(Debug)]
pub(super) struct Encoder {
    time: Millis,
    payloads: Vec<Bytes>,
    payload_bytes: u64,
}

impl Encoder {
    pub(super) fn new(time: Millis) -> Self {
        Self {
            time,
            payloads: Vec::new(),
            payload_bytes: 0,
        }
    }

    /// The payload area and its length.
    pub(super) fn into_payloads(self) -> (Vec<Bytes>, u64) {
        (self.payloads, self.payload_bytes)
    }

    pub(super) fn record(&mut self, record: Record) -> Result<pb::Record, JournalError> {
        let fact = match record {
            Record::Submitted {
                session,
                acceptance,
                tasks,
            } => Fact::Submitted(self.submitted(session, &acceptance, tasks)?),
            Record::Started { worker, starts } => Fact::Started(started(&worker, &starts)),
            Record::Succeeded { tasks } => Fact::Succeeded(self.succeeded(tasks)?),
            Record::Retried {
                task,
                failure: cause,
                ready_at,
                backoff_step,
            } => Fact::Retried(pb::Retried {
                task: task.0,
                failure: Some(failure(&cause)),
                ready_after_ms: self.after(ready_at),
                backoff_step,
            }),
            Record::Redriven { tasks } => Fact::Redriven(self.redriven(&tasks)),
            Record::PoliciesApplied { policies } => Fact::PoliciesApplied(applied(&policies)?),
            Record::Image(part) => image::encode(part)?,
            archive @ (Record::Archived { .. }
            | Record::ArchivesDropped { .. }
            | Record::Restored { .. }) => archives::encode(archive)?,
            other => plain(other)?,
        };
        Ok(pb::Record { fact: Some(fact) })
    }

    fn after(&self, at: Millis) -> i64 {
        at.wrapping_sub(self.time) as i64
    }

    fn payload(&mut self, blob: Blob) -> Result<u32, JournalError> {
        if blob.len == 0 {
            return Ok(0);
        }
        let bytes = blob.bytes.ok_or(JournalError::PayloadMissing)?;
        self.payload_bytes += bytes.len() as u64;
        self.payloads.push(bytes);
        Ok(blob.len)
    }

    fn submitted(
        &mut self,
        session: Option<([u8; 16], u64)>,
        acceptance: &Acceptance,
        tasks: Vec<NewTask>,
    ) -> Result<pb::Submitted, JournalError> {
        let (methods, method_index) = method_column(&tasks);
        let mut out = pb::Submitted {
            session: session.map_or_else(Bytes::new, |(id, _)| Bytes::copy_from_slice(&id)),
            sequence: session.map_or(0, |(_, sequence)| sequence),
            acceptance: (!is_plain(acceptance, &tasks)).then(|| acceptance_of(acceptance)),
            task_deltas: deltas(tasks.iter().map(|t| t.id.0)),
            methods,
            method_index,
            priorities: column(&tasks, &0, |t| u32::from(t.priority)),
            start_after_ms: column(&tasks, &0, |t| self.after(t.start_at)),
            expire_after_ms: column(&tasks, &0, |t| self.after(t.expire_at)),
            idempotency_keys: keys(&tasks, |t| t.idempotency_key.as_deref()),
            ordering_keys: keys(&tasks, |t| t.ordering_key.as_deref()),
            limit_keys: keys(&tasks, |t| t.limit_key.as_deref()),
            digests_high: column(&tasks, &0, |t| (t.digest >> 64) as u64),
            digests_low: column(&tasks, &0, |t| t.digest as u64),
            children: children(&tasks),
            request_lens: Vec::with_capacity(tasks.len()),
            envelope_lens: Vec::with_capacity(tasks.len()),
        };
        self.payloads.reserve(tasks.len());
        for task in tasks {
            out.request_lens.push(self.payload(task.request)?);
            out.envelope_lens.push(self.payload(task.envelope)?);
        }
        out.request_lens = collapse(out.request_lens, &0);
        out.envelope_lens = collapse(out.envelope_lens, &0);
        Ok(out)
    }

    fn succeeded(&mut self, tasks: Vec<(TaskId, Blob)>) -> Result<pb::Succeeded, JournalError> {
        let task_deltas = deltas(tasks.iter().map(|(task, _)| task.0));
        let lens = tasks
            .into_iter()
            .map(|(_, response)| self.payload(response));
        let lens = lens.collect::<Result<Vec<_>, _>>()?;
        Ok(pb::Succeeded {
            task_deltas,
            response_lens: collapse(lens, &0),
        })
    }

    fn redriven(&self, tasks: &[(TaskId, Millis)]) -> pb::Redriven {
        pb::Redriven {
            task_deltas: deltas(tasks.iter().map(|(task, _)| task.0)),
            expire_after_ms: column(tasks, &0, |(_, expire_at)| self.after(*expire_at)),
        }
    }
}

/// The records that need neither the time nor payloads.
fn plain(record: Record) -> Result<Fact, JournalError> {
    Ok(match record {
        Record::Returned { tasks, cause } => Fact::Returned(pb::Returned {
            task_deltas: ids(&tasks),
            cause: return_cause(cause).into(),
        }),
        Record::Suspended { tasks } => Fact::Suspended(pb::Suspended {
            task_deltas: ids(&tasks),
        }),
        Record::Failed {
            task,
            failure: cause,
            dead_letter,
        } => Fact::Failed(pb::Failed {
            task: task.0,
            failure: Some(failure(&cause)),
            dead_letter,
        }),
        Record::Cancelled { task, reason } => Fact::Cancelled(pb::Cancelled {
            task: task.0,
            reason: reason.to_string(),
        }),
        Record::Expired { tasks, cause } => Fact::Expired(pb::Expired {
            task_deltas: ids(&tasks),
            cause: expiry_cause(cause).into(),
        }),
        Record::Dropped { tasks } => Fact::Dropped(pb::Dropped {
            task_deltas: ids(&tasks),
        }),
        Record::SessionsDropped { sessions } => {
            let sessions = sessions
                .iter()
                .map(|id| Bytes::copy_from_slice(id))
                .collect();
            Fact::SessionsDropped(pb::SessionsDropped { sessions })
        }
        Record::QueuePaused { queue, reason } => Fact::QueuePaused(pb::QueuePaused {
            queue: queue.to_string(),
            reason: reason.to_string(),
        }),
        Record::QueueResumed { queue } => Fact::QueueResumed(pb::QueueResumed {
            queue: queue.to_string(),
        }),
        Record::KvPut {
            key,
            value,
            version,
        } => Fact::EntryPut(pb::EntryPut {
            key: key.to_string(),
            value,
            version,
        }),
        Record::KvDeleted { key } => Fact::EntryDeleted(pb::EntryDeleted {
            key: key.to_string(),
        }),
        _ => return Err(JournalError::Unknown { field: "kind" }),
    })
}

fn ids(tasks: &[TaskId]) -> Vec<i64> {
    deltas(tasks.iter().map(|task| task.0))
}

fn method_column(tasks: &[NewTask]) -> (Vec<String>, Vec<u32>) {
    let mut methods: Vec<&str> = Vec::new();
    let mut index = Vec::with_capacity(tasks.len());
    for task in tasks {
        let found = methods.iter().rposition(|method| **method == *task.method);
        let at = found.unwrap_or_else(|| {
            methods.push(&task.method);
            methods.len() - 1
        });
        index.push(at as u32);
    }
    (
        methods.into_iter().map(str::to_owned).collect(),
        collapse(index, &0),
    )
}

fn children(tasks: &[NewTask]) -> Vec<pb::IndexedChild> {
    let child = |(index, task): (usize, &NewTask)| {
        let child = child_of(task)?;
        Some(pb::IndexedChild {
            index: index as u32,
            child: Some(child),
        })
    };
    tasks.iter().enumerate().filter_map(child).collect()
}

pub(super) fn child_of(task: &NewTask) -> Option<pb::Child> {
    let (parent, key) = task.parent.as_ref()?;
    let (name, digest, nth) = match key {
        ChildKey::Named(name) => (Some(name.to_string()), Bytes::new(), 0),
        ChildKey::Nth(digest, nth) => (None, Bytes::copy_from_slice(&digest.to_be_bytes()), *nth),
    };
    Some(pb::Child {
        parent: parent.0,
        name,
        digest,
        nth,
        flags: task.flags.clone(),
    })
}

/// Whether the answer says no more than that every task was accepted in order.
fn is_plain(acceptance: &Acceptance, tasks: &[NewTask]) -> bool {
    acceptance.refusals.is_empty()
        && acceptance.existing.is_empty()
        && acceptance
            .tasks
            .iter()
            .eq(tasks.iter().map(|task| &task.id.0))
}

pub(super) fn acceptance_of(acceptance: &Acceptance) -> pb::Acceptance {
    pb::Acceptance {
        task_deltas: deltas(acceptance.tasks.iter().copied()),
        refusals: acceptance.refusals.iter().map(refusal::encode).collect(),
        existing: acceptance.existing.clone(),
    }
}

fn started(worker: &str, starts: &[Start]) -> pb::Started {
    pb::Started {
        worker: worker.to_owned(),
        task_deltas: deltas(starts.iter().map(|s| s.task.0)),
        token_deltas: deltas(starts.iter().map(|s| s.token.0)),
        attempts: column(starts, &1, |s| s.attempt),
    }
}

fn applied(policies: &[MethodPolicy]) -> Result<pb::PoliciesApplied, JournalError> {
    let policies = policies
        .iter()
        .map(crate::policy::source)
        .collect::<Result<_, _>>()?;
    Ok(pb::PoliciesApplied { policies })
}

pub(super) fn failure(failure: &Failure) -> pb::Failure {
    pb::Failure {
        code: failure.code,
        message: failure.message.to_string(),
        details: failure.details.clone(),
        trailers: failure.trailers.clone(),
        // The state machine's numbers are those of the format; a test compares them.
        reason: failure.reason.map_or(0, |reason| i32::from(reason as u8)),
    }
}

fn return_cause(cause: ReturnCause) -> pb::ReturnCause {
    match cause {
        ReturnCause::HandedBack => pb::ReturnCause::HandedBack,
        ReturnCause::BrokerRestarted => pb::ReturnCause::BrokerRestarted,
        ReturnCause::ChildEnded => pb::ReturnCause::ChildEnded,
    }
}

fn expiry_cause(cause: ExpiryCause) -> pb::ExpiryCause {
    match cause {
        ExpiryCause::BeforeStart => pb::ExpiryCause::BeforeStart,
        ExpiryCause::WhileRunning => pb::ExpiryCause::WhileRunning,
    }
}
