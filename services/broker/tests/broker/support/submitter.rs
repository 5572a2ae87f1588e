//! A submitter's stream, message by message.

use std::collections::BTreeMap;

use plait::pb::v1 as pb;
use plait::pb::v1::submit_stream_request::Message as Request;
use plait::pb::v1::submit_stream_response::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Broker, soon};

/// How a task ended, as its waiter is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ended {
    Response(Vec<u8>),
    Failure(pb::Failure),
}

pub(crate) struct Submitter {
    requests: mpsc::Sender<pb::SubmitStreamRequest>,
    answers: Streaming<pb::SubmitStreamResponse>,
    /// What the welcome said.
    pub(crate) last_sequence: u64,
    /// What the welcome said, too.
    pub(crate) synced: bool,
    results: BTreeMap<u64, Ended>,
    accepted: BTreeMap<u64, pb::SequencedAccepted>,
}

impl Submitter {
    /// Opens a stream of the session and takes the welcome.
    pub(crate) async fn open(broker: &Broker, session: u8) -> Self {
        let (requests, queue) = mpsc::channel(64);
        let hello = pb::SessionHello {
            session: vec![session; 16].into(),
            client: String::new(),
        };
        let hello = pb::SubmitStreamRequest {
            message: Some(Request::Hello(hello)),
        };
        requests.send(hello).await.unwrap();
        let answers = broker
            .tasks()
            .submit_stream(ReceiverStream::new(queue))
            .await
            .unwrap();
        let mut answers = answers.into_inner();
        let welcome = soon("a welcome", answers.message()).await.unwrap().unwrap();
        let Some(Message::Welcome(welcome)) = welcome.message else {
            panic!("{welcome:?}")
        };
        Self {
            requests,
            answers,
            last_sequence: welcome.last_sequence,
            synced: welcome.synced,
            results: BTreeMap::new(),
            accepted: BTreeMap::new(),
        }
    }

    pub(crate) async fn send(&self, message: Request) {
        self.requests
            .send(pb::SubmitStreamRequest {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    /// Submits a frame whose results are wanted.
    pub(crate) async fn submit(&self, sequence: u64, frame: pb::SubmitFrame) {
        let submit = pb::SequencedSubmit {
            sequence,
            tasks: Some(frame),
            r#await: true,
        };
        self.send(Request::Submit(submit)).await;
    }

    /// Submits and waits for the acceptance. Answers with the numbers of the tasks.
    pub(crate) async fn accept(&mut self, sequence: u64, frame: pb::SubmitFrame) -> Vec<u64> {
        self.submit(sequence, frame).await;
        self.accepted(sequence).await.accepted.unwrap().tasks
    }

    /// Asks for the results of tasks.
    pub(crate) async fn wait_for(&self, tasks: &[u64]) {
        let wanted = pb::AwaitFrame {
            tasks: tasks.to_vec(),
            ..pb::AwaitFrame::default()
        };
        self.send(Request::Await(wanted)).await;
    }

    /// The answer to a frame.
    pub(crate) async fn accepted(&mut self, sequence: u64) -> pb::SequencedAccepted {
        self.try_accepted(sequence).await.unwrap()
    }

    /// The answer to a frame, or how the stream ended before it.
    pub(crate) async fn try_accepted(
        &mut self,
        sequence: u64,
    ) -> Result<pb::SequencedAccepted, Status> {
        loop {
            if let Some(accepted) = self.accepted.remove(&sequence) {
                return Ok(accepted);
            }
            assert!(self.read().await?, "the stream ended without an answer");
        }
    }

    /// How a task ended.
    pub(crate) async fn result(&mut self, task: u64) -> Ended {
        loop {
            if let Some(ended) = self.results.remove(&task) {
                return ended;
            }
            self.read().await.unwrap();
        }
    }

    /// The response of a task.
    pub(crate) async fn response(&mut self, task: u64) -> Vec<u8> {
        match self.result(task).await {
            Ended::Response(response) => response,
            Ended::Failure(failure) => panic!("{failure:?}"),
        }
    }

    /// The failure of a task.
    pub(crate) async fn failure(&mut self, task: u64) -> pb::Failure {
        match self.result(task).await {
            Ended::Failure(failure) => failure,
            Ended::Response(response) => panic!("{response:?}"),
        }
    }

    /// Results that came and were not asked about.
    pub(crate) fn unread_results(&self) -> usize {
        self.results.len()
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        while self.read().await? {}
        Ok(())
    }

    /// Closes the sending side.
    pub(crate) fn close(&mut self) {
        self.requests = mpsc::channel(1).0;
    }

    async fn read(&mut self) -> Result<bool, Status> {
        let answer = soon("an answer", self.answers.message()).await?;
        match answer.and_then(|answer| answer.message) {
            Some(Message::Accepted(accepted)) => {
                self.accepted.insert(accepted.sequence, accepted);
            }
            Some(Message::Results(results)) => self.take(results),
            Some(Message::Welcome(_)) => panic!("a second welcome"),
            None => return Ok(false),
        }
        Ok(true)
    }

    fn take(&mut self, frame: pb::ResultFrame) {
        assert_eq!(frame.tasks.len(), frame.payloads.len());
        for (task, payload) in frame.tasks.iter().zip(&frame.payloads) {
            let before = self
                .results
                .insert(*task, Ended::Response(payload.to_vec()));
            assert_eq!(before, None, "a result came twice");
        }
        for failure in frame.failures {
            self.results
                .insert(frame.tasks[failure.index as usize], Ended::Failure(failure));
        }
    }
}
