//! A worker as the protocol wants it: one stream, leases that are held over reconnections, handlers that go on
//! meanwhile, heartbeats both ways.

use std::time::Duration;

use plait::pb::v1::attach_request::Message as Request;
use plait::pb::v1::attach_response::Message;
use plait::pb::v1::worker_service_client::WorkerServiceClient;
use plait::pb::v1::{self as pb, AttachRequest, AttachResponse};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::desk::Desk;
use super::net;
use super::story::Shared;
use crate::history::{Event, Name};

/// Messages that may wait for the stream.
const OUTBOUND: usize = 64;

/// How often it says something, and how long it listens to silence.
const HEARTBEAT: Duration = Duration::from_secs(4);
const SILENCE: Duration = Duration::from_secs(15);

/// A worker's process.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) story: Shared,
    pub(super) name: Name,
    pub(super) methods: Vec<&'static str>,
    pub(super) slots: u32,
    pub(super) desk: Desk,
}

/// The stream that is open.
struct Link {
    requests: mpsc::Sender<AttachRequest>,
    answers: Streaming<AttachResponse>,
    welcomed: bool,
    received: u64,
    heard: Instant,
    said: Instant,
}

impl Link {
    async fn say(&mut self, message: Option<Request>) -> Result<(), Status> {
        self.said = Instant::now();
        let request = AttachRequest {
            accepted_sequence: self.received,
            message,
        };
        let said = self.requests.send(request).await;
        said.map_err(|_| Status::unavailable("the stream is closed"))
    }
}

impl Worker {
    pub(super) async fn run(mut self) -> turmoil::Result {
        while !self.story.is_declared() {
            sleep(Duration::from_millis(20)).await;
        }
        loop {
            let lost = self.stream().await;
            tracing::debug!(worker = %self.name, ?lost, "detached");
            let back = Instant::now() + Duration::from_millis(self.desk.dice().range(50, 2_000));
            self.work_until(back).await;
        }
    }

    /// Handlers go on without a stream.
    async fn work_until(&mut self, end: Instant) {
        loop {
            self.desk.work();
            let due = self.desk.due().unwrap_or(end).min(end);
            sleep_until(due).await;
            if Instant::now() >= end {
                return;
            }
        }
    }

    async fn open(&mut self) -> Result<Link, Status> {
        let channel = net::connect().await?;
        let (requests, queue) = mpsc::channel(OUTBOUND);
        let held = self.desk.held().into_iter();
        let hello = pb::WorkerHello {
            worker: self.name.to_string(),
            methods: self.methods.iter().map(ToString::to_string).collect(),
            slots: self.slots,
            held: held
                .map(|(task, token)| pb::HeldLease { task, token })
                .collect(),
            ..pb::WorkerHello::default()
        };
        let first = AttachRequest {
            accepted_sequence: 0,
            message: Some(Request::Hello(hello)),
        };
        let said = requests.send(first).await;
        said.map_err(|_| Status::unavailable("the stream is closed"))?;
        let mut client = WorkerServiceClient::new(channel);
        let answers = net::in_time(client.attach(ReceiverStream::new(queue))).await?;
        Ok(Link {
            requests,
            answers: answers.into_inner(),
            welcomed: false,
            received: 0,
            heard: Instant::now(),
            said: Instant::now(),
        })
    }

    /// One stream, until it ends.
    async fn stream(&mut self) -> Result<(), Status> {
        let mut link = self.open().await?;
        loop {
            if self.desk.work() && link.welcomed {
                self.tell(&mut link).await?;
            }
            let beat = link.said + if link.welcomed { HEARTBEAT } else { SILENCE };
            let beat = beat.min(link.heard + SILENCE);
            let due = self.desk.due().unwrap_or(beat).min(beat);
            tokio::select! {
                biased;
                answer = link.answers.message() => {
                    let answer = answer?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                    link.heard = Instant::now();
                    self.told(&mut link, answer).await?;
                }
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            if now >= link.heard + SILENCE {
                return Err(Status::unavailable("nothing was heard"));
            }
            if now >= link.said + HEARTBEAT && link.welcomed {
                let beat = Request::Heartbeat(pb::WorkerHeartbeat::default());
                link.say(Some(beat)).await?;
            }
        }
    }

    async fn tell(&mut self, link: &mut Link) -> Result<(), Status> {
        if let Some(back) = self.desk.hand_back() {
            link.say(Some(Request::HandBack(back))).await?;
        }
        if let Some(outcomes) = self.desk.outcomes() {
            link.say(Some(Request::Outcomes(outcomes))).await?;
        }
        Ok(())
    }

    async fn told(&mut self, link: &mut Link, answer: AttachResponse) -> Result<(), Status> {
        match answer.message {
            Some(Message::Welcome(welcome)) => {
                self.desk.welcomed(&welcome.lost);
                link.welcomed = true;
            }
            Some(Message::Attempts(frame)) => {
                link.received = frame.sequence;
                self.desk.receive(&frame);
                link.say(None).await?;
                self.maybe_deaf().await?;
            }
            Some(Message::Settled(settled)) => self.desk.settled(settled.sequence),
            Some(Message::Stop(stop)) => {
                for entry in &stop.entries {
                    self.desk.lose(entry.task, entry.token);
                }
            }
            Some(Message::Heartbeat(_) | Message::Drain(_) | Message::Flags(_)) | None => {}
        }
        Ok(())
    }

    /// Now and then a worker hears and says nothing for a while, or begins a new stream beside the old one.
    async fn maybe_deaf(&mut self) -> Result<(), Status> {
        if self.story.is_healing() {
            return Ok(());
        }
        let spans = match self.desk.dice().below(1_000) {
            0..4 => 17_000,
            4..14 => 1_000,
            14..20 => return Err(Status::cancelled("the worker begins a new stream")),
            _ => return Ok(()),
        };
        self.story.count("workers deaf");
        let span = self.desk.dice().span(spans);
        sleep(Duration::from_millis(span)).await;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.story.tell(Event::Detach {
            worker: self.name.clone(),
        });
    }
}
