//! The channel under a user's generated client for direct calls: straight to a live worker.

use crate::client::Client;
use crate::metadata;
use crate::trace::rpc::{Rpc, Side};
use crate::{breaker, clock, deadline, errors, limiter};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Limited};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Status;
use tonic::body::Body;

mod attempts;
mod balance;
mod call;
mod directory;
mod ejection;
mod exchange;
mod fault;
mod gradient;
mod guards;
mod health;
pub(crate) mod marks;
mod peer;
mod resources;
mod rules;
pub(crate) mod verdicts;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use call::Call;
pub(crate) use directory::Directory;
use guards::Guards;
use rules::{Rules, Said};

/// Of a request or a response, in bytes.
const MESSAGE_MAX: usize = 64 << 20;

/// A transport for generated clients: `OrderServiceClient::new(p.direct())`. Cheap to clone. Only unary methods can be
/// called.
///
/// What fails is tried again, given a rest and bounded as the contract says, or as the channel's options do. A method
/// is given a rest by its breaker: UNAVAILABLE with BREAKER_OPEN. Too many calls that wait: RESOURCE_EXHAUSTED with
/// QUEUE_FULL.
#[derive(Debug, Clone)]
pub struct DirectChannel {
    client: Arc<Client>,
    said: Arc<Said>,
    /// Counted for this channel and its clones; `None`: with all others of the client.
    own: Option<Arc<Guards>>,
}

impl DirectChannel {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            said: Arc::default(),
            own: None,
        }
    }

    /// Attempts in all, 1 to 5. Default 3, or the policy's `retry.max_attempts` where it is less; 1 with AT_MOST_ONCE.
    #[must_use]
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.with(|said| said.max_attempts = Some(attempts))
    }

    /// Whether a call may be done twice: also INTERNAL, UNKNOWN and DEADLINE_EXCEEDED of an attempt are tried again.
    /// Default: an `idempotency_level` or an `idempotency_key` in the contract.
    #[must_use]
    pub fn idempotent(self, idempotent: bool) -> Self {
        self.with(|said| said.idempotent = Some(idempotent))
    }

    /// Whether a call that takes long is sent once more beside the first, and the first answer is taken. Idempotent
    /// methods only. Default: with `idempotency_level` NO_SIDE_EFFECTS.
    #[must_use]
    pub fn hedge(self, hedge: bool) -> Self {
        self.with(|said| said.hedge = Some(hedge))
    }

    /// How long a call takes before it is hedged, at least 1 ms. Default: what 95 % of the latest calls took, at
    /// least 10 ms; none is hedged before 20 were answered.
    #[must_use]
    pub fn hedge_delay(self, delay: Duration) -> Self {
        self.with(|said| said.hedge_delay = Some(delay))
    }

    /// When a method is given a rest; `None`: never. Default: the policy's breaker. A channel that says so counts for
    /// itself.
    #[must_use]
    pub fn breaker(self, config: Option<breaker::Config>) -> Self {
        self.counting(|said| said.breaker = Some(config))
    }

    /// How many calls of a method may be under way; `None`: any number. A channel that says so counts for itself.
    #[must_use]
    pub fn limiter(self, config: Option<limiter::Config>) -> Self {
        self.counting(|said| said.limiter = Some(config))
    }

    /// The size of the retry budget of a service, in failures; half of it may be spent. Default 10. A channel that says
    /// so counts for itself.
    #[must_use]
    pub fn budget_tokens(self, tokens: u64) -> Self {
        self.counting(|said| said.budget_tokens = Some(tokens))
    }

    fn with(mut self, change: impl FnOnce(&mut Said)) -> Self {
        change(Arc::make_mut(&mut self.said));
        self
    }

    fn counting(mut self, change: impl FnOnce(&mut Said)) -> Self {
        self.own = Some(Arc::default());
        self.with(change)
    }
}

impl tower::Service<Request<Body>> for DirectChannel {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.clone();
        // What surrounds the caller is looked at now: its future may be polled elsewhere.
        let left = deadline::remaining();
        let span = Rpc::start(request.uri().path(), Side::Caller, None);
        Box::pin(async move {
            let answer = channel.perform(request, left, &span).await;
            let failed = match &answer {
                Ok(response) => errors::status_in(response.headers()),
                Err(status) => Some(status.clone()),
            };
            span.end(failed.as_ref());
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

/// A call as it goes to every worker that is tried.
#[derive(Debug)]
struct Outgoing {
    path: String,
    headers: HeaderMap,
    /// With its length before it.
    body: Bytes,
}

impl DirectChannel {
    async fn perform(
        &self,
        request: Request<Body>,
        left: Option<Duration>,
        span: &Rpc,
    ) -> Result<Response<Body>, Status> {
        let wanted = request.headers().get(metadata::TIMEOUT);
        let wanted = wanted.and_then(|value| deadline::decode_timeout(value.to_str().ok()?));
        let timeout = deadline::Policy::default()
            .timeout_ms(left.map(milliseconds), wanted.map(milliseconds))
            .ok_or_else(too_late)?;
        let began = clock::now();
        let end = began + Duration::from_millis(timeout.unsigned_abs());
        let begun = tokio::time::timeout_at(end.into(), self.begin(request, span)).await;
        let (outgoing, rules) = begun.unwrap_or_else(|_| Err(too_late()))?;
        let directory = self.client.directory();
        let guards = self.own.as_deref().unwrap_or_else(|| directory.guards());
        let call = Call {
            directory,
            guard: guards.of(&outgoing.path, &rules),
            end: end.min(began + rules.timeout),
            rules,
            outgoing,
            span,
            tried: Mutex::default(),
        };
        call.perform().await
    }

    /// Reads the request, and what holds for its method.
    async fn begin(&self, request: Request<Body>, span: &Rpc) -> Result<(Outgoing, Rules), Status> {
        let (mut head, body) = request.into_parts();
        span.inject(&mut head.headers);
        let outgoing = Outgoing {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            body: one_message(body).await?,
        };
        let rules = self.client.directory().rules(&outgoing.path).await?;
        Ok((outgoing, rules.under(&self.said)))
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn too_late() -> Status {
    Status::deadline_exceeded("the call's deadline passed")
}

/// The body of a request, which is to hold one message, as it is on the wire.
async fn one_message(body: Body) -> Result<Bytes, Status> {
    let whole = Limited::new(body, MESSAGE_MAX).collect().await;
    let whole = whole.map_err(Status::from_error)?.to_bytes();
    let Some((prefix, message)) = whole.split_first_chunk::<5>() else {
        return Err(Status::internal("the request holds no message"));
    };
    let [_, len @ ..] = *prefix;
    if message.len() != u32::from_be_bytes(len) as usize {
        return Err(streaming("request"));
    }
    Ok(whole)
}

/// A task has one request and one response, and a service is to be usable under both channels.
fn streaming(what: &str) -> Status {
    Status::unimplemented(format!(
        "the {what} is a stream; a worker serves methods of one request and one response"
    ))
}
