//! The state of a session: what waits, what is under way, who waits for results.
//!
//! Pure: it has no socket, no clock and no task; `session.rs` moves the messages. It hands out what to tell callers
//! instead of telling them, because a caller that is woken or dropped may come back for the lock it is under.

use super::frames::{self, Batch, Submission};
use super::ticket::{FlowId, Outcome, Ticket};
use crate::errors::{self, ErrorReason};
use crate::number_map::NumberMap;
use crate::pb::v1::submit_stream_request::Message as Request;
use crate::pb::v1::{AwaitFrame, FlowParent, SequencedSubmit, SessionHello, SubmitStreamRequest};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Tasks in one `AwaitFrame` at most, so that no message grows with what is outstanding.
const AWAIT_MAX: usize = 4_096;

/// Name and version of this SDK, for people.
pub(crate) const CLIENT: &str = concat!("plait-rust/", env!("CARGO_PKG_VERSION"));

/// What a caller is to be told, outside the lock.
#[derive(Debug)]
pub(crate) enum News {
    Accepted(Arc<Ticket>, u64),
    Refused(Arc<Ticket>, Status, Bytes),
    Done(Arc<Ticket>, u64, Outcome),
}

impl News {
    pub(crate) fn tell(self) {
        match self {
            Self::Accepted(ticket, task) => ticket.accept(task),
            Self::Refused(ticket, status, request) => ticket.refuse(status, request),
            Self::Done(ticket, task, outcome) => ticket.finish(task, outcome),
        }
    }
}

/// What a message from the broker led to.
#[derive(Debug, Default)]
pub(crate) struct Reaction {
    pub(crate) news: Vec<News>,
    /// Permits of the bound on memory that came free.
    pub(crate) freed: u32,
    /// Sending submissions pauses for so long.
    pub(crate) pause: Option<Duration>,
}

/// A frame that is kept until it is accepted.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) request: Arc<SubmitStreamRequest>,
    pub(super) tickets: Vec<Arc<Ticket>>,
    pub(super) weight: u32,
}

/// Where the present stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The hello has to be sent.
    Opening,
    /// The hello was sent; nothing else is until the welcome came.
    Greeting,
    Open,
}

/// Those who wait for one task; nearly always one.
#[derive(Debug)]
pub(super) struct Waiters {
    pub(super) first: Arc<Ticket>,
    pub(super) more: Vec<Arc<Ticket>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    session: Bytes,
    pub(super) phase: Phase,
    /// Without and with results wanted: a frame says one or the other of all its tasks.
    queues: [VecDeque<Submission>; 2],
    turn: usize,
    /// Frames that are not accepted, in order; the first has the number `first_sequence`.
    pub(super) unaccepted: VecDeque<Option<Sent>>,
    pub(super) first_sequence: u64,
    /// How many of them were sent on the present stream.
    pub(super) sent: usize,
    pub(super) paused: bool,
    pub(super) waiters: NumberMap<u64, Waiters>,
    awaits: BTreeMap<Option<FlowId>, Vec<u64>>,
    forgets: Vec<u64>,
    pub(super) tasks_max: usize,
    pub(super) payload_bytes_max: u64,
}

impl State {
    /// A session that has not been opened. `session` is 16 random bytes.
    pub(crate) fn new(session: Bytes) -> Self {
        Self {
            session,
            phase: Phase::Opening,
            queues: Default::default(),
            turn: 0,
            unaccepted: VecDeque::new(),
            first_sequence: 1,
            sent: 0,
            paused: false,
            waiters: NumberMap::default(),
            awaits: BTreeMap::new(),
            forgets: Vec::new(),
            tasks_max: frames::TASKS_MAX,
            payload_bytes_max: u64::MAX,
        }
    }

    /// Queues a task.
    pub(crate) fn submit(&mut self, submission: Submission) {
        self.queues[usize::from(submission.ticket.awaited)].push_back(submission);
    }

