//! Messages to facts. Payloads stay in the log: what is rebuilt knows only where they are.

use std::collections::HashSet;
use std::sync::Arc;

use plait::pb::plait::log::v1::{self as pb, record::Fact};
use plait_broker_core::effect::TaskState;
use plait_broker_core::ids::{Millis, Offset, SessionId, TaskId, Token};
use plait_broker_core::record::{
    Acceptance, ChildKey, ExpiryCause, Failure, NewTask, Reason, Record, ReturnCause, Start,
};
use prost::Message;

use super::columns::{Collapsed, undelta};
use super::submitted::{Area, SubmittedColumns};
use super::{JournalError, VERSION, archives, image, payload_area, refusal, split_head};
use crate::states;

/// Rebuilds facts from frames and snapshot chunks. Names that occur again and again (methods,
/// workers) are shared between all facts of one decoder.
#[derive(Debug, Default)]
pub struct Decoder {
    names: HashSet<Arc<str>>,
}

impl Decoder {
    /// The time and the facts of the frame whose body starts at `body_at`.
    pub fn frame(
        &mut self,
        body: &[u8],
        body_at: Offset,
    ) -> Result<(Millis, Vec<Record>), JournalError> {
        let (meta, _) = split_head(body)?;
        let mut area = Area {
            at: payload_area(body_at, meta),
            end: body_at + body.len() as u64,
            time: 0,
        };
        let decoded = self.meta(meta, &mut area)?;
        if area.at != area.end {
            return Err(JournalError::Payloads {
                end: area.at,
                len: area.end,
            });
        }
        Ok(decoded)
    }

    /// The time and the facts of one chunk of a snapshot, its length field taken off.
    pub fn chunk(&mut self, meta: &[u8]) -> Result<(Millis, Vec<Record>), JournalError> {
        self.meta(
            meta,
            &mut Area {
                at: 0,
                end: 0,
                time: 0,
            },
        )
    }

    fn meta(
        &mut self,
        meta: &[u8],
        area: &mut Area,
    ) -> Result<(Millis, Vec<Record>), JournalError> {
        check_version(meta)?;
        // From a slice, so that bytes fields are copies and nothing pins the reader's buffer.
        let meta = pb::FrameMeta::decode(meta)?;
        area.time = meta.time_ms;
        let facts = meta
            .records
            .into_iter()
            .map(|record| self.record(record, area));
        Ok((meta.time_ms, facts.collect::<Result<_, _>>()?))
    }

    pub(super) fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(name) = self.names.get(text) {
            return Arc::clone(name);
        }
        let name: Arc<str> = Arc::from(text);
        self.names.insert(Arc::clone(&name));
        name
    }

    fn record(&mut self, record: pb::Record, area: &mut Area) -> Result<Record, JournalError> {
        Ok(
            match record.fact.ok_or(JournalError::Unknown { field: "kind" })? {
                Fact::Submitted(fact) => self.submitted(&fact, area)?,
                Fact::Started(fact) => self.started(&fact)?,
                Fact::Succeeded(fact) => succeeded(&fact, area)?,
                Fact::Retried(fact) => Record::Retried {
                    task: TaskId(fact.task),
                    failure: failure(fact.failure)?,
                    ready_at: area.time_after(fact.ready_after_ms),
                    backoff_step: fact.backoff_step,
                },
                Fact::Redriven(fact) => redriven(&fact, area)?,
                Fact::PoliciesApplied(fact) => applied(&fact)?,
                Fact::Counters(counters) => Record::Image(image::counters(&counters)),
                Fact::TaskImages(images) => Record::Image(image::tasks(self, &images)?),
                Fact::SessionImage(session) => Record::Image(image::session(&session)?),
                Fact::RateImage(image) => Record::Image(image::rate(&image)?),
                Fact::ArchiveImages(images) => {
                    Record::Image(archives::decode_images(self, &images)?)
                }
                archive @ (Fact::Archived(_) | Fact::ArchivesDropped(_) | Fact::Restored(_)) => {
                    archives::decode(self, archive)?
                }
                other => plain(other)?,
            },
        )
    }

    fn submitted(&mut self, fact: &pb::Submitted, area: &mut Area) -> Result<Record, JournalError> {
        let count = fact.task_deltas.len();
        let columns = SubmittedColumns::new(fact, count)?;
        let methods: Vec<Arc<str>> = fact.methods.iter().map(|m| self.name(m)).collect();
        let mut tasks = Vec::with_capacity(count);
        for (index, id) in undelta(&fact.task_deltas).enumerate() {
            let method = methods.get(*columns.method.get(index) as usize);
            let method = method.ok_or(JournalError::Unknown {
                field: "method_index",
            })?;
            tasks.push(columns.task(index, TaskId(id), Arc::clone(method), area)?);
        }
        for entry in &fact.children {
            let task = tasks.get_mut(entry.index as usize);
            let task = task.ok_or(JournalError::Unknown {
                field: "child index",
            })?;
            child(task, entry.child.as_ref())?;
        }
        let acceptance = match &fact.acceptance {
            Some(acceptance) => acceptance_of(acceptance)?,
            None => Acceptance {
                tasks: tasks.iter().map(|task| task.id.0).collect(),
                ..Acceptance::default()
            },
        };
        let session = match fact.session.len() {
            0 => None,
            _ => Some((session_id(&fact.session)?, fact.sequence)),
        };
        Ok(Record::Submitted {
            session,
            acceptance,
            tasks,
        })
    }

    fn started(&mut self, fact: &pb::Started) -> Result<Record, JournalError> {
        let count = fact.task_deltas.len();
        let found = fact.token_deltas.len();
        if found != count {
            return Err(JournalError::Column {
                name: "token_deltas",
                found,
                count,
            });
        }
        let attempts = Collapsed::new("attempts", &fact.attempts, count, 1)?;
        let pairs = undelta(&fact.task_deltas).zip(undelta(&fact.token_deltas));
        let start = |(index, (task, token))| Start {
            task: TaskId(task),
            token: Token(token),
            attempt: *attempts.get(index),
        };
        let starts = pairs.enumerate().map(start).collect();
        Ok(Record::Started {
            worker: self.name(&fact.worker),
            starts,
        })
    }
}

