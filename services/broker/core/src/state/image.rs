//! Snapshots: the state as records, and back.

use super::accept::TASKS_MAX;
use super::slab::NONE;
use super::table::Found;
use super::task::{FAR, Stage, Task, UNPLACED, flag};
use super::{State, expired, leases, timeline};
use crate::effect::TaskState;
use crate::ids::Millis;
use crate::image::{Image, TaskImage};
use crate::mutant::{self, Mutant};
use crate::record::{Blob, NewTask, Reason, Record};
use crate::split::SPLITS_KEY;
use crate::weight::WEIGHTS_PREFIX;
use bytes::Bytes;
use std::sync::Arc;

impl State {
    /// What of a snapshot comes before the tasks.
    pub(super) fn head_images(&self, now: Millis) -> impl Iterator<Item = Record> + '_ {
        let policies = self
            .methods
            .by_path
            .values()
            .map(|number| self.methods.policy(*number).clone());
        let policies = Record::PoliciesApplied {
            policies: policies.collect(),
        };
        let paused = self.methods.by_name.values().filter_map(|queue| {
            let queue = &self.methods.queues[*queue as usize];
            let lost = crate::mutant::is(crate::mutant::Mutant::PausesNotInSnapshot);
            let reason = queue.paused.as_ref().filter(|_| !lost)?;
            Some(Record::QueuePaused {
                queue: Arc::clone(&queue.name),
                reason: Arc::clone(reason),
            })
        });
        let keys = self
            .kv
            .entries
            .iter()
            .filter(|(key, _)| {
                let lost = |mutant, of: &str| mutant::is(mutant) && key.starts_with(of);
                !lost(Mutant::SplitNotInSnapshot, SPLITS_KEY)
                    && !lost(Mutant::WeightsNotInSnapshot, WEIGHTS_PREFIX)
            })
            .map(|(key, (value, version))| Record::KvPut {
                key: Arc::clone(key),
                value: value.clone(),
                version: *version,
            });
        let counters = Record::Image(Image::Counters {
            next_task: self.next_task,
            kv_version: self.kv.version,
            time: now,
        });
        std::iter::once(policies)
            .chain(paused)
            .chain(keys)
            .chain(std::iter::once(counters))
            .chain(self.rate_images(now))
    }

    /// What of a snapshot comes after the tasks.
    pub(super) fn tail_images(&self) -> impl Iterator<Item = Record> + '_ {
        self.archive_images().chain(self.session_images())
    }

    fn session_images(&self) -> impl Iterator<Item = Record> + '_ {
        let kept = if crate::mutant::is(crate::mutant::Mutant::SessionsNotInSnapshot) {
            0
        } else {
            usize::MAX
        };
        self.sessions
            .sessions
            .iter()
            .take(kept)
            .map(|(id, session)| {
                Record::Image(Image::Session {
                    session: *id,
                    last_used: session.last_used,
                    answers: session.answers(),
                })
            })
    }

    /// A task as of `now`.
    pub(super) fn found_image(&self, found: Found, now: Millis) -> TaskImage {
        match found {
            Found::Slot(slot) => self.task_image(&self.tasks[slot], now),
            Found::Retired(task) => self.task_image(&task, now),
        }
    }

    pub(super) fn task_image(&self, task: &Task, now: Millis) -> TaskImage {
        let rare = task.rare.as_deref();
        let lease = self.leases.slab.get(task.lease());
        let worker = timeline::last_worker(task, &self.leases, &self.names);
        TaskImage {
            task: self.new_task(task),
            created_at: task.created_at,
            state: state_at(task, now),
            attempt: u32::from(task.attempt),
            backoff_step: task.backoff_step(),
            token: task.token(),
            worker: lease.and_then(|lease| self.names.get(lease.name)).cloned(),
            key_until: rare.map_or(0, |rare| rare.key_until),
            ended_at: task.ended_at(),
            response: placed(self.blobs.response(task)),
            failure: self.failure(task),
            dead_letter: task.flag(flag::DEAD_LETTER),
            events: timeline::events(task, worker),
        }
    }

    fn new_task(&self, task: &Task) -> NewTask {
        let rare = task.rare.as_deref();
        NewTask {
            id: task.id,
            method: Arc::clone(&self.methods.policy(task.method).method),
            priority: task.priority,
            start_at: task.start_at,
            expire_at: task.expire_at,
            idempotency_key: task.idempotency_key().cloned(),
            ordering_key: task.ordering_key().cloned(),
            limit_key: rare.and_then(|rare| rare.limit_key.clone()),
            parent: task.birth().map(|birth| (birth.parent, birth.key.clone())),
            flags: flags_of(task),
            digest: rare.map_or(0, |rare| rare.digest),
            request: placed(self.blobs.request(task)),
            envelope: placed(self.blobs.envelope(task)),
        }
    }

    /// Takes a part of a snapshot in.
    pub(crate) fn load(&mut self, image: &Image) {
        match image {
            Image::Counters {
                next_task,
                kv_version,
                time,
            } => {
                self.next_task = self.next_task.max(*next_task).min(TASKS_MAX);
                self.kv.version = self.kv.version.max(*kv_version);
                self.time = self.time.max(*time).min(FAR);
            }
            Image::Tasks(tasks) => tasks.iter().for_each(|task| self.load_task(task)),
            Image::Archives { files, keys } => {
                files.iter().for_each(|file| self.load_archive(file));
                keys.iter().for_each(|key| self.archives.keys.load(key));
            }
            Image::Rate(rate) => self.load_rate(rate),
            Image::Session {
                session,
                last_used,
                answers,
            } => {
                for (sequence, acceptance) in answers {
                    self.sessions
                        .accepted(*session, *sequence, acceptance, *last_used);
                }
            }
        }
    }

    pub(super) fn load_task(&mut self, image: &TaskImage) {
        let Some(method) = self.methods.find(&image.task.method) else {
            return;
        };
        let mut task = super::accept::new_task(&image.task, method, image.created_at.min(FAR));
        self.blobs
            .take_request(&mut task, &image.task.request, &image.task.envelope);
        task.attempt = u16::try_from(image.attempt).unwrap_or(u16::MAX);
        task.state = image.state;
        task.set_flag(flag::DEAD_LETTER, image.dead_letter);
        if image.key_until > 0 {
            task.rare_mut().key_until = image.key_until.min(FAR);
        }
        if image.backoff_step > 0 {
            task.rare_mut().backoff_step = image.backoff_step;
        }
        restore_failure(&mut task, image);
        let ran = image
            .events
            .iter()
            .rev()
            .find_map(|event| event.worker.as_ref());
        if image.state.is_final() {
            let worker = ran.map_or(NONE, |name| self.names.acquire(name, 1));
            task.stage = Stage::Done {
                ended_at: image.ended_at.min(FAR),
                response_at: UNPLACED,
                response_len: 0,
                worker,
            };
            self.blobs.take_response(&mut task, &image.response);
        } else if let Stage::Open { token, .. } = &mut task.stage {
            *token = image.token;
        }
        timeline::restore(&mut task, image.worker.as_ref().or(ran), &image.events);
        let started_at = task.started_at();
        let Some(slot) = self.tasks.insert(task) else {
            return;
        };
        if image.state == TaskState::Running {
            self.load_lease(slot, image, started_at);
        }
        self.next_task = self
            .next_task
            .max(image.task.id.0.saturating_add(1))
            .min(TASKS_MAX);
        self.dedup.insert(&self.tasks, slot);
        self.families.adopt(&mut self.tasks, slot);
        self.retire(slot);
    }

    fn load_lease(&mut self, slot: u32, image: &TaskImage, started_at: Option<Millis>) {
        let Some(worker) = &image.worker else {
            self.tasks[slot].state = TaskState::Ready;
            return;
        };
        let name = self.names.acquire(worker, 1);
        let timeout = self
            .methods
            .policy(self.tasks[slot].method)
            .attempt_timeout_ms;
        let deadline = started_at.unwrap_or(self.time).saturating_add(timeout);
        let entry = self
            .leases
            .slab
            .insert(leases::Lease::new(slot, name, deadline));
        if let Stage::Open { lease, .. } = &mut self.tasks[slot].stage {
            *lease = entry;
        }
    }
}

