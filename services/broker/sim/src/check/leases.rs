//! Leases: who may start what, when, and in which order.

use super::task::Granted;
use super::{Checker, Invariant, Line};
use crate::history::{Lease, Method, Submission};

impl<'a> Checker<'a> {
    /// A handler starts. Without dispatches in the history this is when the lease shows.
    pub(super) fn started(&mut self, lease: &'a Lease) {
        let (task, token) = (lease.task, lease.token);
        if !self.dispatches && !self.is_zombie(lease) {
            self.leased(lease);
        }
        let dispatches = self.dispatches;
        let facts = self.facts(task);
        let again = facts.starts.contains(&token);
        let granted = facts.leases.iter().any(|lease| lease.token == token);
        facts.starts.push(token);
        let starts = facts.starts.len();
        self.ensure(Invariant::Fenced, !again, || {
            format!("{task:?} started twice under token {token}")
        });
        self.ensure(Invariant::Fenced, granted || !dispatches, || {
            format!("{task:?} started under token {token}, which was never granted")
        });
        let once = self
            .tasks
            .get(&task.0)
            .and_then(|facts| self.method_of(facts));
        if once.is_some_and(|method| method.at_most_once) && !self.redriven.contains(&task.0) {
            self.ensure(Invariant::AttemptsCounted, starts == 1, || {
                format!("{task:?} may start once and started {starts} times")
            });
        }
    }

    /// Whether a later attempt of the task was seen already, where that is no wonder.
    fn is_zombie(&self, lease: &Lease) -> bool {
        let seen = self.tasks.get(&lease.task.0);
        let last = seen.and_then(|facts| facts.leases.last());
        self.rules.zombies && last.is_some_and(|last| last.token > lease.token)
    }

    pub(super) fn leased(&mut self, lease: &'a Lease) {
        self.report.attempts += 1;
        self.check_request(lease);
        self.check_token(lease);
        let redriven = self.redriven.contains(&lease.task.0);
        self.check_ended(lease, redriven);
        let Some(submission) = self
            .tasks
            .get(&lease.task.0)
            .and_then(|facts| self.submission_of(facts))
        else {
            return;
        };
        let Some(method) = self.methods.get(&*submission.method).copied() else {
            return;
        };
        self.check_pause(lease, method);
        self.check_rate(lease, submission, method);
        self.check_gates(lease, method);
        self.check_split(lease, submission, method);
        if !redriven {
            self.check_attempt(lease, method);
            self.check_times(lease, submission, method);
        }
        if let Some(order) = &submission.order {
            self.check_line((&method.queue, order), lease, redriven);
        }
    }

    /// The request is that of the submission which made the task, and of no other task.
    fn check_request(&mut self, lease: &'a Lease) {
        let task = lease.task;
        let Some(of) = lease.of else { return };
        let first = *self.of.entry(of).or_insert(task.0);
        self.ensure(Invariant::OneTaskPerKey, first == task.0, || {
            format!("submission {of} made t{first:x} and {task:?}")
        });
        let maker = self.facts(task).submission;
        self.ensure(
            Invariant::ResultIsOutcome,
            maker.is_none_or(|maker| maker == of),
            || format!("{task:?} runs the request of submission {of}, not of {maker:?}"),
        );
        let facts = self.facts(task);
        if facts.submission.is_none() {
            // Its acknowledgement was lost, or comes later.
            facts.submission = Some(of);
        }
    }

    fn check_token(&mut self, lease: &'a Lease) {
        let (task, token, now) = (lease.task, lease.token, self.now);
        let facts = self.facts(task);
        let last = facts.leases.last().map(|lease| lease.token);
        facts.leases.push(Granted {
            at: now,
            token,
            attempt: lease.attempt,
        });
        self.ensure(
            Invariant::Fenced,
            last.is_none_or(|last| last < token),
            || format!("{task:?} got token {token} after {last:?}"),
        );
    }

    fn check_ended(&mut self, lease: &'a Lease, redriven: bool) {
        let task = lease.task;
        let facts = self.facts(task);
        let ends = [facts.ended, facts.succeeded.map(|(when, _)| when)];
        let ended = ends
            .into_iter()
            .flatten()
            .any(|end| self.is_after(end) && !redriven);
        self.ensure(Invariant::OneEnd, !ended, || {
            format!("{task:?} starts attempt {} after its end", lease.attempt)
        });
    }