    /// Asks for the result of a task that was accepted before.
    pub(crate) fn await_result(&mut self, task: u64, ticket: Arc<Ticket>) {
        // One message holds both, and must not take back what it asks for.
        self.forgets.retain(|forgotten| *forgotten != task);
        self.awaits.entry(ticket.flow).or_default().push(task);
        self.add_waiter(task, ticket);
    }

    /// A caller no longer waits for this task. Others may.
    pub(crate) fn forget(&mut self, task: u64) {
        let Some(mut waiters) = self.waiters.remove(&task) else {
            return;
        };
        waiters.more.retain(|ticket| !ticket.is_abandoned());
        if waiters.first.is_abandoned() {
            match waiters.more.pop() {
                Some(ticket) => waiters.first = ticket,
                None => return self.tell_forget(task),
            }
        }
        self.waiters.insert(task, waiters);
    }

    /// A stream that is opened anew asks only for what is wanted then.
    pub(super) fn tell_forget(&mut self, task: u64) {
        if self.phase == Phase::Open {
            self.forgets.push(task);
        }
    }

    pub(super) fn add_waiter(&mut self, task: u64, ticket: Arc<Ticket>) {
        use std::collections::hash_map::Entry;
        match self.waiters.entry(task) {
            Entry::Occupied(mut waiters) => waiters.get_mut().more.push(ticket),
            Entry::Vacant(entry) => drop(entry.insert(Waiters {
                first: ticket,
                more: Vec::new(),
            })),
        }
    }

    /// The stream broke, or a first one is about to be opened.
    pub(crate) fn reopen(&mut self) {
        self.phase = Phase::Opening;
        self.sent = 0;
        self.paused = false;
        self.forgets.clear();
        self.awaits.clear();
        for (task, waiters) in &self.waiters {
            self.awaits
                .entry(waiters.first.flow)
                .or_default()
                .push(*task);
        }
    }

    /// The pause that `Reaction::pause` asked for is over.
    pub(crate) fn resume(&mut self) {
        self.paused = false;
    }

    /// The next message to send, if there is one. `news` gets what is refused on the way.
    pub(crate) fn next_message(&mut self, news: &mut Reaction) -> Option<Arc<SubmitStreamRequest>> {
        match self.phase {
            Phase::Opening => {
                self.phase = Phase::Greeting;
                let hello = SessionHello {
                    session: self.session.clone(),
                    client: CLIENT.to_owned(),
                };
                Some(request(Request::Hello(hello)))
            }
            Phase::Greeting => None,
            Phase::Open => self.next_await().or_else(|| self.next_submit(news)),
        }
    }

    fn next_await(&mut self) -> Option<Arc<SubmitStreamRequest>> {
        let forget = split(&mut self.forgets);
        let entry = self.awaits.first_entry();
        let (flow, tasks) = match entry {
            Some(mut entry) => {
                let (flow, tasks) = (*entry.key(), split(entry.get_mut()));
                if entry.get().is_empty() {
                    entry.remove();
                }
                (flow, tasks)
            }
            None if forget.is_empty() => return None,
            None => (None, Vec::new()),
        };
        let parent = flow.map(|(task, token)| FlowParent {
            task,
            token,
            ..FlowParent::default()
        });
        Some(request(Request::Await(AwaitFrame {
            tasks,
            forget,
            parent,
        })))
    }

    fn next_submit(&mut self, news: &mut Reaction) -> Option<Arc<SubmitStreamRequest>> {
        if self.paused {
            return None;
        }
        while let Some(frame) = self.unaccepted.get(self.sent) {
            self.sent += 1;
            if let Some(frame) = frame {
                return Some(Arc::clone(&frame.request));
            }
        }
        for _ in 0..2 {
            self.turn ^= 1;
            self.refuse_too_large(news);
            if self.is_queue_due(self.turn) {
                let batch = frames::take(&mut self.queues[self.turn], self.tasks_max);
                return Some(self.number(batch, self.turn == 1));
            }
        }
        None
    }

