//! Ends: one for each task, the one that the worker gave, told to everybody alike.

use super::task::Sent;
use super::{Checker, Invariant};
use crate::history::{Name, State, Task, Told};
use std::collections::BTreeSet;

/// gRPC codes of failures that the broker makes itself: worker lost, attempt timed out, at most once.
const OWN_CODES: [u32; 3] = [14, 4, 10];

/// gRPC's code.
const DEADLINE_EXCEEDED: u32 = 4;

/// How much before a deadline a handler's word for it counts; at most half of the time that there was.
const BEHIND_MS: u64 = 1_000;

impl<'a> Checker<'a> {
    /// An outcome was accepted.
    pub(super) fn settled(&mut self, task: Task, token: u64) {
        let redriven = self.redriven.contains(&task.0);
        let now = self.now;
        let facts = self.facts(task);
        let sent = facts.sent.iter().find(|sent| sent.token == token).copied();
        let newest = facts.leases.last().map(|lease| lease.token);
        let again = facts.accepted.contains(&token);
        let (ended, overtaken) = (facts.ended, facts.overtaken);
        facts.accepted.push(token);
        if let Some(Sent {
            code: 0, digest, ..
        }) = sent
        {
            facts.succeeded = facts.succeeded.or(Some((now, digest)));
        }
        self.ensure(Invariant::History, sent.is_some(), || {
            format!("an outcome of {task:?} under {token} is accepted that nobody sent")
        });
        self.ensure(Invariant::Fenced, !again, || {
            format!("two outcomes of {task:?} are accepted under {token}")
        });
        self.ensure(
            Invariant::Fenced,
            newest.is_none_or(|newest| newest <= token),
            || {
                format!(
                    "an outcome of {task:?} is accepted under {token}, after {newest:?} was granted"
                )
            },
        );
        let late = ended.is_some_and(|ended| self.is_after(ended)) && !redriven;
        self.ensure(Invariant::OneEnd, !late, || {
            format!("an outcome of {task:?} is accepted after its end")
        });
        let beside = overtaken.filter(|(since, _)| self.is_after(*since) && !redriven);
        self.ensure(Invariant::Ordered, beside.is_none(), || {
            format!("{task:?} ran while {beside:?} of its line ran")
        });
    }

    pub(super) fn cancel_answered(&mut self, told: &'a Told) {
        self.ensure(Invariant::OneEnd, told.state != State::Unfinished, || {
            format!("{:?} was cancelled and is not ended", told.task)
        });
        self.told(told);
    }

    /// Somebody was told where a task is.
    pub(super) fn told(&mut self, told: &'a Told) {
        let task = told.task;
        match told.state {
            State::NotFound => return self.check_gone(told),
            State::Unfinished => return self.check_going(told),
            _ => {}
        }
        let redriven = self.redriven.contains(&task.0);
        let now = self.now;
        let facts = self.facts(task);
        facts.ended = facts.ended.or(Some(now));
        if redriven {
            return;
        }
        let first = *facts.told.get_or_insert(told);
        let same = first.state == told.state
            && first.code == told.code
            && (first.digest.is_none() || told.digest.is_none() || first.digest == told.digest);
        self.ensure(Invariant::OneEnd, same, || {
            format!("{task:?} ended as {first:?} and as {told:?}")
        });
        self.check_outcome(told);
        self.check_dead_letter(told);
    }

    /// The end is what the worker gave, or what the broker may decide.
    fn check_outcome(&mut self, told: &'a Told) {
        let task = told.task;
        let unseen = self.is_unseen(task);
        let facts = self.facts(task);
        let succeeded = facts.succeeded;
        let wanted = facts.cancel_wanted;
        let given = match told.state {
            _ if unseen => true,
            State::Succeeded => facts.sent.iter().any(|sent| {
                sent.code == 0 && (told.digest.is_none() || sent.digest == told.digest)
            }),
            State::Failed => {
                OWN_CODES.contains(&told.code)
                    || facts.sent.iter().any(|sent| sent.code == told.code)
            }
            _ => true,
        };
        self.ensure(Invariant::ResultIsOutcome, given, || {
            format!("{told:?} is not what a worker gave")
        });
        if let Some((_, digest)) = succeeded {
            let same = told.state == State::Succeeded
                && (digest.is_none() || told.digest.is_none() || digest == told.digest);
            self.ensure(Invariant::ResultIsOutcome, same, || {
                format!("{told:?}, and {digest:?} was accepted")
            });
        }
        let child = self
            .tasks
            .get(&task.0)
            .and_then(|facts| self.submission_of(facts))
            .is_none_or(|submission| submission.parent.is_some());
        if told.state == State::Cancelled {
            self.ensure(Invariant::OneEnd, wanted || child, || {
                format!("{task:?} is cancelled and nobody asked for it")
            });
        }
        self.check_limits(told, child);
    }

