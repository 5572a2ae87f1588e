//! A worker's stream, message by message.

use std::collections::VecDeque;

use plait::pb::v1 as pb;
use plait::pb::v1::attach_request::Message as Request;
use plait::pb::v1::attach_response::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Broker, ECHO, soon};

/// One attempt as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) task: u64,
    pub(crate) token: u64,
    pub(crate) method: u32,
    pub(crate) payload: Vec<u8>,
    pub(crate) timeout_ms: u64,
    pub(crate) extra: pb::AttemptExtra,
}

pub(crate) struct Worker {
    requests: mpsc::Sender<pb::AttachRequest>,
    answers: Streaming<pb::AttachResponse>,
    pub(crate) welcome: pb::WorkerWelcome,
    waiting: VecDeque<Got>,
    other: VecDeque<Message>,
    received: u64,
    sent: u64,
}

/// A hello of a worker that serves [`ECHO`].
pub(crate) fn hello(worker: &str) -> pb::WorkerHello {
    pb::WorkerHello {
        worker: worker.to_owned(),
        methods: vec![ECHO.to_owned()],
        slots: 8,
        ..pb::WorkerHello::default()
    }
}

impl Worker {
    /// Attaches a worker that serves [`ECHO`].
    pub(crate) async fn attach(broker: &Broker, worker: &str) -> Self {
        Self::attach_as(broker, hello(worker)).await.unwrap()
    }

    /// Attaches and takes the welcome.
    pub(crate) async fn attach_as(broker: &Broker, hello: pb::WorkerHello) -> Result<Self, Status> {
        let (requests, queue) = mpsc::channel(64);
        let first = pb::AttachRequest {
            message: Some(Request::Hello(hello)),
            ..Default::default()
        };
        requests.send(first).await.unwrap();
        let answers = broker.workers().attach(ReceiverStream::new(queue)).await?;
        let mut answers = answers.into_inner();
        let welcome = soon("a welcome", answers.message()).await?.unwrap();
        let Some(Message::Welcome(welcome)) = welcome.message else {
            panic!("{welcome:?}")
        };
        let (waiting, other) = Default::default();
        Ok(Self {
            requests,
            answers,
            welcome,
            waiting,
            other,
            received: 0,
            sent: 0,
        })
    }

    /// Says something; what was received is acknowledged with it.
    pub(crate) async fn send(&self, message: Option<Request>) {
        let request = pb::AttachRequest {
            accepted_sequence: self.received,
            message,
        };
        self.requests.send(request).await.unwrap();
    }

    /// The next attempt, acknowledged.
    pub(crate) async fn attempt(&mut self) -> Got {
        while self.waiting.is_empty() {
            let message = self.read().await.unwrap();
            self.keep(message).await;
        }
        self.waiting.pop_front().unwrap()
    }

    /// The next attempts.
    pub(crate) async fn attempts(&mut self, count: usize) -> Vec<Got> {
        let mut out = Vec::new();
        while out.len() < count {
            out.push(self.attempt().await);
        }
        out
    }

    /// The next message that is not a frame of attempts; heartbeats are passed over.
    pub(crate) async fn other(&mut self) -> Result<Message, Status> {
        loop {
            match self.other.pop_front() {
                Some(Message::Heartbeat(_)) => continue,
                Some(message) => return Ok(message),
                None => {
                    let message = self.read().await?;
                    self.keep(message).await;
                }
            }
        }
    }

    /// The next message, whatever it is; not acknowledged.
    pub(crate) async fn read(&mut self) -> Result<Message, Status> {
        let answer = soon("a message", self.answers.message()).await?;
        Ok(answer.expect("an open stream").message.unwrap())
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        while let Some(_passed) = soon("the end", self.answers.message()).await? {}
        Ok(())
    }

    /// Tells how attempts ended. Answers with the frame's number.
    pub(crate) async fn outcomes(
        &mut self,
        ended: Vec<(&Got, Result<Vec<u8>, pb::Failure>)>,
    ) -> u64 {
        self.sent += 1;
        let mut frame = pb::OutcomeFrame {
            sequence: self.sent,
            ..pb::OutcomeFrame::default()
        };
        for (index, (got, result)) in ended.into_iter().enumerate() {
            frame.tasks.push(got.task);
            frame.tokens.push(got.token);
            frame.payloads.push(
                result
                    .as_ref()
                    .map_or_else(|_| Vec::new(), Clone::clone)
                    .into(),
            );
            frame.failures.extend(result.err().map(|f| pb::Failure {
                index: index as u32,
                ..f
            }));
        }
        self.send(Some(Request::Outcomes(frame))).await;
        self.sent
    }

    /// Ends one attempt and waits until that is durable.
    pub(crate) async fn succeed(&mut self, got: &Got, response: &[u8]) -> pb::SettledFrame {
        self.outcomes(vec![(got, Ok(response.to_vec()))]).await;
        self.settled().await
    }

    /// Fails one attempt and waits until that is durable.
    pub(crate) async fn fail(&mut self, got: &Got, code: tonic::Code) -> pb::SettledFrame {
        let failure = pb::Failure {
            code: code as u32,
            message: "it failed".to_owned(),
            ..pb::Failure::default()
        };
        self.outcomes(vec![(got, Err(failure))]).await;
        self.settled().await
    }

    /// The next settlement.
    pub(crate) async fn settled(&mut self) -> pb::SettledFrame {
        match self.other().await.unwrap() {
            Message::Settled(settled) => settled,
            other => panic!("{other:?} in place of a settlement"),
        }
    }

    async fn keep(&mut self, message: Message) {
        match message {
            Message::Attempts(frame) => {
                assert_eq!(frame.sequence, self.received + 1);
                self.received = frame.sequence;
                self.unpack(frame);
                self.send(None).await;
            }
            other => self.other.push_back(other),
        }
    }

    fn unpack(&mut self, frame: pb::AttemptFrame) {
        let mut extras = frame.extras.into_iter().peekable();
        for (index, task) in frame.tasks.iter().enumerate() {
            let extra = extras
                .next_if(|extra| extra.index as usize == index)
                .unwrap_or_default();
            self.waiting.push_back(Got {
                task: *task,
                token: frame.tokens[index],
                method: frame.method_index.get(index).copied().unwrap_or(0),
                payload: frame.payloads[index].to_vec(),
                timeout_ms: frame.timeout_ms[index],
                extra,
            });
        }
    }
}