    /// Whether there is something to send now.
    pub(crate) fn is_due(&self) -> bool {
        let awaits = || !self.awaits.is_empty() || !self.forgets.is_empty();
        let again = || self.unaccepted.len() > self.sent;
        let submit = || !self.paused && (again() || (0..2).any(|queue| self.is_queue_due(queue)));
        match self.phase {
            Phase::Opening => true,
            Phase::Greeting => false,
            Phase::Open => awaits() || submit(),
        }
    }

    /// A frame that is not full waits for those under way: the broker makes what arrives during a sync durable with the
    /// next one, so more frames at once would make each smaller and none earlier.
    fn is_queue_due(&self, queue: usize) -> bool {
        let waiting = self.queues[queue].len();
        waiting > 0 && (self.sent < frames::UNDER_WAY || waiting >= frames::TASKS_MAX / 2)
    }

    /// A payload over the limit would break the stream each time it is sent.
    fn refuse_too_large(&mut self, news: &mut Reaction) {
        let limit = self.payload_bytes_max;
        let queue = &mut self.queues[self.turn];
        let too_large = |submission: &Submission| submission.payload.len() as u64 > limit;
        if !queue.iter().take(self.tasks_max).any(too_large) {
            return;
        }
        let (refused, kept) = std::mem::take(queue).into_iter().partition(too_large);
        *queue = kept;
        for submission in Vec::from(refused) as Vec<Submission> {
            let size = submission.payload.len();
            let message = format!("the request has {size} bytes and the limit is {limit}");
            let metadata = [("size", size.to_string()), ("limit", limit.to_string())];
            let status = errors::refusal(ErrorReason::TooLarge, message, metadata);
            news.freed += submission.weight;
            news.news
                .push(News::Refused(submission.ticket, status, submission.payload));
        }
    }

    fn number(&mut self, batch: Batch, awaited: bool) -> Arc<SubmitStreamRequest> {
        let sequence = self.first_sequence + self.unaccepted.len() as u64;
        let Batch {
            frame,
            tickets,
            weight,
        } = batch;
        let submit = SequencedSubmit {
            sequence,
            tasks: Some(frame),
            r#await: awaited,
        };
        let request = request(Request::Submit(submit));
        self.unaccepted.push_back(Some(Sent {
            request: Arc::clone(&request),
            tickets,
            weight,
        }));
        self.sent = self.unaccepted.len();
        request
    }

    /// Gives up everything that is outstanding, for the reason that each caller is told, and begins `session` anew.
    pub(crate) fn fail(&mut self, status: &Status, session: Bytes) -> Reaction {
        let mut reaction = Reaction::default();
        let sent = std::mem::take(&mut self.unaccepted).into_iter().flatten();
        let (mut tickets, mut freed) = (Vec::new(), 0);
        for sent in sent {
            tickets.extend(sent.tickets);
            freed += sent.weight;
        }
        for submission in self.queues.iter_mut().flat_map(std::mem::take) {
            tickets.push(submission.ticket);
            freed += submission.weight;
        }
        for (_, waiters) in self.waiters.drain() {
            tickets.push(waiters.first);
            tickets.extend(waiters.more);
        }
        reaction.news = tickets
            .into_iter()
            .map(|t| News::Refused(t, status.clone(), Bytes::new()))
            .collect();
        reaction.freed = freed;
        *self = Self::new(session);
        reaction
    }

    /// Whether nothing waits to be accepted.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unaccepted.is_empty() && self.queues.iter().all(VecDeque::is_empty)
    }
}

fn request(message: Request) -> Arc<SubmitStreamRequest> {
    Arc::new(SubmitStreamRequest {
        message: Some(message),
    })
}

/// The last `AWAIT_MAX` of them.
fn split(tasks: &mut Vec<u64>) -> Vec<u64> {
    tasks.split_off(tasks.len().saturating_sub(AWAIT_MAX))
}

#[cfg(test)]
mod tests;