    /// It did not expire too early, nor fail before its attempts were used up.
    fn check_limits(&mut self, told: &'a Told, child: bool) {
        let Some(facts) = self.tasks.get(&told.task.0) else {
            return;
        };
        let Some((submission, method)) = self.submission_of(facts).zip(self.method_of(facts))
        else {
            return;
        };
        let deadline = submission
            .deadline_ms
            .unwrap_or(u64::MAX)
            .min(method.deadline_ms);
        // A handler that says that time is up is believed a little before it is.
        let believed = facts.sent.iter().any(|sent| sent.code == DEADLINE_EXCEEDED);
        let behind = if believed {
            BEHIND_MS.min(deadline / 2)
        } else {
            0
        };
        let early = !child && self.is_within(facts, deadline - behind, told.broker_at);
        let attempts = facts
            .leases
            .iter()
            .map(|lease| lease.attempt)
            .max()
            .unwrap_or(0);
        let stopped = facts.sent.iter().any(|sent| sent.stop);
        // A retry that would have come after the deadline is not made.
        let in_time = deadline.saturating_sub(method.max_backoff_ms);
        let had_time = !child && self.is_within(facts, in_time, told.broker_at);
        let own = told.code == 10 && method.at_most_once;
        let retried = method.retryable.contains(&told.code) && !method.at_most_once && !own;
        let retried = retried && !self.is_unseen(told.task);
        match told.state {
            State::Expired => self.ensure(Invariant::StartsInTime, !early, || {
                format!(
                    "{:?} expired before its deadline of {deadline} ms",
                    told.task
                )
            }),
            State::Failed if retried && had_time && !stopped => {
                let enough = attempts >= method.max_attempts;
                self.ensure(Invariant::AttemptsCounted, enough, || {
                    let most = method.max_attempts;
                    format!(
                        "{:?} failed for good after {attempts} of {most} attempts",
                        told.task
                    )
                });
            }
            _ => {}
        }
    }

    /// The broker does not know a task: then its retention must be over.
    fn check_gone(&mut self, told: &'a Told) {
        let task = told.task;
        let Some(facts) = self.tasks.get(&task.0) else {
            return;
        };
        if facts.acked.is_none() {
            return;
        }
        // Of a task whose submission is not known, only that it is over.
        let kept = self
            .method_of(facts)
            .is_some_and(|method| self.is_within(facts, method.retention_ms, told.broker_at));
        self.ensure(Invariant::AckedIsKept, !kept, || {
            format!("{task:?} was acknowledged and is not found")
        });
        let now = self.now;
        let facts = self.facts(task);
        facts.ended = facts.ended.or(Some(now));
    }

    /// A task that is said to go on has not ended.
    fn check_going(&mut self, told: &'a Told) {
        let task = told.task;
        let redriven = self.redriven.contains(&task.0);
        let facts = self.facts(task);
        let ends = [facts.ended, facts.succeeded.map(|(when, _)| when)];
        let over = ends
            .into_iter()
            .flatten()
            .any(|end| self.is_after(end) && !redriven);
        self.ensure(Invariant::OneEnd, !over, || {
            format!("{task:?} had ended and is unfinished again")
        });
    }

    fn check_dead_letter(&mut self, told: &'a Told) {
        let Some(dead) = told.dead_letter else { return };
        let facts = self.tasks.get(&told.task.0);
        let Some(method) = facts.and_then(|facts| self.method_of(facts)) else {
            return;
        };
        let wanted = method.dead_letter_ms > 0 && told.state == State::Failed;
        self.ensure(Invariant::DeadLetterOnce, dead == wanted, || {
            format!("{:?} is {:?}; dead letter: {dead}", told.task, told.state)
        });
    }

    /// A queue's dead letters: each failed task once, and nothing else.
    pub(super) fn dead_letters(
        &mut self,
        queue: &'a Name,
        tasks: &'a [Task],
        broker_at: Option<u64>,
    ) {
        let listed: BTreeSet<u64> = tasks.iter().map(|task| task.0).collect();
        self.ensure(
            Invariant::DeadLetterOnce,
            listed.len() == tasks.len(),
            || format!("{queue} lists a dead letter twice"),
        );
        let mut wrong = Vec::new();
        for (task, facts) in &self.tasks {
            let Some(method) = self
                .method_of(facts)
                .filter(|method| method.queue == *queue)
            else {
                continue;
            };
            let Some(told) = facts.told.filter(|_| !self.redriven.contains(task)) else {
                continue;
            };
            let dead = told.state == State::Failed && method.dead_letter_ms > 0;
            let kept = self.is_within(facts, method.dead_letter_ms, broker_at);
            let wanted = dead && kept;
            if listed.contains(task) != wanted && (kept || !dead) {
                wrong.push(*task);
            }
        }
        self.ensure(Invariant::DeadLetterOnce, wrong.is_empty(), || {
            format!(
                "{queue} lists {} dead letters; wrong about {wrong:x?}",
                tasks.len()
            )
        });
    }

    /// Every task that was acknowledged has ended, and somebody was told how.
    pub(super) fn all_ended(&mut self) {
        let mut open = Vec::new();
        for (task, facts) in &self.tasks {
            if facts.acked.is_some() && facts.ended.is_none() && facts.succeeded.is_none() {
                open.push(*task);
            }
        }
        self.ensure(Invariant::EverythingEnds, open.is_empty(), || {
            format!("tasks never ended: {open:x?}")
        });
    }
}