/// The version is the first field of the first message, so it is known before anything else is.
fn check_version(meta: &[u8]) -> Result<(), JournalError> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Version {
        #[prost(uint32, tag = "1")]
        version: u32,
    }
    match Version::decode(meta)?.version {
        0 => Err(JournalError::Unknown { field: "version" }),
        found if found > VERSION => Err(JournalError::FutureVersion { found }),
        _ => Ok(()),
    }
}

fn succeeded(fact: &pb::Succeeded, area: &mut Area) -> Result<Record, JournalError> {
    let count = fact.task_deltas.len();
    let lens = Collapsed::new("response_lens", &fact.response_lens, count, 0)?;
    let task = |(index, task)| Ok((TaskId(task), area.take(*lens.get(index))?));
    let tasks = undelta(&fact.task_deltas).enumerate().map(task);
    Ok(Record::Succeeded {
        tasks: tasks.collect::<Result<_, JournalError>>()?,
    })
}

fn redriven(fact: &pb::Redriven, area: &Area) -> Result<Record, JournalError> {
    let count = fact.task_deltas.len();
    let after = Collapsed::new("expire_after_ms", &fact.expire_after_ms, count, 0)?;
    let task = |(index, task)| (TaskId(task), area.time_after(*after.get(index)));
    Ok(Record::Redriven {
        tasks: undelta(&fact.task_deltas).enumerate().map(task).collect(),
    })
}

fn applied(fact: &pb::PoliciesApplied) -> Result<Record, JournalError> {
    let policy =
        |policy| crate::policy::compiled(policy).ok_or(JournalError::Unknown { field: "policy" });
    Ok(Record::PoliciesApplied {
        policies: fact.policies.iter().map(policy).collect::<Result<_, _>>()?,
    })
}