    fn check_pause(&mut self, lease: &'a Lease, method: &'a Method) {
        let since = self.paused.get(&*method.queue).copied();
        let paused = since.is_some_and(|since| self.is_after(since));
        self.ensure(Invariant::PausedIsStill, !paused, || {
            format!("{:?} starts while {} is paused", lease.task, method.queue)
        });
    }

    fn check_attempt(&mut self, lease: &'a Lease, method: &'a Method) {
        let (task, attempt, most) = (lease.task, lease.attempt, method.max_attempts);
        self.ensure(
            Invariant::AttemptsCounted,
            (1..=most).contains(&attempt),
            || format!("{task:?} has attempt {attempt} of {most}"),
        );
        let leases = &self.facts(task).leases;
        let before = leases.iter().rev().nth(1).map_or(0, |lease| lease.attempt);
        let first_seen = leases.len() == 1;
        // An attempt whose handler did not start shows in its dispatch only.
        let next = attempt == before || attempt == before + 1 || !self.dispatches;
        let follows = first_seen || (next && attempt >= before);
        self.ensure(Invariant::AttemptsCounted, follows, || {
            format!("{task:?} has attempt {attempt} after {before}")
        });
    }

    fn check_times(&mut self, lease: &'a Lease, submission: &'a Submission, method: &'a Method) {
        let task = lease.task;
        let deadline = submission
            .deadline_ms
            .unwrap_or(u64::MAX)
            .min(method.deadline_ms);
        let Some(facts) = self.tasks.get(&task.0) else {
            return;
        };
        let late = self.is_past(facts, deadline, lease.broker_at);
        let early = self.is_within(facts, submission.delay_ms, lease.broker_at);
        let left = facts
            .created_at
            .zip(lease.broker_at)
            .map(|(created, at)| created.saturating_add(deadline).saturating_sub(at));
        self.ensure(Invariant::StartsInTime, !late, || {
            format!("{task:?} starts past its deadline of {deadline} ms")
        });
        self.ensure(Invariant::StartsInTime, !early, || {
            format!(
                "{task:?} starts before its delay of {} ms is over",
                submission.delay_ms
            )
        });
        if let Some(timeout) = lease.timeout_ms {
            let most = left.unwrap_or(deadline).min(method.attempt_timeout_ms);
            self.ensure(Invariant::DeadlineNeverGrows, timeout <= most, || {
                format!("{task:?} is given {timeout} ms of {most} ms")
            });
            let parent = submission.parent.as_ref();
            self.check_family(lease, timeout, parent.map(|(flow, _)| flow.0));
        }
    }

    /// A child has no more time than its flow.
    fn check_family(&mut self, lease: &'a Lease, timeout: u64, flow: Option<u64>) {
        let Some(flow) = flow.filter(|flow| !self.redriven.contains(flow)) else {
            return;
        };
        let Some(facts) = self.tasks.get(&flow) else {
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
        let Some((created, at)) = facts.created_at.zip(lease.broker_at) else {
            return;
        };
        let within = at.saturating_add(timeout) <= created.saturating_add(deadline);
        self.ensure(Invariant::DeadlineNeverGrows, within, || {
            format!("{:?} outlives its flow t{flow:x}", lease.task)
        });
    }

    /// Tasks of a line start one after the other: who starts after another began, waited for its end.
    fn check_line(&mut self, key: (&'a str, &'a str), lease: &'a Lease, redriven: bool) {
        let task = lease.task.0;
        let now = self.now;
        let Some(line) = self.lines.insert(key, Line { task }) else {
            return;
        };
        let holder = line.task;
        if holder == task {
            return;
        }
        let order = &key.1;
        let exempt = redriven || self.redriven.contains(&holder);
        self.ensure(Invariant::Ordered, exempt || holder < task, || {
            format!("t{task:x} starts after t{holder:x} began, both under {order:?}")
        });
        if !exempt {
            let facts = self.tasks.entry(holder).or_default();
            facts.overtaken = facts.overtaken.or(Some((now, task)));
        }
    }
}
