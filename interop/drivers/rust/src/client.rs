//! The Rust SDK as a client of testing.v1.EchoService: does what the conformance runner asks on standard input, and
//! answers on standard output (plait.conformance.v1).

use crate::methods::{self, Requests};
use futures_util::StreamExt;
use plait::pb::google::rpc::Status as RpcStatus;
use plait::pb::plait::conformance::v1 as api;
use plait::pb::plait::conformance::v1::client_request::Action;
use plait::{Channel, Plait, TaskId, errors};
use prost::Message;
use prost::bytes::{Buf, BytesMut};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tonic::metadata::{KeyAndValueRef, MetadataKey, MetadataMap};
use tonic::{Code, Status};

/// What earlier requests made.
#[derive(Debug, Default)]
struct Made {
    tasks: HashMap<u64, (TaskId, String)>,
    running: HashMap<u64, Arc<Notify>>,
}

#[derive(Debug, Clone)]
struct Driver {
    mesh: Plait,
    made: Arc<Mutex<Made>>,
}

/// Does what is asked until the end of standard input, each request in a task of its own, so that answers come as they
/// are ready.
pub(crate) async fn drive() -> anyhow::Result<()> {
    let mesh = Plait::builder()
        .descriptors(crate::contract::FILE_DESCRIPTOR_SET)
        .connect()
        .await?;
    let driver = Driver {
        mesh: mesh.clone(),
        made: Arc::default(),
    };
    let (answers, queue) = mpsc::channel(64);
    let writing = tokio::spawn(write(queue));
    let mut running = JoinSet::new();
    let (mut input, mut bytes) = (tokio::io::stdin(), BytesMut::new());
    while let Some(request) = read(&mut input, &mut bytes).await? {
        let (driver, answers) = (driver.clone(), answers.clone());
        let given_up = Arc::new(Notify::new());
        driver
            .locked()
            .running
            .insert(request.id, Arc::clone(&given_up));
        running.spawn(async move {
            // Whoever read the answers is gone when they cannot be sent.
            let _ = answers.send(driver.answer(request, &given_up).await).await;
        });
    }
    while running.join_next().await.is_some() {}
    drop(answers);
    writing.await??;
    mesh.close().await;
    Ok(())
}

async fn write(mut answers: mpsc::Receiver<api::ClientResponse>) -> io::Result<()> {
    let mut out = tokio::io::stdout();
    while let Some(answer) = answers.recv().await {
        out.write_all(&answer.encode_length_delimited_to_vec())
            .await?;
        out.flush().await?;
    }
    Ok(())
}

/// The next request; None at the end.
async fn read(
    input: &mut tokio::io::Stdin,
    bytes: &mut BytesMut,
) -> anyhow::Result<Option<api::ClientRequest>> {
    loop {
        if let Ok(len) = prost::decode_length_delimiter(&bytes[..]) {
            let head = prost::length_delimiter_len(len);
            if bytes.len() >= head + len {
                bytes.advance(head);
                return Ok(Some(api::ClientRequest::decode(bytes.split_to(len))?));
            }
        }
        if input.read_buf(bytes).await? == 0 {
            anyhow::ensure!(bytes.is_empty(), "standard input ended within a request");
            return Ok(None);
        }
    }
}

impl Driver {
    fn locked(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: api::ClientRequest, given_up: &Notify) -> api::ClientResponse {
        let id = request.id;
        let mut answer = api::ClientResponse {
            id,
            ..api::ClientResponse::default()
        };
        let done = tokio::select! {
            done = self.act(request, &mut answer) => done,
            () = given_up.notified() => Err(Status::cancelled("the caller gave up")),
        };
        if let Err(status) = done {
            fill_error(&mut answer, &status);
        }
        self.locked().running.remove(&id);
        answer
    }

