//! What the broker says to a session: welcomes, acceptances and results.

use super::frames;
use super::state::{News, Phase, Reaction, Sent, State};
use super::ticket::Ticket;
use crate::errors;
use crate::pb::v1::submit_stream_request::Message as Request;
use crate::pb::v1::submit_stream_response::Message as Response;
use crate::pb::v1::{
    AcceptedFrame, ResultFrame, SequencedAccepted, SessionWelcome, SubmitStreamRequest,
};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

impl State {
    /// Takes a message from the broker.
    pub(crate) fn receive(&mut self, message: Response) -> Reaction {
        match message {
            Response::Welcome(welcome) => {
                self.welcome(welcome);
                Reaction::default()
            }
            Response::Accepted(accepted) => self.accepted(accepted),
            Response::Results(results) => self.results(results),
        }
    }

    fn welcome(&mut self, welcome: SessionWelcome) {
        self.phase = Phase::Open;
        if welcome.frame_tasks_max > 0 {
            self.tasks_max = frames::TASKS_MAX.min(welcome.frame_tasks_max as usize);
        }
        if welcome.payload_bytes_max > 0 {
            self.payload_bytes_max = welcome.payload_bytes_max;
        }
        // A broker that knows less than was accepted has lost the session with all it held, or was wiped. The numbers
        // go on from what it knows; nothing that is sent again was accepted there.
        if welcome.last_sequence + 1 < self.first_sequence {
            self.renumber(welcome.last_sequence + 1);
        }
    }

    fn renumber(&mut self, first: u64) {
        self.unaccepted.retain(Option::is_some);
        self.first_sequence = first;
        for (sequence, sent) in (first..).zip(self.unaccepted.iter_mut().flatten()) {
            if let Some(Request::Submit(submit)) = &mut Arc::make_mut(&mut sent.request).message {
                submit.sequence = sequence;
            }
        }
    }

    fn accepted(&mut self, message: SequencedAccepted) -> Reaction {
        let place = message.sequence.checked_sub(self.first_sequence);
        let Some(place) = place.and_then(|place| usize::try_from(place).ok()) else {
            return Reaction::default();
        };
        if let Some(retry_after) = message.retry_after {
            // Those after it were refused, too, and say so themselves.
            self.sent = self.sent.min(place);
            let pause = Duration::try_from(retry_after).unwrap_or_default();
            let pause = Some(pause).filter(|_| !self.paused);
            self.paused = true;
            return Reaction {
                pause,
                ..Reaction::default()
            };
        }
        let Some(sent) = self.unaccepted.get_mut(place).and_then(Option::take) else {
            return Reaction::default();
        };
        while matches!(self.unaccepted.front(), Some(None)) {
            self.unaccepted.pop_front();
            self.first_sequence += 1;
            self.sent = self.sent.saturating_sub(1);
        }
        self.settle(sent, message.accepted.unwrap_or_default())
    }

    fn settle(&mut self, sent: Sent, accepted: AcceptedFrame) -> Reaction {
        let mut refusals: HashMap<u32, Status> = HashMap::new();
        for refusal in accepted.refusals {
            let status = errors::from_rpc(refusal.status.unwrap_or_default());
            refusals.insert(refusal.index, status);
        }
        let mut news = Vec::with_capacity(sent.tickets.len());
        for (index, ticket) in sent.tickets.into_iter().enumerate() {
            let refusal = take(&mut refusals, index);
            match accepted
                .tasks
                .get(index)
                .copied()
                .filter(|_| refusal.is_none())
            {
                Some(task) => news.extend(self.accept(task, ticket)),
                None => {
                    let short =
                        || Status::internal("the broker's answer is shorter than the frame");
                    let request = request_of(&sent.request, index);
                    news.push(News::Refused(
                        ticket,
                        refusal.unwrap_or_else(short),
                        request,
                    ));
                }
            }
        }
        Reaction {
            news,
            freed: sent.weight,
            pause: None,
        }
    }

    fn accept(&mut self, task: u64, ticket: Arc<Ticket>) -> Option<News> {
        if ticket.awaited {
            if ticket.is_abandoned() {
                self.tell_forget(task);
                return None;
            }
            self.add_waiter(task, Arc::clone(&ticket));
        }
        Some(News::Accepted(ticket, task))
    }

    fn results(&mut self, frame: ResultFrame) -> Reaction {
        let mut failures: HashMap<u32, _> = HashMap::new();
        failures.extend(
            frame
                .failures
                .into_iter()
                .map(|failure| (failure.index, failure)),
        );
        let mut news = Vec::with_capacity(frame.tasks.len());
        let mut payloads = frame.payloads.into_iter();
        for (index, task) in frame.tasks.into_iter().enumerate() {
            let payload = payloads.next().unwrap_or_default();
            // Unknown ones are of callers that went away while the result was under way.
            let Some(waiters) = self.waiters.remove(&task) else {
                continue;
            };
            let outcome = match take(&mut failures, index) {
                Some(failure) => Err(errors::from_failure(failure)),
                None => Ok(payload),
            };
            let more = waiters.more.into_iter();
            news.extend(more.map(|ticket| News::Done(ticket, task, outcome.clone())));
            news.push(News::Done(waiters.first, task, outcome));
        }
        Reaction {
            news,
            ..Reaction::default()
        }
    }
}

/// What a frame says of one of its tasks. Most say nothing of any, and hashing would cost more than the rest.
fn take<T>(exceptions: &mut HashMap<u32, T>, index: usize) -> Option<T> {
    if exceptions.is_empty() {
        return None;
    }
    exceptions.remove(&(index as u32))
}

/// The serialized request of one task of a frame.
fn request_of(message: &SubmitStreamRequest, index: usize) -> Bytes {
    let Some(Request::Submit(submit)) = &message.message else {
        return Bytes::new();
    };
    let payloads = submit.tasks.as_ref().map(|frame| &frame.payloads);
    payloads
        .and_then(|payloads| payloads.get(index))
        .cloned()
        .unwrap_or_default()
}
