//! `WorkerService`: a worker's stream. The stream is the worker's life.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use plait::pb::v1::attach_request;
use plait::pb::v1::attach_response::Message;
use plait::pb::v1::worker_service_server::WorkerService;
use plait::pb::v1::{AttachRequest, AttachResponse, BrokerHeartbeat};
use plait_broker_core::command::Command;
use plait_broker_core::ids::ConnId;
use tokio::sync::watch::Receiver;
use tonic::{Request, Response, Status, Streaming};

use super::attempts::{self, Numbering};
use super::outcomes;
use super::{Answers, Context, hello};
use crate::outbound::{Closing, End, Outbound, Outgoing, Taken};
use crate::status;

/// Silence of this many heartbeat intervals means that the other side is gone.
const SILENT_INTERVALS: u32 = 3;

/// The service.
#[derive(Debug, Clone)]
pub struct Workers {
    context: Context,
}

impl Workers {
    /// Serves workers of a broker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl WorkerService for Workers {
    type AttachStream = Answers<AttachResponse>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.context.accepting()?;
        let context = self.context.clone();
        let (conn, outbound) = context.partition.open(context.limits.outbound_bytes_max);
        let numbering = Arc::new(Numbering::default());
        let reader = Reader {
            context: context.clone(),
            conn,
            outbound: Arc::clone(&outbound),
            numbering: Arc::clone(&numbering),
            received: 0,
        };
        tokio::spawn(reader.run(request.into_inner()));
        let writer = Writer {
            context,
            conn,
            outbound: Closing(outbound),
            numbering,
            ready: VecDeque::new(),
            welcomed: false,
        };
        let answers = stream::unfold(Some(writer), async |writer| writer?.next().await);
        Ok(Response::new(Box::pin(answers)))
    }
}

/// What is polled for answers.
struct Writer {
    context: Context,
    conn: ConnId,
    outbound: Closing,
    numbering: Arc<Numbering>,
    ready: VecDeque<Message>,
    /// Nothing is said before the welcome: until then the stream is not known to be a worker's.
    welcomed: bool,
}

impl Writer {
    async fn next(mut self) -> Option<(Result<AttachResponse, Status>, Option<Self>)> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.welcomed |= matches!(message, Message::Welcome(_));
                return Some((
                    Ok(AttachResponse {
                        message: Some(message),
                    }),
                    Some(self),
                ));
            }
            let beat = self.context.limits.heartbeat_interval;
            let items = match tokio::time::timeout(beat, self.outbound.0.take()).await {
                Ok(Taken::Items(items)) => items,
                Ok(Taken::End(End::Gone)) => return None,
                Ok(Taken::End(End::Status(status))) => return Some((Err(*status), None)),
                Err(_) => {
                    let beat = Message::Heartbeat(BrokerHeartbeat {});
                    self.ready.extend(self.welcomed.then_some(beat));
                    continue;
                }
            };
            let told = attempts::messages(items, &self.context, self.conn, &self.numbering).await;
            match told {
                Ok(ready) => self.ready = ready,
                Err(status) => return Some((Err(status), None)),
            }
        }
    }
}

/// What reads.
struct Reader {
    context: Context,
    conn: ConnId,
    outbound: Arc<Outbound>,
    numbering: Arc<Numbering>,
    received: u64,
}

/// How a worker's stream came to its end.
enum Ended {
    /// The worker closed it.
    Closed,
    /// The broker ends it.
    Refused(Status),
}

