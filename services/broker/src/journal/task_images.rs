//! Tasks of a snapshot, in columns: a snapshot holds millions, and the partition stands still while they are encoded.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use plait::pb::plait::log::v1 as pb;
use plait_broker_core::effect::{self, TimelineEvent};
use plait_broker_core::ids::{TaskId, Token};
use plait_broker_core::image::TaskImage;
use plait_broker_core::record::{Blob, NewTask};

use super::JournalError;
use super::columns::{Collapsed, collapse, column, deltas, keys, undelta};
use super::decode::{self, Decoder};
use super::encode::{child_of, failure};
use crate::states;

/// Names that occur again and again, told once and then by number.
#[derive(Debug, Default)]
struct Table<'a> {
    names: Vec<&'a str>,
    numbers: HashMap<&'a str, u32>,
}

/// Names that are looked for one by one, by their address, before they are hashed. Mostly there are few, and equal
/// ones share their text.
const NEAR: usize = 16;

impl<'a> Table<'a> {
    fn number(&mut self, name: &'a str) -> u32 {
        let mut near = self.names.iter().take(NEAR);
        if let Some(number) = near.position(|known| std::ptr::eq(*known, name)) {
            return number as u32;
        }
        let next = self.names.len() as u32;
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.names.push(name);
        }
        number
    }

    /// 1 for the first name, 0 for none.
    fn optional(&mut self, name: Option<&'a str>) -> u32 {
        name.map_or(0, |name| self.number(name) + 1)
    }

    fn into_names(self) -> Vec<String> {
        self.names.into_iter().map(str::to_owned).collect()
    }
}

pub(super) fn encode(tasks: &[TaskImage]) -> Result<pb::TaskImages, JournalError> {
    let (mut methods, mut workers) = (Table::default(), Table::default());
    let method_index = tasks
        .iter()
        .map(|t| methods.number(&t.task.method))
        .collect();
    let worker_index = tasks
        .iter()
        .map(|t| workers.optional(t.worker.as_deref()))
        .collect();
    let after = |at: u64, image: &TaskImage| at.wrapping_sub(image.created_at) as i64;
    let mut out = pb::TaskImages {
        task_deltas: deltas(tasks.iter().map(|t| t.task.id.0)),
        method_index: collapse(method_index, &0),
        priorities: column(tasks, &0, |t| u32::from(t.task.priority)),
        create_deltas_ms: deltas(tasks.iter().map(|t| t.created_at)),
        start_after_ms: column(tasks, &0, |t| after(t.task.start_at, t)),
        expire_after_ms: column(tasks, &0, |t| after(t.task.expire_at, t)),
        idempotency_keys: keys(tasks, |t| t.task.idempotency_key.as_deref()),
        ordering_keys: keys(tasks, |t| t.task.ordering_key.as_deref()),
        limit_keys: keys(tasks, |t| t.task.limit_key.as_deref()),
        digests_high: column(tasks, &0, |t| (t.task.digest >> 64) as u64),
        digests_low: column(tasks, &0, |t| t.task.digest as u64),
        children: children(tasks),
        states: column(tasks, &0, |t| states::to_wire(t.state).into()),
        attempts: column(tasks, &0, |t| t.attempt),
        backoff_steps: column(tasks, &0, |t| t.backoff_step),
        token_deltas: deltas(tasks.iter().map(|t| t.token.0)),
        worker_index: collapse(worker_index, &0),
        key_until_ms: column(tasks, &0, |t| t.key_until),
        end_deltas_ms: deltas(tasks.iter().map(|t| t.ended_at)),
        requests: Some(stored(tasks, |t| &t.task.request)?),
        envelopes: Some(stored(tasks, |t| &t.task.envelope)?),
        responses: Some(stored(tasks, |t| &t.response)?),
        failures: failures(tasks),
        dead_letters: indices(tasks, |t| t.dead_letter),
        ..pb::TaskImages::default()
    };
    events(tasks, &mut workers, &mut out);
    (out.methods, out.workers) = (methods.into_names(), workers.into_names());
    Ok(out)
}

