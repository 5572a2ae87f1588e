//! The service.

use crate::contract::testing::v1 as pb;
use crate::contract::testing::v1::echo_service_client::EchoServiceClient;
use crate::contract::testing::v1::echo_service_server::EchoService;
use crate::ruin;
use futures_util::future::try_join_all;
use plait::pb::google::rpc::{BadRequest, RetryInfo, Status as RpcStatus, bad_request};
use prost::Message;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// The service; `client` is its own client on a durable channel, for the flow.
#[derive(Debug)]
pub(crate) struct Echo {
    client: EchoServiceClient<plait::Channel>,
    lines: Mutex<HashMap<String, i64>>,
    journal: Option<File>,
}

impl Echo {
    /// Each execution of Append is noted in the file that ECHO_JOURNAL names, if it does.
    pub(crate) fn new(client: EchoServiceClient<plait::Channel>) -> io::Result<Self> {
        let append = |path| OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            client,
            lines: Mutex::default(),
            journal: std::env::var_os("ECHO_JOURNAL").map(append).transpose()?,
        })
    }

    /// One line in one write, so that lines of several workers do not mix and a kill keeps what was noted.
    fn note(&self, request: &pb::AppendRequest, length: i64) -> Result<(), Status> {
        let Some(mut journal) = self.journal.as_ref() else {
            return Ok(());
        };
        let (attempt, entry) = (attempt()?, request.entry.clone().unwrap_or_default());
        let line = format!(
            "rust\t{}\t{}\t{}\t{}\t{}\t{}\t{length}\n",
            entry.id,
            request.account,
            entry.number,
            attempt.fencing_token(),
            attempt.number(),
            attempt.task_id(),
        );
        let written = journal.write_all(line.as_bytes());
        written.map_err(|error| Status::internal(error.to_string()))
    }
}

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(
        &self,
        request: Request<pb::EchoRequest>,
    ) -> Result<Response<pb::EchoResponse>, Status> {
        Ok(Response::new(pb::EchoResponse {
            payload: request.into_inner().payload,
        }))
    }

    async fn fail(
        &self,
        request: Request<pb::FailRequest>,
    ) -> Result<Response<pb::FailResponse>, Status> {
        let attempt = number()?;
        let request = request.into_inner();
        ruin::obey(&request.message).map_err(|error| Status::internal(error.to_string()))?;
        if attempt > request.failures {
            return Ok(Response::new(pb::FailResponse { attempt }));
        }
        Err(failure(request))
    }

    async fn sleep(
        &self,
        request: Request<pb::SleepRequest>,
    ) -> Result<Response<pb::SleepResponse>, Status> {
        attempt()?.progress(0.5, "sleeping");
        tokio::time::sleep(duration(request.into_inner().duration)).await;
        Ok(Response::new(pb::SleepResponse {}))
    }

    async fn flow(
        &self,
        request: Request<pb::FlowRequest>,
    ) -> Result<Response<pb::FlowResponse>, Status> {
        let request = request.into_inner();
        let echoes = try_join_all((0..request.width).map(|i| {
            let (mut client, payload) = (self.client.clone(), format!("{}/{i}", request.seed));
            async move {
                client
                    .echo(pb::EchoRequest {
                        payload: payload.into(),
                    })
                    .await
            }
        }));
        let echoed: usize = echoes
            .await?
            .iter()
            .map(|echo| echo.get_ref().payload.len())
            .sum();
        let flagged = if plait::flag(&request.flag).is_on() {
            "/on"
        } else {
            ""
        };
        let mut attempts = 0;
        for i in 0..request.depth {
            let mut message = format!("{}/{i}{flagged}", request.seed);
            if request.diverge {
                message += &format!("/{}", RandomState::new().hash_one(i));
            }
            let told = pb::FailRequest {
                code: Code::Unavailable as i32,
                message,
                failures: 1,
                ..pb::FailRequest::default()
            };
            attempts += self.client.clone().fail(told).await?.get_ref().attempt;
        }
        let attempt = number()?;
        if attempt <= request.failures {
            return Err(Status::unavailable("the flow was told to fail"));
        }
        let echoed_bytes = i64::try_from(echoed).unwrap_or(i64::MAX);
        Ok(Response::new(pb::FlowResponse {
            echoed_bytes,
            child_attempts: attempts,
            attempt,
        }))
    }

    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let request = request.into_inner();
        let length = lines.entry(request.account.clone()).or_default();
        *length += 1;
        self.note(&request, *length)?;
        Ok(Response::new(pb::AppendResponse { length: *length }))
    }

    async fn once(
        &self,
        request: Request<pb::OnceRequest>,
    ) -> Result<Response<pb::OnceResponse>, Status> {
        tokio::time::sleep(duration(request.into_inner().duration)).await;
        Ok(Response::new(pb::OnceResponse {}))
    }

    async fn scalars(
        &self,
        request: Request<pb::ScalarsRequest>,
    ) -> Result<Response<pb::ScalarsResponse>, Status> {
        let values = request.into_inner().values;
        Ok(Response::new(pb::ScalarsResponse { values }))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectRequest>,
    ) -> Result<Response<pb::InspectResponse>, Status> {
        let attempt = attempt()?;
        let asked = request.get_ref();
        let flag = plait::flag(&asked.flag);
        let flag = match &asked.flag_key {
            Some(key) => flag.key(key),
            None => flag,
        };
        Ok(Response::new(pb::InspectResponse {
            time_remaining: attempt.time_remaining().try_into().ok(),
            metadata: texts(request.metadata()),
            attempt: number()?,
            task: attempt.task_id().to_string(),
            idempotency_key: attempt.idempotency_key(),
            fencing_token: attempt.fencing_token(),
            flag_on: flag.is_on(),
        }))
    }
}

fn attempt() -> Result<plait::Attempt, Status> {
    plait::attempt().ok_or_else(|| Status::failed_precondition("there is no attempt here"))
}

fn number() -> Result<i32, Status> {
    Ok(i32::try_from(attempt()?.number()).unwrap_or(i32::MAX))
}

fn duration(wire: Option<prost_types::Duration>) -> Duration {
    wire.and_then(|d| d.try_into().ok()).unwrap_or_default()
}

fn texts(metadata: &MetadataMap) -> HashMap<String, String> {
    let headers = metadata.as_ref().iter();
    headers
        .filter_map(|(k, v)| Some((k.to_string(), v.to_str().ok()?.to_owned())))
        .collect()
}

/// The status that the request asks for, with its details and its trailer.
fn failure(request: pb::FailRequest) -> Status {
    let mut details = Vec::new();
    if let Some(delay) = request.retry_delay {
        details.push(any(
            "google.rpc.RetryInfo",
            &RetryInfo {
                retry_delay: Some(delay),
            },
        ));
    }
    if !request.violation.is_empty() {
        let violation = bad_request::FieldViolation {
            field: request.violation,
            description: "as told".to_owned(),
            ..bad_request::FieldViolation::default()
        };
        details.push(any(
            "google.rpc.BadRequest",
            &BadRequest {
                field_violations: vec![violation],
            },
        ));
    }
    let status = RpcStatus {
        code: request.code,
        message: request.message.clone(),
        details,
    };
    let mut trailers = MetadataMap::new();
    if let Ok(value) = request.trailer.parse() {
        trailers.insert("x-failed-by", value);
    }
    let code = Code::from(request.code);
    Status::with_details_and_metadata(
        code,
        request.message,
        status.encode_to_vec().into(),
        trailers,
    )
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}