/// The records that need neither the time nor payloads.
fn plain(fact: Fact) -> Result<Record, JournalError> {
    Ok(match fact {
        Fact::Returned(fact) => Record::Returned {
            tasks: ids(&fact.task_deltas),
            cause: return_cause(fact.cause)?,
        },
        Fact::Suspended(fact) => Record::Suspended {
            tasks: ids(&fact.task_deltas),
        },
        Fact::Failed(fact) => Record::Failed {
            task: TaskId(fact.task),
            failure: failure(fact.failure)?,
            dead_letter: fact.dead_letter,
        },
        Fact::Cancelled(fact) => Record::Cancelled {
            task: TaskId(fact.task),
            reason: fact.reason.into(),
        },
        Fact::Expired(fact) => Record::Expired {
            tasks: ids(&fact.task_deltas),
            cause: expiry_cause(fact.cause)?,
        },
        Fact::Dropped(fact) => Record::Dropped {
            tasks: ids(&fact.task_deltas),
        },
        Fact::SessionsDropped(fact) => Record::SessionsDropped {
            sessions: fact
                .sessions
                .iter()
                .map(|id| session_id(id))
                .collect::<Result<_, _>>()?,
        },
        Fact::QueuePaused(fact) => Record::QueuePaused {
            queue: fact.queue.into(),
            reason: fact.reason.into(),
        },
        Fact::QueueResumed(fact) => Record::QueueResumed {
            queue: fact.queue.into(),
        },
        Fact::EntryPut(fact) => Record::KvPut {
            key: fact.key.into(),
            value: fact.value,
            version: fact.version,
        },
        Fact::EntryDeleted(fact) => Record::KvDeleted {
            key: fact.key.into(),
        },
        _ => return Err(JournalError::Unknown { field: "kind" }),
    })
}

fn ids(deltas: &[i64]) -> Vec<TaskId> {
    undelta(deltas).map(TaskId).collect()
}

pub(super) fn key(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| Arc::from(text))
}

pub(super) fn priority(priority: u32) -> Result<u8, JournalError> {
    u8::try_from(priority).map_err(|_| JournalError::Unknown { field: "priority" })
}

pub(super) fn state(state: i32) -> Result<TaskState, JournalError> {
    states::from_wire(state).ok_or(JournalError::Unknown { field: "state" })
}

pub(super) fn session_id(bytes: &[u8]) -> Result<SessionId, JournalError> {
    bytes
        .try_into()
        .map_err(|_| JournalError::Unknown { field: "session" })
}

pub(super) fn digest(bytes: &[u8]) -> Result<u128, JournalError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| JournalError::Unknown { field: "digest" })?;
    Ok(u128::from_be_bytes(bytes))
}

/// Of which flow a task is a child, if it is one.
pub(super) fn child(task: &mut NewTask, child: Option<&pb::Child>) -> Result<(), JournalError> {
    let Some(child) = child else {
        return Ok(());
    };
    let key = match &child.name {
        Some(name) => ChildKey::Named(Arc::from(name.as_str())),
        None => ChildKey::Nth(digest(&child.digest)?, child.nth),
    };
    task.parent = Some((TaskId(child.parent), key));
    task.flags = child.flags.clone();
    Ok(())
}

pub(super) fn acceptance_of(acceptance: &pb::Acceptance) -> Result<Acceptance, JournalError> {
    Ok(Acceptance {
        tasks: undelta(&acceptance.task_deltas).collect(),
        refusals: acceptance
            .refusals
            .iter()
            .map(refusal::decode)
            .collect::<Result<_, _>>()?,
        existing: acceptance.existing.clone(),
    })
}

pub(super) fn failure(failure: Option<pb::Failure>) -> Result<Failure, JournalError> {
    let failure = failure.unwrap_or_default();
    Ok(Failure {
        reason: failure_reason(failure.reason)?,
        code: failure.code,
        message: failure.message.into(),
        details: failure.details,
        trailers: failure.trailers,
    })
}

fn failure_reason(reason: i32) -> Result<Option<Reason>, JournalError> {
    if reason == 0 {
        return Ok(None);
    }
    let known = u8::try_from(reason).ok().and_then(Reason::from_number);
    known.map(Some).ok_or(JournalError::Unknown {
        field: "failure reason",
    })
}

fn return_cause(cause: i32) -> Result<ReturnCause, JournalError> {
    match pb::ReturnCause::try_from(cause) {
        Ok(pb::ReturnCause::HandedBack) => Ok(ReturnCause::HandedBack),
        Ok(pb::ReturnCause::BrokerRestarted) => Ok(ReturnCause::BrokerRestarted),
        Ok(pb::ReturnCause::ChildEnded) => Ok(ReturnCause::ChildEnded),
        _ => Err(JournalError::Unknown {
            field: "return cause",
        }),
    }
}

fn expiry_cause(cause: i32) -> Result<ExpiryCause, JournalError> {
    match pb::ExpiryCause::try_from(cause) {
        Ok(pb::ExpiryCause::BeforeStart) => Ok(ExpiryCause::BeforeStart),
        Ok(pb::ExpiryCause::WhileRunning) => Ok(ExpiryCause::WhileRunning),
        _ => Err(JournalError::Unknown {
            field: "expiry cause",
        }),
    }
}