fn events<'a>(tasks: &'a [TaskImage], workers: &mut Table<'a>, out: &mut pb::TaskImages) {
    let mut causes = Table::default();
    let all: Vec<&TimelineEvent> = tasks.iter().flat_map(|task| &task.events).collect();
    let (mut cause_column, mut worker_column) = (Vec::new(), Vec::new());
    for event in &all {
        cause_column.push(causes.number(event.cause));
        worker_column.push(workers.optional(event.worker.as_deref()));
    }
    out.event_counts = column(tasks, &0, |t| t.events.len() as u32);
    out.event_deltas_ms = deltas(all.iter().map(|event| event.at));
    out.event_states = column(&all, &0, |event| states::to_wire(event.state).into());
    out.event_attempts = column(&all, &0, |event| event.attempt);
    out.event_causes = collapse(cause_column, &0);
    out.event_workers = collapse(worker_column, &0);
    out.causes = causes.into_names();
}

fn indices(tasks: &[TaskImage], is: impl Fn(&TaskImage) -> bool) -> Vec<u32> {
    let indexed = (0..).zip(tasks).filter(|(_, task)| is(task));
    indexed.map(|(index, _)| index).collect()
}

fn children(tasks: &[TaskImage]) -> Vec<pb::IndexedChild> {
    let child = |(index, image): (u32, &TaskImage)| {
        let child = Some(child_of(&image.task)?);
        Some(pb::IndexedChild { index, child })
    };
    (0..).zip(tasks).filter_map(child).collect()
}

fn failures(tasks: &[TaskImage]) -> Vec<pb::IndexedFailure> {
    let one = |(index, image): (u32, &TaskImage)| {
        let failure = Some(failure(image.failure.as_ref()?));
        Some(pb::IndexedFailure { index, failure })
    };
    (0..).zip(tasks).filter_map(one).collect()
}

/// Where the log has the blobs. One that is not in the log yet can be in no snapshot.
fn stored(
    tasks: &[TaskImage],
    blob: impl Fn(&TaskImage) -> &Blob,
) -> Result<pb::StoredBlobs, JournalError> {
    let mut last = 0;
    let mut offsets = Vec::with_capacity(tasks.len());
    for task in tasks {
        let blob = blob(task);
        if blob.len > 0 {
            last = blob.at.ok_or(JournalError::PayloadMissing)?;
        }
        offsets.push(last);
    }
    if last == 0 && tasks.iter().all(|task| blob(task).len == 0) {
        return Ok(pb::StoredBlobs::default());
    }
    Ok(pb::StoredBlobs {
        at_deltas: deltas(offsets),
        lens: column(tasks, &0, |task| blob(task).len),
    })
}

/// The columns of a chunk, checked, and the names that they point into.
struct Columns<'a> {
    images: &'a pb::TaskImages,
    methods: Vec<Arc<str>>,
    workers: Vec<Arc<str>>,
    method: Collapsed<'a, u32>,
    priority: Collapsed<'a, u32>,
    start_after: Collapsed<'a, i64>,
    expire_after: Collapsed<'a, i64>,
    idempotency_key: Collapsed<'a, String>,
    ordering_key: Collapsed<'a, String>,
    limit_key: Collapsed<'a, String>,
    digest_high: Collapsed<'a, u64>,
    digest_low: Collapsed<'a, u64>,
    state: Collapsed<'a, i32>,
    attempt: Collapsed<'a, u32>,
    backoff_step: Collapsed<'a, u32>,
    worker: Collapsed<'a, u32>,
    key_until: Collapsed<'a, u64>,
}