impl Reader {
    async fn run(mut self, mut incoming: Streaming<AttachRequest>) {
        let outbound = Arc::clone(&self.outbound);
        let attached = tokio::select! {
            biased;
            attached = self.attach(&mut incoming) => attached,
            () = outbound.closed() => Err(Status::cancelled("the stream ended")),
        };
        let (reason, end) = match attached {
            Err(status) => (status.message().to_owned(), End::Status(Box::new(status))),
            Ok(worker) => {
                let ended = tokio::select! {
                    biased;
                    ended = self.read(&mut incoming) => ended,
                    () = outbound.closed() => Ended::Closed,
                };
                let (reason, end) = match ended {
                    Ended::Closed => ("the stream ended".to_owned(), End::Gone),
                    Ended::Refused(status) => {
                        (status.message().to_owned(), End::Status(Box::new(status)))
                    }
                };
                tracing::info!(%worker, %reason, "worker detached");
                self.context
                    .hub
                    .worker_detached(&worker, self.conn, &reason);
                (reason, end)
            }
        };
        // A partition that is down has forgotten the stream by itself.
        let detached = Command::WorkerDetached {
            conn: self.conn,
            reason: reason.into(),
        };
        let _ = self.context.partition.post(detached);
        self.outbound.end(end);
        self.context.partition.close(self.conn);
    }

    /// Takes the hello. Answers with the worker's id.
    async fn attach(
        &mut self,
        incoming: &mut Streaming<AttachRequest>,
    ) -> Result<Arc<str>, Status> {
        let first = tokio::time::timeout(self.context.limits.hello_timeout, incoming.message());
        let first = first
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))?
            .map_err(status::incoming)?;
        let hello = hello::checked(first, &self.context.limits)?;
        let (attach, attached) = hello.into_parts(self.conn);
        let worker = Arc::clone(&attach.worker);
        tracing::info!(%worker, client = %attached.client, slots = attach.slots, "worker attached");
        self.context.hub.worker_attached(self.conn, attached);
        // The hub first: a detachment is told only after it.
        if let Err(stopped) = self
            .context
            .partition
            .send(Command::WorkerAttached(attach), 0)
            .await
        {
            self.context
                .hub
                .worker_detached(&worker, self.conn, "the broker stops");
            return Err(stopped.into());
        }
        if let Some(grace) = *self.context.draining.borrow() {
            self.outbound.push(Outgoing::Drain { grace });
        }
        Ok(worker)
    }

    async fn read(&mut self, incoming: &mut Streaming<AttachRequest>) -> Ended {
        let silence = self.context.limits.heartbeat_interval * SILENT_INTERVALS;
        let mut draining = self.context.draining.clone();
        // The attachment told of a drain that had begun before it.
        let mut told = draining.borrow().is_some();
        loop {
            let next = tokio::select! {
                biased;
                grace = begun(&mut draining), if !told => {
                    told = true;
                    self.outbound.push(Outgoing::Drain { grace });
                    continue;
                }
                next = tokio::time::timeout(silence, incoming.message()) => next,
            };
            let request = match next {
                Err(_) => {
                    let silent = format!("nothing was heard for {} s", silence.as_secs());
                    return Ended::Refused(Status::cancelled(silent));
                }
                Ok(Err(status)) => return Ended::Refused(status::incoming(status)),
                Ok(Ok(None)) => return Ended::Closed,
                Ok(Ok(Some(request))) => request,
            };
            if let Err(status) = self.take(request).await {
                return Ended::Refused(status);
            }
        }
    }

    async fn take(&mut self, request: AttachRequest) -> Result<(), Status> {
        let partition = &self.context.partition;
        if request.accepted_sequence > self.received {
            self.received = request.accepted_sequence;
            if let Some(sequence) = self.numbering.received(request.accepted_sequence) {
                partition
                    .send(
                        Command::WorkerAccepted {
                            conn: self.conn,
                            sequence,
                        },
                        0,
                    )
                    .await?;
            }
        }
        let Some(message) = request.message else {
            return Ok(());
        };
        if matches!(message, attach_request::Message::Drain(_)) {
            self.context.hub.worker_draining(self.conn);
        }
        if let Some((command, bytes)) = outcomes::command(self.conn, message, &self.context.limits)?
        {
            partition.send(command, bytes).await?;
        }
        Ok(())
    }
}

/// Waits until the broker is going, and answers how long it waits for outcomes.
async fn begun(draining: &mut Receiver<Option<Duration>>) -> Duration {
    let grace = draining.wait_for(Option::is_some).await.map(|grace| *grace);
    match grace {
        Ok(grace) => grace.unwrap_or_default(),
        // The server is gone; its end ends the streams.
        Err(_) => std::future::pending().await,
    }
}
