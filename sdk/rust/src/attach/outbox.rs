//! What a worker has to tell the broker, until the broker has it.
//!
//! Pure: `attach.rs` moves the messages. Outcomes are kept until they are settled, because a broken stream does not
//! say which ones arrived.

use crate::attempt::Lease;
use crate::pb::v1::attach_request::Message as Request;
use crate::pb::v1::{
    AttachRequest, AttemptProgress, Failure, HandBackFrame, OutcomeFrame, Progress, ProgressFrame,
    WorkerDrain, WorkerHeartbeat, WorkerHello,
};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

/// Outcomes in one frame at most.
const OUTCOMES_MAX: usize = 256;

/// Bytes of responses after which a frame is full.
const BYTES_MAX: usize = 1 << 20;

/// How an attempt ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) lease: Lease,
    pub(crate) result: Result<Bytes, Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The hello waits in `hello`, or was sent; nothing else is until the welcome came.
    Greeting,
    Open,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    phase: Phase,
    hello: Option<WorkerHello>,
    accepted: u64,
    accepted_told: u64,
    outcomes: VecDeque<Outcome>,
    unsettled: VecDeque<Vec<Outcome>>,
    /// The number of the first unsettled frame.
    first_sequence: u64,
    progress: BTreeMap<Lease, Progress>,
    hand_back: Vec<Lease>,
    drain: Option<String>,
    heartbeat: Option<WorkerHeartbeat>,
    sent: bool,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Greeting,
            hello: None,
            accepted: 0,
            accepted_told: 0,
            outcomes: VecDeque::new(),
            unsettled: VecDeque::new(),
            first_sequence: 1,
            progress: BTreeMap::new(),
            hand_back: Vec::new(),
            drain: None,
            heartbeat: None,
            sent: false,
        }
    }

    /// A new stream begins with this hello. What was not settled is to be sent again.
    pub(crate) fn reopen(&mut self, hello: WorkerHello) {
        self.phase = Phase::Greeting;
        self.hello = Some(hello);
        (self.accepted, self.accepted_told) = (0, 0);
        for frame in std::mem::take(&mut self.unsettled).into_iter().rev() {
            for outcome in frame.into_iter().rev() {
                self.outcomes.push_front(outcome);
            }
        }
        self.first_sequence = 1;
        // Leases that are not in the hello are over, which is what handing back would do.
        self.hand_back.clear();
        self.heartbeat = None;
    }

    /// The broker is ready; these leases are no longer the worker's.
    pub(crate) fn welcome(&mut self, lost: &HashSet<Lease>) {
        self.phase = Phase::Open;
        self.outcomes
            .retain(|outcome| !lost.contains(&outcome.lease));
        self.progress.retain(|lease, _| !lost.contains(lease));
    }

    pub(crate) fn accept(&mut self, sequence: u64) {
        self.accepted = self.accepted.max(sequence);
    }

    pub(crate) fn push(&mut self, outcome: Outcome) {
        if !self.progress.is_empty() {
            self.progress.remove(&outcome.lease);
        }
        self.outcomes.push_back(outcome);
    }

    pub(crate) fn progress(&mut self, lease: Lease, progress: Progress) {
        self.progress.insert(lease, progress);
    }

    pub(crate) fn forget_progress(&mut self, lease: Lease) {
        self.progress.remove(&lease);
    }

    pub(crate) fn hand_back(&mut self, leases: impl IntoIterator<Item = Lease>) {
        self.hand_back.extend(leases);
    }

    pub(crate) fn drain(&mut self, reason: &str) {
        self.drain = Some(reason.to_owned());
    }

    /// Sends a heartbeat if nothing else was sent since the last call.
    pub(crate) fn beat(&mut self, heartbeat: WorkerHeartbeat) {
        if !std::mem::take(&mut self.sent) {
            self.heartbeat = Some(heartbeat);
        }
    }

    /// Frames up to this one are durable.
    pub(crate) fn settle(&mut self, sequence: u64) {
        while self.first_sequence <= sequence && self.unsettled.pop_front().is_some() {
            self.first_sequence += 1;
        }
    }

    /// Whether the broker has everything that it is to have.
    pub(crate) fn is_settled(&self) -> bool {
        self.outcomes.is_empty()
            && self.unsettled.is_empty()
            && self.hand_back.is_empty()
            && self.drain.is_none()
    }

    /// Leases whose outcome is on its way.
    pub(crate) fn held(&self) -> impl Iterator<Item = Lease> + '_ {
        self.unsettled
            .iter()
            .flatten()
            .chain(&self.outcomes)
            .map(|outcome| outcome.lease)
    }

    pub(crate) fn next_message(&mut self) -> Option<Arc<AttachRequest>> {
        let message = match self.phase {
            Phase::Greeting => Some(Request::Hello(self.hello.take()?)),
            Phase::Open => self.next_open(),
        };
        if message.is_none() && self.accepted == self.accepted_told {
            return None;
        }
        self.sent = true;
        self.accepted_told = self.accepted;
        Some(Arc::new(AttachRequest {
            accepted_sequence: self.accepted,
            message,
        }))
    }

    fn next_open(&mut self) -> Option<Request> {
        if let Some(reason) = self.drain.take() {
            return Some(Request::Drain(WorkerDrain { reason }));
        }
        if !self.hand_back.is_empty() {
            let leases = std::mem::take(&mut self.hand_back).into_iter();
            let (tasks, tokens) = leases.map(|lease| (lease.task, lease.token)).unzip();
            return Some(Request::HandBack(HandBackFrame { tasks, tokens }));
        }
        if !self.outcomes.is_empty() {
            return Some(Request::Outcomes(self.next_outcomes()));
        }
        if !self.progress.is_empty() {
            let entry = |(lease, progress): (Lease, Progress)| AttemptProgress {
                task: lease.task,
                token: lease.token,
                progress: Some(progress),
            };
            let entries = std::mem::take(&mut self.progress)
                .into_iter()
                .map(entry)
                .collect();
            return Some(Request::Progress(ProgressFrame { entries }));
        }
        self.heartbeat.take().map(Request::Heartbeat)
    }

    fn next_outcomes(&mut self) -> OutcomeFrame {
        let count = self.next_count();
        let outcomes: Vec<_> = self.outcomes.drain(..count).collect();
        let mut frame = OutcomeFrame {
            sequence: self.first_sequence + self.unsettled.len() as u64,
            tasks: Vec::with_capacity(count),
            tokens: Vec::with_capacity(count),
            payloads: Vec::with_capacity(count),
            failures: Vec::new(),
        };
        for (index, Outcome { lease, result }) in outcomes.iter().enumerate() {
            frame.tasks.push(lease.task);
            frame.tokens.push(lease.token);
            match result {
                Ok(payload) => frame.payloads.push(payload.clone()),
                Err(failure) => {
                    frame.payloads.push(Bytes::new());
                    frame.failures.push(Failure {
                        index: index as u32,
                        ..failure.clone()
                    });
                }
            }
        }
        self.unsettled.push_back(outcomes);
        frame
    }

    fn next_count(&self) -> usize {
        let mut bytes = 0;
        let fits = |outcome: &&Outcome| {
            let first = bytes == 0;
            bytes += 1 + match &outcome.result {
                Ok(payload) => payload.len(),
                Err(failure) => failure.message.len() + failure.details.len(),
            };
            first || bytes <= BYTES_MAX
        };
        self.outcomes
            .iter()
            .take(OUTCOMES_MAX)
            .take_while(fits)
            .count()
    }
}

#[cfg(test)]
mod tests;
