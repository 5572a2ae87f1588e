//! One decision for each task of a submission.

use super::super::Partition;
use super::memo;
use crate::command::{Submit, SubmitOptions, SubmitTask};
use crate::effect::Error;
use crate::ids::{Millis, TaskId};
use crate::live::held::RunKey;
use crate::policy::method_of;
use crate::record::{Acceptance, Blob, ChildKey, NewTask, Refusal};
use crate::state::dedup::First;
use crate::state::methods::PRIORITY_MAX;
use crate::state::slots::KeyHash;
use crate::state::task::FAR;
use bytes::Bytes;
use hashbrown::HashTable;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long a submitter waits before it tries a full queue again, ms. Ours: long enough to let a queue move, short
/// against what a person waits for.
const RETRY_AFTER_MS: u64 = 500;

/// A submission while it is decided on. Nothing has changed yet.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) acceptance: Acceptance,
    pub(super) tasks: Vec<NewTask>,
    pub(super) calls: Vec<Call>,
    /// The method looked up last: tasks of a frame share their path.
    method: Option<(Arc<str>, u32)>,
    /// New tasks of this submission by their idempotency key.
    keyed: HashTable<(KeyHash, u32, u32)>,
    /// New children of this submission by flow and name.
    pub(super) named: BTreeMap<(TaskId, Arc<str>), u32>,
    /// Calls of this submission by flow and digest, beside those of the run so far.
    pub(super) counted: BTreeMap<(TaskId, u128), u32>,
    /// New tasks by queue.
    queued: BTreeMap<u32, u64>,
}

/// A child call that was accepted.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// Slot of the flow.
    pub(super) flow: u32,
    /// Which task of the submission.
    pub(super) index: usize,
    /// The digest, for a call without a name.
    pub(super) counted: Option<u128>,
    /// Whether a child was made for it.
    pub(super) new: bool,
}

/// A child call that is decided on.
pub(super) struct Child {
    pub(super) flow: TaskId,
    pub(super) key: ChildKey,
    pub(super) call: Call,
}

/// What becomes of one task.
enum Verdict {
    New(Wanted),
    Existing(TaskId),
}

/// What a new task needs beside the submission.
struct Wanted {
    method: u32,
    expire_at: Millis,
    parent: Option<(TaskId, ChildKey)>,
}

impl Partition {
    /// Decides on every task of a submission. Calls of the `diverged` runs that match no record are refused.
    pub(super) fn draft(
        &self,
        submit: &Submit,
        diverged: &[RunKey],
        dry_run: bool,
        now: Millis,
    ) -> Draft {
        let mut draft = Draft::default();
        draft.tasks.reserve(submit.tasks.len());
        draft.acceptance.tasks.reserve(submit.tasks.len());
        for (index, task) in submit.tasks.iter().enumerate() {
            let refused = super::run_of(task).is_some_and(|run| diverged.contains(&run));
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            match self.verdict(&mut draft, index, task, refused, now) {
                Ok(Verdict::Existing(id)) => {
                    draft.acceptance.tasks.push(id.0);
                    draft.acceptance.existing.push(number);
                }
                Ok(Verdict::New(wanted)) => {
                    let id = TaskId(self.state.next_task + draft.tasks.len() as u64);
                    // A dry run makes no task, so it has no number to tell.
                    draft.acceptance.tasks.push(if dry_run { 0 } else { id.0 });
                    let new = self.new_task(id, task, wanted, now);
                    draft.tasks.push(new);
                }
                Err(error) => {
                    draft.acceptance.tasks.push(0);
                    draft.acceptance.refusals.push(Refusal {
                        index: number,
                        error,
                    });
                }
            }
        }
        draft
    }

    fn verdict(
        &self,
        draft: &mut Draft,
        index: usize,
        task: &SubmitTask,
        diverged: bool,
        now: Millis,
    ) -> Result<Verdict, Error> {
        let method = self.method_of(draft, &task.method)?;
        let policy = self.state.methods.policy(method);
        check_keys(task, policy)?;
        let options = task.options.as_deref();
        check_priority(options)?;
        let deadline = options
            .and_then(|options| options.deadline_ms)
            .unwrap_or(u64::MAX);
        let mut expire_at = now
            .saturating_add(deadline.min(policy.deadline_ms))
            .min(FAR);
        let child = self.child_of(draft, index, task)?;
        if let Some(child) = &child {
            if let Some(known) = self.recorded(draft, task, child.flow, &child.key)? {
                draft.count(
                    Call {
                        new: false,
                        ..child.call
                    },
                    child.flow,
                );
                return Ok(Verdict::Existing(known));
            }
            if diverged {
                let parent = child.flow;
                let child = memo::describe(method_of(&task.method), &child.key).into();
                return Err(Error::FlowDiverged { parent, child });
            }
            if !crate::mutant::is(crate::mutant::Mutant::DeadlineWidened) {
                expire_at = expire_at.min(self.state.tasks[child.call.flow].expire_at);
            }
        }
        let mut keyed = None;
        if let Some(key) = key_of(&task.idempotency_key) {
            let family = self.state.methods.family_of(method);
            let hash = self.state.dedup.hash(family, key);
            if let Some(known) = self.duplicate(draft, task, family, key, hash, now)? {
                return Ok(Verdict::Existing(known));
            }
            keyed = Some((hash, family));
        }
        self.check_room(draft, method)?;
        draft.accept(child.as_ref(), keyed, self.state.methods.get(method).queue);
        let parent = child.map(|child| (child.flow, child.key));
        Ok(Verdict::New(Wanted {
            method,
            expire_at,
            parent,
        }))
    }

