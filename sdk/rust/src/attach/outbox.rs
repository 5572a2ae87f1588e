//! What a worker has to tell the broker, until the broker has it.
//!
//! Pure: `attach.rs` moves the messages. Outcomes are kept until they are settled, because a broken stream does not
//! say which ones arrived.

use crate::attempt::Lease;
use crate::errors::Ended;
use crate::pb::v1::attach_request::Message as Request;
use crate::pb::v1::{
    AttachRequest, AttemptProgress, Failure, HandBackFrame, OutcomeFrame, Progress, ProgressFrame,
    WorkerDrain, WorkerHeartbeat, WorkerHello,
};
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

/// Outcomes in one frame at most.
const OUTCOMES_MAX: usize = 256;

/// Frames that were sent and are not settled, beyond which only full ones are sent.
const UNDER_WAY: usize = 2;

/// Bytes of responses after which a frame is full.
const BYTES_MAX: usize = 1 << 20;

/// How an attempt ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) lease: Lease,
    pub(crate) result: Ended,
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
    unsettled: VecDeque<Arc<AttachRequest>>,
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
        for message in std::mem::take(&mut self.unsettled).into_iter().rev() {
            for outcome in outcomes_of(&message).into_iter().rev() {
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
        let unsettled = self
            .unsettled
            .iter()
            .flat_map(|message| outcomes_of(message));
        let queued = self.outcomes.iter().map(|outcome| outcome.lease);
        unsettled.map(|outcome| outcome.lease).chain(queued)
    }

    pub(crate) fn next_message(&mut self) -> Option<Arc<AttachRequest>> {
        let message = match self.phase {
            Phase::Greeting => Some(Request::Hello(self.hello.take()?)),
            Phase::Open => self.next_open(),
        };
        // With outcomes that wait, the acknowledgement goes along with them.
        if message.is_none() && !self.is_acknowledgement_due() {
            return None;
        }
        self.sent = true;
        self.accepted_told = self.accepted;
        let is_outcomes = matches!(message, Some(Request::Outcomes(_)));
        let message = Arc::new(AttachRequest {
            accepted_sequence: self.accepted,
            message,
        });
        if is_outcomes {
            self.unsettled.push_back(Arc::clone(&message));
        }
        Some(message)
    }

    /// Whether there is something to send now.
    pub(crate) fn is_due(&self) -> bool {
        match self.phase {
            Phase::Greeting => self.hello.is_some(),
            Phase::Open => {
                self.is_outcome_due()
                    || self.is_acknowledgement_due()
                    || self.drain.is_some()
                    || self.heartbeat.is_some()
                    || !self.hand_back.is_empty()
                    || !self.progress.is_empty()
            }
        }
    }

    /// A frame that is not full waits for those under way: the broker makes what arrives during a sync durable with the
    /// next one, so more frames at once would make each smaller and none earlier.
    pub(crate) fn is_outcome_due(&self) -> bool {
        let waiting = self.outcomes.len();
        let room = self.unsettled.len() < UNDER_WAY || waiting >= OUTCOMES_MAX / 2;
        self.phase == Phase::Open && waiting > 0 && room
    }

    fn is_acknowledgement_due(&self) -> bool {
        self.accepted != self.accepted_told && self.outcomes.is_empty()
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
        if self.is_outcome_due() {
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
        let mut frame = OutcomeFrame {
            sequence: self.first_sequence + self.unsettled.len() as u64,
            tasks: Vec::with_capacity(count),
            tokens: Vec::with_capacity(count),
            payloads: Vec::with_capacity(count),
            failures: Vec::new(),
        };
        for (index, Outcome { lease, result }) in self.outcomes.drain(..count).enumerate() {
            frame.tasks.push(lease.task);
            frame.tokens.push(lease.token);
            frame.payloads.push(result.unwrap_or_else(|failure| {
                frame.failures.push(Failure {
                    index: index as u32,
                    ..*failure
                });
                Bytes::new()
            }));
        }
        frame
    }

    fn next_count(&self) -> usize {
        let mut bytes = 0;
        let fits = |outcome: &&Outcome| {
            let first = bytes == 0;
            bytes += 1 + match &outcome.result {
                Ok(payload) => payload.len(),
                Err(failure) => failure.encoded_len(),
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

/// The outcomes of a frame, for another one.
fn outcomes_of(message: &AttachRequest) -> Vec<Outcome> {
    let Some(Request::Outcomes(frame)) = &message.message else {
        return Vec::new();
    };
    let mut failures = frame.failures.iter().peekable();
    let leases = frame.tasks.iter().zip(&frame.tokens).zip(&frame.payloads);
    let outcome = |(index, ((task, token), payload)): (usize, ((&u64, &u64), &Bytes))| {
        let failure = failures.next_if(|failure| failure.index as usize == index);
        let lease = Lease {
            task: *task,
            token: *token,
        };
        let result = failure.map_or_else(|| Ok(payload.clone()), |f| Err(Box::new(f.clone())));
        Outcome { lease, result }
    };
    leases.enumerate().map(outcome).collect()
}

#[cfg(test)]
mod tests;
