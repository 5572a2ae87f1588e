//! A submitter's stream: frames in, acceptances and results out.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use plait::pb::v1::submit_stream_request::Message as Request;
use plait::pb::v1::submit_stream_response::Message;
use plait::pb::v1::{self as pb, SubmitStreamRequest, SubmitStreamResponse};
use plait_broker_core::command::{Command, Submit, SubmitOrigin};
use plait_broker_core::ids::{ConnId, SessionId, TaskId, Token};
use tonic::{Status, Streaming};

use super::Context;
use super::frames::{self, Methods};
use super::results::{self, Unsound, UnsoundFrame};
use crate::outbound::{Closing, End, Outbound, Outgoing, Taken};
use crate::status::{self, invalid};

/// How long a sender pauses while the broker is going.
const DRAIN_PAUSE: Duration = Duration::from_secs(1);

/// Opens the stream: reading is a task of its own, writing is what the caller polls.
pub(super) fn open(
    context: Context,
    incoming: Streaming<SubmitStreamRequest>,
) -> impl Stream<Item = Result<SubmitStreamResponse, Status>> + Send + 'static {
    let (conn, outbound) = context.partition.open(context.limits.outbound_bytes_max);
    let unsound = Arc::new(Unsound::default());
    let reader = Reader {
        context: context.clone(),
        conn,
        outbound: Arc::clone(&outbound),
        unsound: Arc::clone(&unsound),
        methods: Methods::default(),
        session: [0; 16],
        refused_from: None,
    };
    tokio::spawn(reader.run(incoming));
    let writer = Writer {
        context,
        outbound: Closing(outbound),
        unsound,
        ready: VecDeque::new(),
    };
    stream::unfold(Some(writer), async |writer| writer?.next().await)
}

/// What is polled for answers.
struct Writer {
    context: Context,
    outbound: Closing,
    unsound: Arc<Unsound>,
    ready: VecDeque<Message>,
}

impl Writer {
    async fn next(mut self) -> Option<(Result<SubmitStreamResponse, Status>, Option<Self>)> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                let answer = SubmitStreamResponse {
                    message: Some(message),
                };
                return Some((Ok(answer), Some(self)));
            }
            let items = match self.outbound.0.take().await {
                Taken::Items(items) => items,
                Taken::End(End::Gone) => return None,
                Taken::End(End::Status(status)) => return Some((Err(*status), None)),
            };
            match results::messages(items, &self.context, &self.unsound).await {
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
    unsound: Arc<Unsound>,
    methods: Methods,
    session: SessionId,
    /// The first frame that was not taken; those after it are not taken either, so that order is kept.
    refused_from: Option<u64>,
}

impl Reader {
    async fn run(mut self, mut incoming: Streaming<SubmitStreamRequest>) {
        let outbound = Arc::clone(&self.outbound);
        let end = tokio::select! {
            biased;
            result = self.read(&mut incoming) => match result {
                Ok(()) => End::Gone,
                Err(status) => End::Status(Box::new(status::incoming(status))),
            },
            () = outbound.closed() => End::Gone,
        };
        // A partition that is down has forgotten the stream by itself.
        let _ = self
            .context
            .partition
            .post(Command::SessionClosed { conn: self.conn });
        self.outbound.end(end);
        self.context.partition.close(self.conn);
    }

    async fn read(&mut self, incoming: &mut Streaming<SubmitStreamRequest>) -> Result<(), Status> {
        self.context.accepting()?;
        self.hello(incoming).await?;
        while let Some(request) = incoming.message().await? {
            match request.message {
                Some(Request::Submit(submit)) => self.submit(submit).await?,
                Some(Request::Await(wanted)) => self.wait_for(wanted).await?,
                Some(Request::Hello(_)) => {
                    return Err(invalid("hello", "a stream says hello once").into());
                }
                // What a later release says is ignored.
                None => {}
            }
        }
        // All that was sent is answered before the stream ends.
        self.context.partition.query(|_, _| ()).await?;
        Ok(())
    }

    async fn hello(&mut self, incoming: &mut Streaming<SubmitStreamRequest>) -> Result<(), Status> {
        let first = pin!(incoming.message());
        let first = tokio::time::timeout(self.context.limits.hello_timeout, first).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(Request::Hello(hello)) = first.and_then(|request| request.message) else {
            return Err(invalid("hello", "a stream says hello first").into());
        };
        self.session = SessionId::try_from(hello.session.as_ref())
            .map_err(|_| invalid("hello.session", "a session is 16 bytes"))?;
        tracing::debug!(client = %hello.client, conn = self.conn.0, "submitter connected");
        let opened = Command::SessionOpened {
            conn: self.conn,
            session: self.session,
        };
        Ok(self.context.partition.send(opened, 0).await?)
    }

    async fn submit(&mut self, submit: pb::SequencedSubmit) -> Result<(), Status> {
        let sequence = submit.sequence;
        if sequence == 0 {
            return Err(invalid("submit.sequence", "the first one is 1").into());
        }
        if self.is_refused(sequence) {
            self.outbound.push(Outgoing::NotNow {
                sequence,
                pause: DRAIN_PAUSE,
            });
            return Ok(());
        }
        let frame = submit.tasks.unwrap_or_default();
        let frame = frames::check(frame, &mut self.methods, &self.context.limits)?;
        if !frame.refused.is_empty() {
            let (positions, refused) = (frame.positions, frame.refused);
            self.unsound
                .remember(sequence, UnsoundFrame { positions, refused });
        }
        let command = Command::Submit(Submit {
            origin: SubmitOrigin::Session {
                conn: self.conn,
                session: self.session,
                sequence,
            },
            await_results: submit.r#await,
            tasks: frame.tasks,
        });
        Ok(self.context.partition.send(command, frame.bytes).await?)
    }

    fn is_refused(&mut self, sequence: u64) -> bool {
        if self.context.accepting().is_err() {
            self.refused_from.get_or_insert(sequence);
        } else if self.refused_from == Some(sequence) {
            self.refused_from = None;
        }
        self.refused_from.is_some_and(|first| sequence >= first)
    }

    async fn wait_for(&self, wanted: pb::AwaitFrame) -> Result<(), Status> {
        let bytes = 16 * (wanted.tasks.len() + wanted.forget.len());
        let command = Command::Await {
            conn: self.conn,
            tasks: wanted.tasks.into_iter().map(TaskId).collect(),
            forget: wanted.forget.into_iter().map(TaskId).collect(),
            parent: wanted
                .parent
                .map(|parent| (TaskId(parent.task), Token(parent.token))),
        };
        Ok(self.context.partition.send(command, bytes).await?)
    }
}