pub(super) fn decode(
    decoder: &mut Decoder,
    images: &pb::TaskImages,
) -> Result<Vec<TaskImage>, JournalError> {
    let n = images.task_deltas.len();
    let columns = Columns::new(decoder, images, n)?;
    let requests = places("requests", images.requests.as_ref(), n)?;
    let envelopes = places("envelopes", images.envelopes.as_ref(), n)?;
    let responses = places("responses", images.responses.as_ref(), n)?;
    let created = full("create_deltas_ms", &images.create_deltas_ms, n)?;
    let ended = full("end_deltas_ms", &images.end_deltas_ms, n)?;
    let tokens = full("token_deltas", &images.token_deltas, n)?;
    let mut events = columns.events(n)?.into_iter();
    let mut out = Vec::with_capacity(n);
    for (index, id) in undelta(&images.task_deltas).enumerate() {
        let mut task = columns.task(index, TaskId(id), created[index])?;
        task.task.request = requests[index].clone();
        task.task.envelope = envelopes[index].clone();
        task.response = responses[index].clone();
        task.token = Token(tokens[index]);
        task.ended_at = ended[index];
        task.events = events.next().unwrap_or_default();
        out.push(task);
    }
    columns.rare(&mut out)?;
    Ok(out)
}

impl<'a> Columns<'a> {
    fn new(
        decoder: &mut Decoder,
        images: &'a pb::TaskImages,
        n: usize,
    ) -> Result<Self, JournalError> {
        let none = String::new;
        let keys = &images.idempotency_keys;
        Ok(Self {
            images,
            methods: images
                .methods
                .iter()
                .map(|name| decoder.name(name))
                .collect(),
            workers: images
                .workers
                .iter()
                .map(|name| decoder.name(name))
                .collect(),
            method: Collapsed::new("method_index", &images.method_index, n, 0)?,
            priority: Collapsed::new("priorities", &images.priorities, n, 0)?,
            start_after: Collapsed::new("start_after_ms", &images.start_after_ms, n, 0)?,
            expire_after: Collapsed::new("expire_after_ms", &images.expire_after_ms, n, 0)?,
            idempotency_key: Collapsed::new("idempotency_keys", keys, n, none())?,
            ordering_key: Collapsed::new("ordering_keys", &images.ordering_keys, n, none())?,
            limit_key: Collapsed::new("limit_keys", &images.limit_keys, n, none())?,
            digest_high: Collapsed::new("digests_high", &images.digests_high, n, 0)?,
            digest_low: Collapsed::new("digests_low", &images.digests_low, n, 0)?,
            state: Collapsed::new("states", &images.states, n, 0)?,
            attempt: Collapsed::new("attempts", &images.attempts, n, 0)?,
            backoff_step: Collapsed::new("backoff_steps", &images.backoff_steps, n, 0)?,
            worker: Collapsed::new("worker_index", &images.worker_index, n, 0)?,
            key_until: Collapsed::new("key_until_ms", &images.key_until_ms, n, 0)?,
        })
    }

    /// What the columns say of a task; its blobs, token, end and events are added by the caller.
    fn task(&self, index: usize, id: TaskId, created: u64) -> Result<TaskImage, JournalError> {
        let method = self.methods.get(*self.method.get(index) as usize);
        let method = method.ok_or(JournalError::Unknown {
            field: "method_index",
        })?;
        let (high, low) = (*self.digest_high.get(index), *self.digest_low.get(index));
        let time = |after: &i64| created.wrapping_add(*after as u64);
        let task = NewTask {
            id,
            method: Arc::clone(method),
            priority: decode::priority(*self.priority.get(index))?,
            start_at: time(self.start_after.get(index)),
            expire_at: time(self.expire_after.get(index)),
            idempotency_key: decode::key(self.idempotency_key.get(index)),
            ordering_key: decode::key(self.ordering_key.get(index)),
            limit_key: decode::key(self.limit_key.get(index)),
            parent: None,
            flags: Bytes::new(),
            digest: u128::from(high) << 64 | u128::from(low),
            request: Blob::default(),
            envelope: Blob::default(),
        };
        Ok(TaskImage {
            task,
            created_at: created,
            state: decode::state(*self.state.get(index))?,
            attempt: *self.attempt.get(index),
            backoff_step: *self.backoff_step.get(index),
            token: Token(0),
            worker: self.worker(*self.worker.get(index))?,
            key_until: *self.key_until.get(index),
            ended_at: 0,
            response: Blob::default(),
            failure: None,
            dead_letter: false,
            events: Vec::new(),
        })
    }

