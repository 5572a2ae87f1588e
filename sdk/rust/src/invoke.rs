//! Calls the user's tower service for one attempt, and reads what it answers.

use crate::attempt::Attempt;
use crate::errors::{self, Ended};
use crate::flow;
use crate::frame::{Framed, Unframed, Unframing};
use crate::metadata;
use crate::pb::v1::Metadatum;
use bytes::Bytes;
use http::{Method, Request, Response, Uri, Version};
use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::StdError;

mod headers;

use headers::Facts;
pub(crate) use headers::Values;

/// The user's service at work on a request.
type Call = Pin<Box<dyn Future<Output = Result<Response<Body>, StdError>> + Send>>;

/// A user's service, whatever its type.
pub(crate) trait Handler: Send + Sync {
    /// Begins to serve a request.
    fn call(&self, request: Request<Body>) -> Call;
}

/// The tower service behind a generated server.
pub(crate) struct TowerHandler<S>(pub(crate) S);

impl<S, B> Handler for TowerHandler<S>
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<StdError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    fn call(&self, request: Request<Body>) -> Call {
        let mut service = self.0.clone();
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {
                let call = service.call(request);
                Box::pin(async move {
                    let response = call.await;
                    response
                        .map(|response| response.map(Body::new))
                        .map_err(Into::into)
                })
            }
            // A service that has to get ready, or failed to: as its own readiness is, for this request only.
            Poll::Ready(Err(_)) | Poll::Pending => Box::pin(async move {
                poll_fn(|cx| service.poll_ready(cx))
                    .await
                    .map_err(Into::into)?;
                let response = service.call(request).await.map_err(Into::into)?;
                Ok(response.map(Body::new))
            }),
        }
    }
}

/// A handler at work on an attempt: first its response is waited for, then the response's body.
///
/// Everything of it runs as part of the attempt, and one that panics has failed and touches nothing else.
pub(crate) struct Invocation {
    attempt: Attempt,
    call: Call,
    reading: Option<Unframing>,
}

impl Invocation {
    /// Begins to serve a request as part of an attempt.
    pub(crate) fn new(attempt: Attempt, handler: &dyn Handler, request: Request<Body>) -> Self {
        let begun = flow::enter(&attempt, || {
            catch_unwind(AssertUnwindSafe(|| handler.call(request)))
        });
        let call = begun.unwrap_or_else(|panic| {
            let status = panicked(panic.as_ref());
            Box::pin(std::future::ready(Ok(status.into_http())))
        });
        Self {
            attempt,
            call,
            reading: None,
        }
    }

    fn poll_inside(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            if let Some(reading) = &mut self.reading {
                let unframed = ready!(Pin::new(reading).poll(cx));
                return Poll::Ready(
                    unframed
                        .map_err(|status| errors::failure(&status))
                        .and_then(end),
                );
            }
            let response = match ready!(self.call.as_mut().poll(cx)) {
                Ok(response) => response,
                Err(error) => return Poll::Ready(Err(errors::failure(&Status::from_error(error)))),
            };
            let (head, body) = response.into_parts();
            if let Some(failure) = errors::to_failure(&head.headers) {
                return Poll::Ready(Err(failure));
            }
            self.reading = Some(Unframing::new(body, "response"));
        }
    }
}

impl Future for Invocation {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let attempt = self.attempt.clone();
        let poll = flow::enter(&attempt, || {
            catch_unwind(AssertUnwindSafe(|| self.poll_inside(cx)))
        });
        poll.unwrap_or_else(|panic| Poll::Ready(Err(errors::failure(&panicked(panic.as_ref())))))
    }
}

/// The response's message, unless its trailers hold another status than OK.
fn end(unframed: Unframed) -> Ended {
    if let Some(failure) = unframed.trailers.as_ref().and_then(errors::to_failure) {
        return Err(failure);
    }
    unframed.payload.ok_or_else(|| {
        errors::failure(&Status::internal(
            "the handler answered OK without a message",
        ))
    })
}

pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Status {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("with something that is no text");
    Status::unknown(format!("the handler panicked: {text}"))
}

/// What goes into the request that a handler sees.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) uri: &'a Uri,
    pub(crate) attempt: &'a Attempt,
    pub(crate) metadata: &'a [Metadatum],
    pub(crate) left: Duration,
    pub(crate) payload: Bytes,
}

impl Envelope<'_> {
    /// The request as a gRPC server would hand it to the service.
    pub(crate) fn into_request(self, values: &mut Values) -> Request<Body> {
        let mut request = Request::new(Body::new(Framed::request(self.payload)));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri.clone();
        let facts = Facts::of(self.attempt, self.left, values);
        let headers = if self.metadata.is_empty() {
            facts.into_headers()
        } else {
            let mut headers = metadata::to_metadata_map(self.metadata).into_headers();
            headers.extend(facts.into_headers());
            headers
        };
        *request.headers_mut() = headers;
        request
    }
}

#[cfg(test)]
mod tests;