fn restore_failure(task: &mut Task, image: &TaskImage) {
    let Some(failure) = &image.failure else {
        return;
    };
    let running = failure.reason == Some(Reason::ExpiredWhileRunning);
    task.set_flag(flag::EXPIRED_RUNNING, running);
    if image.state != TaskState::Expired || *failure != expired(running, None) {
        task.more_mut().failure = Some(Box::new(failure.clone()));
    }
}

fn flags_of(task: &Task) -> Bytes {
    let flags = task.birth().and_then(|birth| birth.flags.as_deref());
    flags.map_or_else(Bytes::new, Bytes::copy_from_slice)
}

/// The state as of a time: whether a wait is over is told by the clock, not by a record.
fn state_at(task: &Task, now: Millis) -> TaskState {
    match task.state {
        TaskState::Scheduled | TaskState::Backoff if task.start_at <= now => TaskState::Ready,
        TaskState::Ready if task.start_at > now && task.attempt == 0 => TaskState::Scheduled,
        TaskState::Ready if task.start_at > now => TaskState::Backoff,
        state => state,
    }
}

/// A blob as a snapshot has it: the log's place if there is one, else the bytes.
fn placed(blob: Blob) -> Blob {
    match blob.at {
        _ if blob.len == 0 => Blob::default(),
        Some(at) => Blob::stored(at, blob.len),
        None => blob,
    }
}
