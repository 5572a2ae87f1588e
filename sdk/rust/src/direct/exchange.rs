//! One attempt at one worker: a request out, a whole response in.

use super::peer::Sender;
use super::{MESSAGE_MAX, Outgoing, streaming};
use crate::deadline::encode_timeout;
use crate::metadata;
use crate::session::CLIENT;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::body::Body;
use tonic::{Code, Status};

/// Attempts before this one.
const PREVIOUS_ATTEMPTS: http::HeaderName =
    http::HeaderName::from_static("grpc-previous-rpc-attempts");

/// What came of an attempt.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A response, with an error's status or without.
    Answered(Response<Body>, Option<Status>),
    /// No worker has seen the request: somebody else may, as if nothing had been.
    Unsent(Status),
    /// The connection broke; the worker may have seen it.
    Broken(Status),
}

impl Outcome {
    /// How a worker's part in it ended; `None`: it had none.
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Self::Answered(_, failed) => Some(failed.as_ref().map_or(Code::Ok, Status::code)),
            Self::Unsent(_) => None,
            Self::Broken(status) => Some(status.code()),
        }
    }
}

/// Sends a request and reads its answer. `before`: attempts that a worker may have seen.
pub(super) async fn exchange(
    sender: &mut Sender,
    address: SocketAddr,
    outgoing: &Outgoing,
    (left, before): (Duration, u32),
) -> Outcome {
    let request = match request(address, outgoing, left, before) {
        Ok(request) => request,
        Err(error) => return Outcome::Unsent(Status::internal(error.to_string())),
    };
    // A connection that says goodbye meanwhile has not taken it.
    if let Err(error) = sender.ready().await {
        return Outcome::Unsent(broken(address, &error));
    }
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) if is_unsent(&error) => return Outcome::Unsent(broken(address, &error)),
        Err(error) => return Outcome::Broken(broken(address, &error)),
    };
    read(address, response).await
}

fn request(
    address: SocketAddr,
    outgoing: &Outgoing,
    left: Duration,
    before: u32,
) -> Result<Request<Body>, http::Error> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query(outgoing.path.as_str())
        .build()?;
    let mut request = Request::post(uri).version(Version::HTTP_2);
    let headers = request.headers_mut();
    if let Some(headers) = headers {
        headers.clone_from(&outgoing.headers);
        let whole = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        headers.insert(metadata::TIMEOUT, encode_timeout(whole).try_into()?);
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(CLIENT));
        if before > 0 {
            headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(before));
        }
    }
    request.body(Body::new(Full::new(outgoing.body.clone())))
}

async fn read(address: SocketAddr, response: Response<Incoming>) -> Outcome {
    let (head, body) = response.into_parts();
    let collected = match Limited::new(body, MESSAGE_MAX).collect().await {
        Ok(collected) => collected,
        Err(error) => {
            return Outcome::Broken(match error.downcast::<hyper::Error>() {
                Ok(error) => broken(address, &error),
                Err(error) => Status::resource_exhausted(format!("the response: {error}")),
            });
        }
    };
    let trailers = collected.trailers().cloned();
    let data = collected.to_bytes();
    let found = status_of(&head.headers)
        .or_else(|| trailers.as_ref().and_then(status_of))
        .unwrap_or_else(|| {
            Status::unknown(format!("an answer of {} without a status", head.status))
        });
    let failed = (found.code() != tonic::Code::Ok).then_some(found);
    if failed.is_none() && is_several(&data) {
        let status = streaming("response");
        return Outcome::Answered(status.clone().into_http(), Some(status));
    }
    let body = Full::new(data).with_trailers(std::future::ready(trailers.map(Ok)));
    Outcome::Answered(Response::from_parts(head, Body::new(body)), failed)
}

fn status_of(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

/// Whether there is more than one message.
fn is_several(data: &Bytes) -> bool {
    let Some((prefix, rest)) = data.split_first_chunk::<5>() else {
        return false;
    };
    let [_, len @ ..] = *prefix;
    rest.len() > u32::from_be_bytes(len) as usize
}

/// Whether the worker has not begun with the request: it was never written, was refused (REFUSED_STREAM), or came after
/// the last one that a goodbye (GOAWAY) names.
fn is_unsent(error: &hyper::Error) -> bool {
    let cause = error
        .source()
        .and_then(|each| each.downcast_ref::<h2::Error>());
    error.is_canceled()
        || cause.is_some_and(|cause| {
            cause.reason() == Some(h2::Reason::REFUSED_STREAM)
                || cause.is_go_away() && cause.is_remote()
        })
}

fn broken(address: SocketAddr, error: &hyper::Error) -> Status {
    let cause = error
        .source()
        .map_or_else(String::new, |cause| format!(": {cause}"));
    Status::unavailable(format!("the connection to {address} broke: {error}{cause}"))
}
