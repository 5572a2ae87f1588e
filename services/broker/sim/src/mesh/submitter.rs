//! A submitter as the protocol wants it: one stream, numbered frames that are kept until they are accepted and sent
//! again in order after a reconnection, and results that are awaited for as long as it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plait::pb::v1::submit_stream_request::Message as Request;
use plait::pb::v1::submit_stream_response::Message;
use plait::pb::v1::task_service_client::TaskServiceClient;
use plait::pb::v1::{self as pb, SubmitStreamRequest, SubmitStreamResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::draft::Draft;
use super::look;
use super::net;
use super::plan::Plan;
use super::story::Shared;
use crate::check::Invariant;
use crate::dice::Dice;
use crate::history::{Digest, Event, Name, State, Task, Told};
use crate::world::submit::number_of;

/// Frames that a client keeps unaccepted at most.
const UNACKED_MAX: usize = 20;

/// Messages that may wait for the stream.
const OUTBOUND: usize = 64;

/// A frame that was sent.
#[derive(Debug, Clone)]
struct Frame {
    drafts: Vec<Draft>,
    wait: bool,
}

/// A client's process.
#[derive(Debug)]
pub(super) struct Submitter {
    story: Shared,
    plan: Plan,
    dice: Dice,
    name: Name,
    session: [u8; 16],
    sequence: u64,
    accepted: u64,
    unaccepted: BTreeMap<u64, Frame>,
    waiting: BTreeSet<u64>,
    next_act: Instant,
}

/// The stream that is open.
struct Link {
    channel: Channel,
    requests: mpsc::Sender<SubmitStreamRequest>,
    welcomed: bool,
}

impl Link {
    async fn say(&self, message: Request) -> Result<(), Status> {
        let request = SubmitStreamRequest {
            message: Some(message),
        };
        let said = self.requests.send(request).await;
        said.map_err(|_| Status::unavailable("the stream is closed"))
    }
}

impl Submitter {
    pub(super) fn new(story: Shared, plan: Plan, mut dice: Dice, name: Name) -> Self {
        let session = u128::from(dice.number()) << 64 | u128::from(dice.number());
        Self {
            story,
            plan,
            dice,
            name,
            session: session.to_le_bytes(),
            sequence: 0,
            accepted: 0,
            unaccepted: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next_act: Instant::now(),
        }
    }

    pub(super) async fn run(mut self) -> turmoil::Result {
        while !self.story.is_declared() {
            sleep(Duration::from_millis(20)).await;
        }
        self.plan_act();
        loop {
            let lost = self.stream().await;
            tracing::debug!(client = %self.name, ?lost, "the stream ended");
            sleep(Duration::from_millis(self.dice.range(50, 2_000))).await;
        }
    }

    fn plan_act(&mut self) {
        let span = self.dice.span(self.plan.client_every);
        self.next_act = Instant::now() + Duration::from_millis(span);
    }

    /// One stream, until it ends.
    async fn stream(&mut self) -> Result<(), Status> {
        let channel = net::connect().await?;
        let (requests, queue) = mpsc::channel(OUTBOUND);
        let mut link = Link {
            channel: channel.clone(),
            requests,
            welcomed: false,
        };
        let hello = pb::SessionHello {
            session: self.session.to_vec().into(),
            client: self.name.to_string(),
        };
        link.say(Request::Hello(hello)).await?;
        let mut client = TaskServiceClient::new(channel);
        let opening = client.submit_stream(ReceiverStream::new(queue));
        let mut answers = net::in_time(opening).await?.into_inner();
        loop {
            let busy = !self.story.is_healing();
            tokio::select! {
                biased;
                answer = answers.message() => self.told(&mut link, answer?).await?,
                () = sleep_until(self.next_act), if busy => self.act(&link).await?,
            }
        }
    }

    async fn act(&mut self, link: &Link) -> Result<(), Status> {
        self.plan_act();
        if self.story.is_healing() {
            return Ok(());
        }
        match self.dice.below(100) {
            0..72 => self.submit(link).await?,
            72..82 => {
                let task = self.some_task();
                look::cancel(&self.story, &link.channel, task);
            }
            82..90 => {
                let task = self.some_task();
                look::get(&self.story, &link.channel, task);
            }
            90..94 => {
                if let Some(task) = self.waiting.pop_last() {
                    let forget = pb::AwaitFrame {
                        forget: vec![task],
                        ..pb::AwaitFrame::default()
                    };
                    link.say(Request::Await(forget)).await?;
                }
            }
            _ => {
                self.story.count("streams left by clients");
                return Err(Status::cancelled("the client begins a new stream"));
            }
        }
        self.note();
        Ok(())
    }

    fn some_task(&mut self) -> Option<u64> {
        let back = self.dice.below(12) as usize;
        self.story
            .with(|story| story.acknowledged.iter().rev().nth(back).copied())
    }

    async fn submit(&mut self, link: &Link) -> Result<(), Status> {
        if self.unaccepted.len() >= UNACKED_MAX {
            return Ok(());
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let count = 1 + self.dice.below(self.plan.frame);
        let drafts: Vec<Draft> = (0..count)
            .map(|_| {
                self.story
                    .with(|story| Draft::draw(&mut self.dice, &self.plan, story))
            })
            .collect();
        for (index, draft) in drafts.iter().enumerate() {
            let wanted = draft.submission(&self.name, (sequence, index as u32));
            self.story.tell(Event::SubmitInvoke(wanted));
        }
        let wait = self.dice.permille(850);
        let frame = Frame { drafts, wait };
        self.unaccepted.insert(sequence, frame.clone());
        if link.welcomed {
            link.say(Self::message(sequence, &frame)).await?;
        }
        Ok(())
    }

    fn message(sequence: u64, frame: &Frame) -> Request {
        Request::Submit(pb::SequencedSubmit {
            sequence,
            tasks: Some(Draft::frame(&frame.drafts)),
            r#await: frame.wait,
        })
    }

    async fn told(
        &mut self,
        link: &mut Link,
        answer: Option<SubmitStreamResponse>,
    ) -> Result<(), Status> {
        let answer = answer.ok_or_else(|| Status::unavailable("the stream ended"))?;
        match answer.message {
            Some(Message::Welcome(welcome)) => {
                self.welcomed(welcome.last_sequence);
                link.welcomed = true;
                self.send_again(link, 0).await?;
                if !self.waiting.is_empty() {
                    let wanted = pb::AwaitFrame {
                        tasks: self.waiting.iter().copied().collect(),
                        ..pb::AwaitFrame::default()
                    };
                    link.say(Request::Await(wanted)).await?;
                }
            }
            Some(Message::Accepted(told)) => match told.accepted {
                Some(accepted) => self.accept(told.sequence, &accepted),
                None => {
                    sleep(Duration::from_millis(200)).await;
                    self.send_again(link, told.sequence).await?;
                }
            },
            Some(Message::Results(frame)) => self.results(&frame),
            None => {}
        }
        self.note();
        Ok(())
    }

    fn welcomed(&self, last: u64) {
        if last < self.accepted {
            let (name, accepted) = (&self.name, self.accepted);
            let text = format!("{name} had frame {accepted} accepted, and {last} are known");
            self.story.wrong(Invariant::AckedIsKept, text);
        }
    }

    async fn send_again(&self, link: &Link, from: u64) -> Result<(), Status> {
        for (sequence, frame) in self.unaccepted.range(from..) {
            self.story.count("frames sent again");
            link.say(Self::message(*sequence, frame)).await?;
        }
        Ok(())
    }

    fn accept(&mut self, sequence: u64, accepted: &pb::AcceptedFrame) {
        self.accepted = self.accepted.max(sequence);
        let Some(frame) = self.unaccepted.remove(&sequence) else {
            return;
        };
        for (index, (draft, task)) in frame.drafts.iter().zip(&accepted.tasks).enumerate() {
            let index = index as u32;
            if *task == 0 {
                let refusal = accepted.refusals.iter().find(|r| r.index == index);
                let reason = refusal.map_or("?", look::reason).into();
                self.story.tell(Event::SubmitFail {
                    id: draft.id,
                    reason,
                });
                continue;
            }
            if frame.wait {
                self.waiting.insert(*task);
            }
            self.story.with(|story| {
                story.acknowledged.insert(*task);
                let created_at = story.created(*task);
                story.tell(Event::SubmitOk {
                    id: draft.id,
                    task: Task(*task),
                    existing: accepted.existing.contains(&index),
                    created_at,
                });
            });
        }
    }

    fn results(&mut self, frame: &pb::ResultFrame) {
        for (index, task) in frame.tasks.iter().enumerate() {
            self.waiting.remove(task);
            let failure = frame.failures.iter().find(|f| f.index as usize == index);
            let payload = frame.payloads.get(index).and_then(|bytes| number_of(bytes));
            let (state, code) = match failure {
                None => (State::Succeeded, 0),
                Some(failure) if failure.code == 5 => (State::NotFound, 5),
                Some(failure) => (look::state(failure.state), failure.code),
            };
            if failure.is_none() && payload.is_none() {
                let text = format!("the response of t{task:x} is not what was written");
                self.story.wrong(Invariant::ResultIsOutcome, text);
            }
            self.story.tell(Event::Result(Told {
                task: Task(*task),
                state,
                code,
                digest: payload.filter(|_| failure.is_none()).map(Digest),
                attempt: None,
                dead_letter: None,
                broker_at: None,
            }));
        }
    }

    /// Says whether this client still waits for something.
    fn note(&self) {
        let content = self.unaccepted.is_empty() && self.waiting.is_empty();
        self.story.with(|story| match content {
            true => story.waiting.remove(&self.name),
            false => story.waiting.insert(self.name.clone()),
        });
    }
}

impl Drop for Submitter {
    /// The process is gone: nobody knows what becomes of what it had sent.
    fn drop(&mut self) {
        self.story.with(|story| {
            story.waiting.remove(&self.name);
            for draft in self.unaccepted.values().flat_map(|frame| &frame.drafts) {
                story.tell(Event::SubmitInfo { id: draft.id });
            }
        });
    }
}