    async fn act(
        &self,
        request: api::ClientRequest,
        answer: &mut api::ClientResponse,
    ) -> Result<(), Status> {
        match request.action {
            Some(Action::Call(said)) => {
                let metadata = metadata(&said)?;
                let channel = with_options(self.mesh.channel(), said.options.as_ref());
                let timeout = timeout(&said);
                let request = (said.request, metadata, timeout);
                answer
                    .responses
                    .push(methods::call(&said.method, channel, request).await?);
            }
            Some(Action::Submit(said)) => {
                let metadata = metadata(&said)?;
                let options = said.options.clone();
                let with = move |channel| with_options(channel, options.as_ref());
                let request = (said.request, metadata, None);
                let id = methods::submit(&said.method, &self.mesh, with, request).await?;
                answer.tasks.push(id.to_string());
                self.locked().tasks.insert(answer.id, (id, said.method));
            }
            Some(Action::CallMany(bulk)) => {
                let requests = Requests(bulk.requests);
                answer.responses = methods::call_many(&bulk.method, &self.mesh, requests).await?;
            }
            Some(Action::SubmitMany(bulk)) => {
                let requests = Requests(bulk.requests);
                let ids = methods::submit_many(&bulk.method, &self.mesh, requests).await?;
                answer.tasks = ids.iter().map(ToString::to_string).collect();
            }
            Some(Action::Abandon(handle)) => {
                if let Some(running) = self.locked().running.get(&handle.id) {
                    running.notify_one();
                }
            }
            Some(look) => self.look(look, answer).await?,
            None => return Err(Status::unimplemented("the driver does not know the action")),
        }
        Ok(())
    }

    async fn look(&self, look: Action, answer: &mut api::ClientResponse) -> Result<(), Status> {
        let (Action::Result(of) | Action::State(of) | Action::Watch(of) | Action::Cancel(of)) =
            &look
        else {
            return Err(Status::unimplemented("the driver does not know the action"));
        };
        let found = self.locked().tasks.get(&of.id).cloned();
        let (id, method) = found.ok_or_else(|| Status::not_found("the request made no task"))?;
        let task = self.mesh.task::<()>(id);
        match look {
            Action::Result(_) => answer
                .responses
                .push(methods::result(&method, &self.mesh, id).await?),
            Action::State(_) => answer.states.push(task.state().await? as i32),
            Action::Cancel(_) => answer.states.push(task.cancel("as told").await?.state),
            _ => {
                let mut seen = Box::pin(task.watch().await?);
                while let Some(info) = seen.next().await {
                    answer.states.push(info?.state);
                }
            }
        }
        Ok(())
    }
}

/// The channel with what is said, in the SDK's words.
fn with_options(mut channel: Channel, said: Option<&api::CallOptions>) -> Channel {
    let Some(said) = said else { return channel };
    if let Some(key) = &said.key {
        channel = channel.key(key);
    }
    if let Some(key) = &said.ordering_key {
        channel = channel.ordering_key(key);
    }
    if let Some(priority) = said.priority {
        channel = channel.priority(u8::try_from(priority).unwrap_or(u8::MAX));
    }
    if let Some(delay) = duration(said.delay.as_ref()) {
        channel = channel.delay(delay);
    }
    if let Some(deadline) = duration(said.deadline.as_ref()) {
        channel = channel.deadline(deadline);
    }
    channel
}

fn duration(wire: Option<&prost_types::Duration>) -> Option<Duration> {
    (*wire?).try_into().ok()
}

fn timeout(said: &api::Submission) -> Option<Duration> {
    duration(said.options.as_ref()?.timeout.as_ref())
}

fn metadata(said: &api::Submission) -> Result<MetadataMap, Status> {
    let mut metadata = MetadataMap::new();
    for (key, value) in said.options.iter().flat_map(|options| &options.metadata) {
        let key = key.parse::<MetadataKey<_>>();
        let wrong = |_| Status::invalid_argument("metadata of a case");
        let value = value
            .parse()
            .map_err(|_| Status::invalid_argument("metadata of a case"))?;
        metadata.insert(key.map_err(wrong)?, value);
    }
    Ok(metadata)
}

/// Writes an error as a caller sees it.
fn fill_error(answer: &mut api::ClientResponse, status: &Status) {
    let plain = || RpcStatus {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    };
    let detailed = RpcStatus::decode(status.details()).ok();
    let found = detailed.filter(|found| found.code != Code::Ok as i32);
    answer.error = Some(found.unwrap_or_else(plain));
    if let Some(reason) = errors::reason(status) {
        let name = reason.as_str_name();
        name.strip_prefix("ERROR_REASON_")
            .unwrap_or(name)
            .clone_into(&mut answer.reason);
    }
    for entry in status.metadata().iter() {
        if let KeyAndValueRef::Ascii(key, value) = entry
            && key.as_str().starts_with("x-")
            && let Ok(text) = value.to_str()
        {
            answer.trailers.insert(key.to_string(), text.to_owned());
        }
    }
}
