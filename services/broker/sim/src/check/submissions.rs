//! Submissions: each makes one task or none, a key stands for one task, a flow's child is one.

use super::{Checker, Invariant, When};
use crate::history::{Name, Submission, Task};
use std::collections::BTreeMap;

/// A submission and what became of it.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) submission: &'a Submission,
    wanted: When,
    pub(super) task: Option<Task>,
    /// Whether an existing task answered it.
    existing: bool,
    over: bool,
}

/// What is known of an idempotency key of a method.
#[derive(Debug, Default)]
pub(super) struct Key {
    /// The newest task under it.
    task: Option<u64>,
    /// Digests that were submitted under it.
    digests: Vec<Option<crate::history::Digest>>,
}

impl<'a> Checker<'a> {
    pub(super) fn submitted(&mut self, submission: &'a Submission) {
        if let Some(key) = &submission.key {
            let known = self.keys.entry((&submission.method, key)).or_default();
            if !known.digests.contains(&submission.digest) {
                known.digests.push(submission.digest);
            }
        }
        let known = Known {
            submission,
            wanted: self.now,
            task: None,
            existing: false,
            over: false,
        };
        let earlier = self.submissions.insert(submission.id, known);
        self.ensure(Invariant::History, earlier.is_none(), || {
            format!("submission {} is invoked twice", submission.id)
        });
    }

    pub(super) fn acknowledged(
        &mut self,
        id: u64,
        task: Task,
        existing: bool,
        created_at: Option<u64>,
    ) {
        let now = self.now;
        let Some(known) = self.submissions.get_mut(&id) else {
            return self.ensure(Invariant::History, false, || {
                format!("submission {id} is answered and was never invoked")
            });
        };
        let (submission, wanted) = (known.submission, known.wanted);
        known.over = true;
        known.existing = existing;
        let earlier = known.task.replace(task);
        self.ensure(
            Invariant::OneTaskPerKey,
            earlier.is_none_or(|earlier| earlier == task),
            || format!("submission {id} was acknowledged as {earlier:?} and as {task:?}"),
        );
        let facts = self.tasks.entry(task.0).or_default();
        facts.created_at = facts.created_at.or(created_at);
        facts.acked = facts.acked.or(Some(now));
        let maker = facts.submission;
        if !existing {
            facts.submission = Some(id);
            facts.wanted = Some(wanted);
            self.ensure(
                Invariant::OneTaskPerKey,
                maker.is_none_or(|maker| maker == id),
                || format!("{task:?} was made for submission {id} and for {maker:?}"),
            );
        }
        self.check_key(submission, task, existing);
        self.check_child(submission, task);
    }

    /// The task of a key is the one that the key stands for.
    fn check_key(&mut self, submission: &'a Submission, task: Task, existing: bool) {
        let Some(key) = &submission.key else {
            let child = submission.parent.is_some();
            return self.ensure(Invariant::OneTaskPerKey, !existing || child, || {
                format!("submission {} has no key and found {task:?}", submission.id)
            });
        };
        let entry = self.keys.entry((&submission.method, key)).or_default();
        let first = entry.task.filter(|first| *first != task.0);
        if !existing || entry.task.is_none_or(|newest| newest < task.0) {
            entry.task = Some(entry.task.map_or(task.0, |newest| newest.max(task.0)));
        }
        if let Some(maker) = self
            .tasks
            .get(&task.0)
            .and_then(|facts| self.submission_of(facts))
        {
            let same = maker.method == submission.method
                && maker.key == submission.key
                && maker.digest == submission.digest;
            self.ensure(
                Invariant::OneTaskPerKey,
                same || submission.parent.is_some(),
                || {
                    format!(
                        "submission {} got {task:?} of submission {}",
                        submission.id, maker.id
                    )
                },
            );
        }
        // A new task under a key whose window still runs.
        let window = self
            .methods
            .get(&*submission.method)
            .map(|method| method.window_ms);
        if let (Some(first), Some(window), false) = (first, window, existing) {
            let (old, new) = (first.min(task.0), first.max(task.0));
            let within = self.tasks.get(&old).is_some_and(|facts| {
                let newer = self.tasks.get(&new).and_then(|newer| newer.created_at);
                self.is_within(facts, window, newer)
            });
            self.ensure(Invariant::OneTaskPerKey, !within, || {
                format!("key {key:?} stands for t{old:x} and, in its window, for t{new:x}")
            });
        }
    }

    /// A flow finds its children again, whatever happened meanwhile.
    fn check_child(&mut self, submission: &'a Submission, task: Task) {
        let Some((flow, name)) = &submission.parent else {
            return;
        };
        if self.redriven.contains(&flow.0) {
            return;
        }
        let known = self.children.insert((flow.0, name), task.0);
        let same = known.is_none_or(|known| known == task.0 || self.redriven.contains(&known));
        self.ensure(Invariant::OneTaskPerKey, same, || {
            format!("child {name:?} of {flow:?} was {known:?} and is {task:?}")
        });
    }

    pub(super) fn refused(&mut self, id: u64, reason: &Name) {
        let Some(known) = self.submissions.get_mut(&id) else {
            return;
        };
        known.over = true;
        let (submission, task) = (known.submission, known.task);
        self.ensure(Invariant::AckedIsKept, task.is_none(), || {
            format!("submission {id} was acknowledged as {task:?} and then refused: {reason}")
        });
        if &**reason == "DUPLICATE_KEY_CONFLICT" {
            let key = submission.key.as_deref().unwrap_or_default();
            let used = self.keys.get(&(&*submission.method, key));
            let differs = used.is_some_and(|key| key.digests.len() > 1);
            self.ensure(Invariant::OneTaskPerKey, differs, || {
                format!("submission {id} was refused for a conflict under {key:?} that is none")
            });
        }
    }

    pub(super) fn unknown(&mut self, id: u64) {
        if let Some(known) = self.submissions.get_mut(&id) {
            known.over = true;
        }
    }

    /// Every submission was answered, and each client's tasks are in the order of its frames.
    pub(super) fn all_answered(&mut self) {
        let mut latest: BTreeMap<&str, ((u64, u32), u64)> = BTreeMap::new();
        let mut places = Vec::new();
        let mut open = Vec::new();
        for known in self.submissions.values() {
            if !known.over {
                open.push(known.submission.id);
            }
            if let (Some(place), Some(task), false) =
                (known.submission.place, known.task, known.existing)
            {
                places.push((&*known.submission.client, place, task.0));
            }
        }
        self.ensure(Invariant::EverythingEnds, open.is_empty(), || {
            format!("submissions were never answered: {open:?}")
        });
        places.sort_unstable();
        for (client, place, task) in places {
            let before = latest.insert(client, (place, task));
            let grows = before.is_none_or(|(_, before)| before < task);
            self.ensure(Invariant::Ordered, grows, || {
                format!("{client} submitted {place:?} after {before:?}, and it is t{task:x}")
            });
        }
    }
}