    pub(super) fn method_of(&self, draft: &mut Draft, path: &Arc<str>) -> Result<u32, Error> {
        if let Some((known, number)) = &draft.method
            && Arc::ptr_eq(known, path)
        {
            return Ok(*number);
        }
        let unknown = || Error::MethodUnknown {
            method: Arc::clone(path),
        };
        let number = self.state.methods.find(path).ok_or_else(unknown)?;
        draft.method = Some((Arc::clone(path), number));
        Ok(number)
    }

    /// The task that an idempotency key stands for, if it stands for one already.
    fn duplicate(
        &self,
        draft: &Draft,
        task: &SubmitTask,
        method: u32,
        key: &Arc<str>,
        hash: KeyHash,
        now: Millis,
    ) -> Result<Option<TaskId>, Error> {
        let conflict = |id| Error::DuplicateKeyConflict {
            task: id,
            key: Arc::clone(key),
        };
        let staged = draft.keyed.find(hash.spread(), |(_, number, at)| {
            *number == method && draft.tasks[*at as usize].idempotency_key.as_ref() == Some(key)
        });
        let (id, same) = if let Some((_, _, at)) = staged {
            let first = &draft.tasks[*at as usize];
            (first.id, first.digest == task.digest)
        } else {
            match self.state.first_of(method, key, now) {
                Some(First::Kept(slot)) => {
                    let first = &self.state.tasks[slot];
                    let digest = first.rare.as_ref().map_or(0, |rare| rare.digest);
                    (first.id, digest == task.digest)
                }
                Some(First::Archived(id, digest)) => (id, digest == task.digest as u64),
                None => return Ok(None),
            }
        };
        if same {
            Ok(Some(id))
        } else {
            Err(conflict(id))
        }
    }

    fn check_room(&self, draft: &Draft, method: u32) -> Result<(), Error> {
        let number = self.state.methods.get(method).queue;
        let queue = self.state.methods.queue_of(method);
        let staged = draft.queued.get(&number).copied().unwrap_or(0);
        let limit = self.config.queue_tasks_max;
        if queue.unfinished + staged < limit {
            return Ok(());
        }
        let queue = Arc::clone(&queue.name);
        Err(Error::QueueFull {
            queue,
            limit,
            retry_after_ms: RETRY_AFTER_MS,
        })
    }

    fn new_task(&self, id: TaskId, task: &SubmitTask, wanted: Wanted, now: Millis) -> NewTask {
        let policy = self.state.methods.policy(wanted.method);
        let options = task.options.as_deref();
        let delay = options.map_or(0, |options| options.delay_ms);
        NewTask {
            id,
            method: Arc::clone(&policy.method),
            priority: options
                .and_then(|options| options.priority)
                .unwrap_or(policy.priority),
            start_at: now.saturating_add(delay).min(FAR),
            expire_at: wanted.expire_at,
            idempotency_key: key_of(&task.idempotency_key).cloned(),
            ordering_key: key_of(&task.ordering_key).cloned(),
            limit_key: key_of(&task.limit_key).cloned(),
            flags: flags_of(&wanted, options),
            parent: wanted.parent,
            digest: task.digest,
            request: Blob::resident(task.request.clone()),
            envelope: options.map_or_else(Blob::default, |options| {
                Blob::resident(options.envelope.clone())
            }),
        }
    }
}

impl Draft {
    /// Notes what a new task takes.
    fn accept(&mut self, child: Option<&Child>, keyed: Option<(KeyHash, u32)>, queue: u32) {
        let at = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX);
        *self.queued.entry(queue).or_default() += 1;
        if let Some((hash, method)) = keyed {
            let entry = (hash, method, at);
            self.keyed
                .insert_unique(hash.spread(), entry, |(own, ..)| own.spread());
        }
        if let Some(child) = child {
            if let ChildKey::Named(name) = &child.key {
                self.named.insert((child.flow, Arc::clone(name)), at);
            }
            self.count(child.call, child.flow);
        }
    }

    fn count(&mut self, call: Call, flow: TaskId) {
        if let Some(digest) = call.counted {
            *self.counted.entry((flow, digest)).or_default() += 1;
        }
        self.calls.push(call);
    }
}

/// What a child's record tells of feature flags.
fn flags_of(wanted: &Wanted, options: Option<&SubmitOptions>) -> Bytes {
    let flags = options.filter(|_| wanted.parent.is_some());
    flags.map_or_else(Bytes::new, |options| options.flags.clone())
}

pub(super) fn key_of(key: &Option<Arc<str>>) -> Option<&Arc<str>> {
    key.as_ref().filter(|key| !key.is_empty())
}

fn check_priority(options: Option<&SubmitOptions>) -> Result<(), Error> {
    match options.and_then(|options| options.priority) {
        Some(priority) if priority > PRIORITY_MAX => Err(Error::Invalid {
            field: "priority",
            problem: "must be 0 to 9".into(),
        }),
        _ => Ok(()),
    }
}

fn check_keys(task: &SubmitTask, policy: &crate::policy::MethodPolicy) -> Result<(), Error> {
    let missing = |key| {
        Err(Error::KeyMissing {
            method: Arc::from(method_of(&policy.method)),
            key,
        })
    };
    if policy.needs_idempotency_key && key_of(&task.idempotency_key).is_none() {
        return missing("idempotency");
    }
    if policy.needs_ordering_key && key_of(&task.ordering_key).is_none() {
        return missing("ordering");
    }
    Ok(())
}
