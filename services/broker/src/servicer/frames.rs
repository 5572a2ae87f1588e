//! Frames of submissions: checked, and turned into commands.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use plait::pb::v1 as pb;
use plait_broker_core::command::SubmitTask;
use plait_broker_core::policy::method_of;
use xxhash_rust::xxh3::Xxh3Default;

use super::options::{self, Options};
use super::validate::{column, route};
use crate::limits::Limits;
use crate::status::{Refused, invalid, too_large};

/// Method paths that a stream used, so that each is kept in memory once.
#[derive(Debug, Default)]
pub(super) struct Methods {
    known: HashMap<String, Arc<str>>,
}

/// Methods that one stream may be remembered for; then the memory begins anew.
const METHODS_MAX: usize = 1024;

impl Methods {
    fn intern(&mut self, method: String) -> Result<Arc<str>, Refused> {
        if let Some(known) = self.known.get(&method) {
            return Ok(Arc::clone(known));
        }
        route("tasks.methods", &method)?;
        if self.known.len() >= METHODS_MAX {
            self.known.clear();
        }
        let shared: Arc<str> = Arc::from(method.as_str());
        self.known.insert(method, Arc::clone(&shared));
        Ok(shared)
    }
}

/// A frame that can be submitted, at least in part.
#[derive(Debug, Default)]
pub(super) struct CheckedFrame {
    /// The sound tasks.
    pub(super) tasks: Vec<SubmitTask>,
    /// Where each of them stood in the frame; empty when all were sound.
    pub(super) positions: Vec<u32>,
    /// The others.
    pub(super) refused: Vec<(u32, Refused)>,
    /// Bytes of the sound tasks.
    pub(super) bytes: usize,
}

/// Checks a frame. An error concerns the frame as a whole: its columns do not fit.
pub(super) fn check(
    frame: pb::SubmitFrame,
    methods: &mut Methods,
    limits: &Limits,
) -> Result<CheckedFrame, Refused> {
    let count = frame.payloads.len();
    if count > limits.frame_tasks_max {
        let most = limits.frame_tasks_max;
        return Err(invalid(
            "tasks.payloads",
            format!("{count} tasks; a frame has at most {most}"),
        ));
    }
    column("tasks.method_index", frame.method_index.len(), count)?;
    column(
        "tasks.idempotency_keys",
        frame.idempotency_keys.len(),
        count,
    )?;
    column("tasks.ordering_keys", frame.ordering_keys.len(), count)?;
    column("tasks.limit_keys", frame.limit_keys.len(), count)?;
    let paths = frame
        .methods
        .into_iter()
        .map(|method| methods.intern(method));
    let paths = paths.collect();
    let common = frame.common.unwrap_or_default();
    let mut rows = Rows {
        paths,
        method_index: frame.method_index,
        idempotency_keys: frame.idempotency_keys,
        ordering_keys: frame.ordering_keys,
        limit_keys: frame.limit_keys,
        common: options::checked(common, limits),
        own: own_options(frame.options, count)?.into_iter().peekable(),
        limits,
    };
    let mut out = CheckedFrame {
        tasks: Vec::with_capacity(count),
        ..CheckedFrame::default()
    };
    let mut positions = Vec::new();
    for (index, payload) in frame.payloads.into_iter().enumerate() {
        let method = rows.method(index)?;
        match method.and_then(|method| rows.task(index, method, payload)) {
            Ok(task) => {
                out.bytes += size(&task);
                out.tasks.push(task);
                positions.push(index as u32);
            }
            Err(refused) => out.refused.push((index as u32, refused)),
        }
    }
    if !out.refused.is_empty() {
        out.positions = positions;
    }
    Ok(out)
}

/// The options that single tasks have: in ascending order, each for a task of the frame.
fn own_options(
    options: Vec<pb::IndexedOptions>,
    count: usize,
) -> Result<Vec<pb::IndexedOptions>, Refused> {
    let ascending = options.is_sorted_by(|a, b| a.index < b.index);
    let inside = options
        .last()
        .is_none_or(|last| (last.index as usize) < count);
    if ascending && inside {
        return Ok(options);
    }
    Err(invalid(
        "tasks.options",
        "indices must ascend and name tasks of the frame",
    ))
}

/// The columns of a frame. What is wrong with a method or with the common options is wrong with the tasks that use it,
/// and with no other task of the frame, which may be another caller's.
struct Rows<'a> {
    paths: Vec<Result<Arc<str>, Refused>>,
    method_index: Vec<u32>,
    idempotency_keys: Vec<String>,
    ordering_keys: Vec<String>,
    limit_keys: Vec<String>,
    common: Result<Options, Refused>,
    own: std::iter::Peekable<std::vec::IntoIter<pb::IndexedOptions>>,
    limits: &'a Limits,
}

impl Rows<'_> {
    fn method(&self, index: usize) -> Result<Result<Arc<str>, Refused>, Refused> {
        let method = self.method_index.get(index).copied().unwrap_or(0) as usize;
        self.paths.get(method).cloned().ok_or_else(|| {
            let field = format!("tasks.method_index[{index}]");
            invalid(field, format!("{method} is not an index of methods"))
        })
    }

    fn task(
        &mut self,
        index: usize,
        method: Arc<str>,
        request: Bytes,
    ) -> Result<SubmitTask, Refused> {
        let Options { more, limit_key } = match self.own.next_if(|own| own.index as usize == index)
        {
            Some(own) => options::checked(own.options.unwrap_or_default(), self.limits)?,
            None => self.common.clone()?,
        };
        if request.len() > self.limits.payload_bytes_max {
            let field = format!("tasks.payloads[{index}]");
            return Err(too_large(
                field,
                request.len(),
                self.limits.payload_bytes_max,
            ));
        }
        let key = |column: &'static str, keys: &[String]| match keys.get(index) {
            Some(key) => options::key(column, key, self.limits),
            None => Ok(None),
        };
        let idempotency_key = key("tasks.idempotency_keys", &self.idempotency_keys)?;
        let ordering_key = key("tasks.ordering_keys", &self.ordering_keys)?;
        let limit_key = key("tasks.limit_keys", &self.limit_keys)?.or(limit_key);
        let is_child = more
            .as_ref()
            .is_some_and(|options| options.parent.is_some());
        let digest = match idempotency_key.is_some() || is_child {
            true => digest(method_of(&method), &request),
            false => 0,
        };
        Ok(SubmitTask {
            method,
            request,
            digest,
            idempotency_key,
            ordering_key,
            limit_key,
            options: more,
        })
    }
}

/// What tells one request from another under the same key. It is part of the log, so it never changes. It guards
/// against mistakes, not against somebody who may submit anyway; so it is fast rather than cryptographic.
fn digest(method: &str, request: &[u8]) -> u128 {
    let mut hash = Xxh3Default::new();
    hash.update(&(method.len() as u64).to_le_bytes());
    hash.update(method.as_bytes());
    hash.update(request);
    hash.digest128()
}

fn size(task: &SubmitTask) -> usize {
    const FIXED: usize = 200;
    let key = |key: &Option<Arc<str>>| key.as_ref().map_or(0, |key| key.len());
    let options = task.options.as_ref().map_or(0, |options| {
        100 + options.envelope.len() + options.flags.len()
    });
    let keys = [&task.idempotency_key, &task.ordering_key, &task.limit_key];
    FIXED + task.request.len() + keys.into_iter().map(key).sum::<usize>() + options
}