    fn worker(&self, number: u32) -> Result<Option<Arc<str>>, JournalError> {
        let Some(index) = (number as usize).checked_sub(1) else {
            return Ok(None);
        };
        let worker = self.workers.get(index).cloned();
        worker
            .map(Some)
            .ok_or(JournalError::Unknown { field: "worker" })
    }

    /// What few tasks have.
    fn rare(&self, tasks: &mut [TaskImage]) -> Result<(), JournalError> {
        const OUTSIDE: JournalError = JournalError::Unknown { field: "index" };
        for entry in &self.images.children {
            let image = tasks.get_mut(entry.index as usize).ok_or(OUTSIDE)?;
            decode::child(&mut image.task, entry.child.as_ref())?;
        }
        for entry in &self.images.failures {
            let image = tasks.get_mut(entry.index as usize).ok_or(OUTSIDE)?;
            image.failure = Some(decode::failure(entry.failure.clone())?);
        }
        for index in &self.images.dead_letters {
            tasks.get_mut(*index as usize).ok_or(OUTSIDE)?.dead_letter = true;
        }
        Ok(())
    }

    /// The events of each task.
    fn events(&self, n: usize) -> Result<Vec<Vec<TimelineEvent>>, JournalError> {
        let images = self.images;
        let all = images.event_deltas_ms.len();
        let counts = Collapsed::new("event_counts", &images.event_counts, n, 0)?;
        let states = Collapsed::new("event_states", &images.event_states, all, 0)?;
        let attempts = Collapsed::new("event_attempts", &images.event_attempts, all, 0)?;
        let causes = Collapsed::new("event_causes", &images.event_causes, all, 0)?;
        let workers = Collapsed::new("event_workers", &images.event_workers, all, 0)?;
        let event = |(index, at)| {
            let cause = images.causes.get(*causes.get(index) as usize);
            Ok(TimelineEvent {
                at,
                state: decode::state(*states.get(index))?,
                attempt: *attempts.get(index),
                cause: effect::cause(cause.map_or("", String::as_str)),
                worker: self.worker(*workers.get(index))?,
            })
        };
        let mut events = undelta(&images.event_deltas_ms).enumerate().map(event);
        let mut out = Vec::with_capacity(n);
        for index in 0..n {
            let count = *counts.get(index) as usize;
            out.push(
                events
                    .by_ref()
                    .take(count)
                    .collect::<Result<_, JournalError>>()?,
            );
        }
        match events.next() {
            None => Ok(out),
            Some(_) => Err(JournalError::Unknown {
                field: "event_counts",
            }),
        }
    }
}

/// A delta column that has an entry for each task.
fn full(name: &'static str, deltas: &[i64], count: usize) -> Result<Vec<u64>, JournalError> {
    let found = deltas.len();
    if found != count {
        return Err(JournalError::Column { name, found, count });
    }
    Ok(undelta(deltas).collect())
}

fn places(
    name: &'static str,
    blobs: Option<&pb::StoredBlobs>,
    count: usize,
) -> Result<Vec<Blob>, JournalError> {
    let Some(blobs) = blobs.filter(|blobs| !blobs.lens.is_empty()) else {
        return Ok(vec![Blob::default(); count]);
    };
    let lens = Collapsed::new(name, &blobs.lens, count, 0)?;
    let offsets = full(name, &blobs.at_deltas, count)?;
    let blob = |(index, at)| match *lens.get(index) {
        0 => Blob::default(),
        len => Blob::stored(at, len),
    };
    Ok(offsets.into_iter().enumerate().map(blob).collect())
}
