//! Calls the user's tower service for one attempt, and reads what it answers.

use crate::attempt::Attempt;
use crate::deadline::encode_timeout;
use crate::errors;
use crate::flow;
use crate::frame::{Framed, unframe};
use crate::metadata;
use crate::pb::v1::{Failure, Metadatum};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use std::any::Any;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;

/// A handler at work.
pub(crate) type Invocation = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// A user's service, whatever its type.
pub(crate) trait Handler: Send + Sync {
    /// Begins to serve a request as part of an attempt.
    fn invoke(&self, attempt: Attempt, request: Request<Body>) -> Invocation;
}

/// The tower service behind a generated server.
pub(crate) struct TowerHandler<S>(pub(crate) S);

impl<S, B> Handler for TowerHandler<S>
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<StdError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    fn invoke(&self, attempt: Attempt, request: Request<Body>) -> Invocation {
        let service = self.0.clone();
        Box::pin(flow::scope(attempt, serve(service, request)))
    }
}

async fn serve<S, B>(mut service: S, request: Request<Body>) -> Result<Bytes, Failure>
where
    S: tower::Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<StdError>,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<StdError>,
{
    let broken = |error: S::Error| errors::failure(&Status::from_error(error.into()));
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(broken)?;
    let response = service.call(request).await.map_err(broken)?;
    read(response).await
}

/// The response's message, or the status: in the headers when that is all there is, else in the trailers.
async fn read<B>(response: Response<B>) -> Result<Bytes, Failure>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<StdError>,
{
    let (head, body) = response.into_parts();
    if let Some(failure) = errors::to_failure(&head.headers) {
        return Err(failure);
    }
    let unframed = unframe(body, "response")
        .await
        .map_err(|status| errors::failure(&status))?;
    if let Some(failure) = unframed.trailers.as_ref().and_then(errors::to_failure) {
        return Err(failure);
    }
    unframed.payload.ok_or_else(|| {
        let text = format!(
            "the handler answered HTTP {} without a message",
            head.status
        );
        errors::failure(&Status::internal(text))
    })
}

/// What goes into the request that a handler sees.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) uri: &'a Uri,
    pub(crate) attempt: &'a Attempt,
    pub(crate) metadata: &'a [Metadatum],
    pub(crate) timeout: HeaderValue,
    pub(crate) payload: Bytes,
}

impl Envelope<'_> {
    /// The request as a gRPC server would hand it to the service.
    pub(crate) fn into_request(self) -> Request<Body> {
        let mut request = Request::new(Body::new(Framed::request(self.payload)));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri.clone();
        let mut headers = if self.metadata.is_empty() {
            HeaderMap::with_capacity(8)
        } else {
            metadata::to_metadata_map(self.metadata).into_headers()
        };
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
        headers.insert(metadata::TIMEOUT, self.timeout);
        tell_attempt(&mut headers, self.attempt);
        *request.headers_mut() = headers;
        request
    }
}

/// The four facts that every handler sees as metadata.
fn tell_attempt(headers: &mut HeaderMap, attempt: &Attempt) {
    let mut text = BytesMut::with_capacity(48);
    let mut value = |args: std::fmt::Arguments<'_>| {
        // Digits and letters into a growing buffer: neither step can fail.
        let _ = text.write_fmt(args);
        let bytes = text.split().freeze();
        HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| HeaderValue::from_static(""))
    };
    let task = value(format_args!("{}", attempt.task_id()));
    let number = match attempt.number() {
        1 => HeaderValue::from_static("1"),
        number => HeaderValue::from(number),
    };
    headers.insert(
        metadata::FENCING_TOKEN,
        value(format_args!("{}", attempt.fencing_token())),
    );
    headers.insert(metadata::ATTEMPT, number);
    // A key that no header can carry is still there in `Attempt::idempotency_key`.
    if attempt.has_key() {
        if let Ok(key) = HeaderValue::try_from(attempt.idempotency_key()) {
            headers.insert(metadata::IDEMPOTENCY_KEY, key);
        }
    } else {
        headers.insert(metadata::IDEMPOTENCY_KEY, task.clone());
    }
    headers.insert(metadata::TASK_ID, task);
}

/// The header of the last timeout: those of a burst are the same.
#[derive(Debug)]
pub(crate) struct TimeoutHeader {
    left_ms: u128,
    value: HeaderValue,
}

impl Default for TimeoutHeader {
    fn default() -> Self {
        Self {
            left_ms: 0,
            value: HeaderValue::from_static("0m"),
        }
    }
}

impl TimeoutHeader {
    /// The header for what is left, in whole milliseconds.
    pub(crate) fn of(&mut self, left: Duration) -> HeaderValue {
        let left_ms = left.as_millis();
        if left_ms != self.left_ms {
            let text = encode_timeout(
                left - Duration::from_nanos(u64::from(left.subsec_nanos()) % 1_000_000),
            );
            self.left_ms = left_ms;
            self.value = text
                .try_into()
                .unwrap_or_else(|_| HeaderValue::from_static("0m"));
        }
        self.value.clone()
    }
}

/// Polls a handler. One that panics has failed, and nothing else of the process is touched.
pub(crate) fn poll_handler(
    invocation: &mut Invocation,
    cx: &mut Context<'_>,
) -> Poll<Result<Bytes, Failure>> {
    let poll = catch_unwind(AssertUnwindSafe(|| invocation.as_mut().poll(cx)));
    poll.unwrap_or_else(|panic| Poll::Ready(Err(panicked(panic.as_ref()))))
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("with something that is no text");
    errors::failure(&Status::unknown(format!("the handler panicked: {text}")))
}

#[cfg(test)]
mod tests;
