//! testing.v1.EchoService with hooks for tests.

use futures_util::future::{BoxFuture, try_join_all};
use plait::errors::{ErrorReason, refusal};
use plait::pb::testing::v1 as pb;
use plait::pb::testing::v1::echo_service_client::EchoServiceClient;
use plait::pb::testing::v1::echo_service_server::EchoService;
use plait::{Attempt, Channel};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tonic::{Code, Request, Response, Status};

/// What a test has the handler of `Inspect` do before it answers.
pub type Script = Box<dyn Fn() -> BoxFuture<'static, Result<(), Status>> + Send + Sync>;

/// The service. Its clones are one.
#[derive(Clone)]
pub struct Echo {
    inner: Arc<Inner>,
}

struct Inner {
    script: Option<Script>,
    client: Option<EchoServiceClient<Channel>>,
    /// How often each method ran.
    runs: Mutex<HashMap<&'static str, u32>>,
    lines: Mutex<HashMap<String, Vec<i64>>>,
    /// A handler started; tests wait for it.
    started: Semaphore,
    /// Lets every handler of `Once` go on.
    gate: Semaphore,
    /// A handler was dropped before it was done.
    dropped: Notify,
    /// Handlers of `Once` and `Sleep` at work, and the most there were.
    busy: AtomicU32,
    peak: AtomicU32,
}

/// Tells when its handler is dropped.
struct Witness {
    inner: Arc<Inner>,
    done: bool,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.inner.busy.fetch_sub(1, Ordering::Relaxed);
        if !self.done {
            self.inner.dropped.notify_one();
        }
    }
}

impl Echo {
    /// `channel` is what its flows make their calls through.
    pub fn new(channel: Option<Channel>) -> Self {
        Self::scripted(channel, None)
    }

    pub fn scripted(channel: Option<Channel>, script: Option<Script>) -> Self {
        let inner = Inner {
            script,
            client: channel.map(EchoServiceClient::new),
            runs: Mutex::default(),
            lines: Mutex::default(),
            started: Semaphore::new(0),
            gate: Semaphore::new(0),
            dropped: Notify::new(),
            busy: AtomicU32::new(0),
            peak: AtomicU32::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub fn runs(&self, method: &str) -> u32 {
        let runs = self
            .inner
            .runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        runs.get(method).copied().unwrap_or_default()
    }

    /// The most handlers of `Once` and `Sleep` that were at work at once.
    pub fn peak(&self) -> u32 {
        self.inner.peak.load(Ordering::Relaxed)
    }

    pub fn line(&self, account: &str) -> Vec<i64> {
        let lines = self
            .inner
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lines.get(account).cloned().unwrap_or_default()
    }

    /// Waits until as many handlers of `Once` and `Sleep` have started since the last call.
    pub async fn started(&self, handlers: u32) {
        self.inner
            .started
            .acquire_many(handlers)
            .await
            .expect("open")
            .forget();
    }

    /// Lets so many handlers of `Once` go on.
    pub fn release(&self, handlers: usize) {
        self.inner.gate.add_permits(handlers);
    }

    /// Waits until a handler was dropped before it was done.
    pub async fn dropped(&self) {
        self.inner.dropped.notified().await;
    }

    fn count(&self, method: &'static str) {
        let mut runs = self
            .inner
            .runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *runs.entry(method).or_default() += 1;
    }

    async fn witness<T>(&self, work: impl Future<Output = T>) -> T {
        let mut witness = Witness {
            inner: Arc::clone(&self.inner),
            done: false,
        };
        let busy = self.inner.busy.fetch_add(1, Ordering::Relaxed) + 1;
        self.inner.peak.fetch_max(busy, Ordering::Relaxed);
        self.inner.started.add_permits(1);
        let value = work.await;
        witness.done = true;
        value
    }

    fn client(&self) -> Result<EchoServiceClient<Channel>, Status> {
        self.inner
            .client
            .clone()
            .ok_or_else(|| Status::failed_precondition("no channel"))
    }
}

fn attempt() -> Result<Attempt, Status> {
    plait::attempt().ok_or_else(|| Status::failed_precondition("no attempt"))
}

fn number() -> Result<i32, Status> {
    Ok(attempt()?.number().cast_signed())
}

fn duration(told: Option<prost_types::Duration>) -> Duration {
    told.and_then(|told| told.try_into().ok())
        .unwrap_or_default()
}

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(
        &self,
        request: Request<pb::EchoRequest>,
    ) -> Result<Response<pb::EchoResponse>, Status> {
        self.count("echo");
        let payload = request.into_inner().payload;
        assert!(&payload[..] != b"panic", "told to");
        Ok(Response::new(pb::EchoResponse { payload }))
    }

    async fn fail(
        &self,
        request: Request<pb::FailRequest>,
    ) -> Result<Response<pb::FailResponse>, Status> {
        self.count("fail");
        let (attempt, request) = (number()?, request.into_inner());
        if attempt > request.failures {
            return Ok(Response::new(pb::FailResponse { attempt }));
        }
        let code = Code::from_i32(request.code);
        let details = refusal(
            ErrorReason::StateConflict,
            "inner",
            [("field", request.violation)],
        );
        let details = details.details().to_vec().into();
        let mut status = Status::with_details(code, request.message, details);
        if let Ok(value) = request.trailer.parse() {
            status.metadata_mut().insert("x-failed-by", value);
        }
        Err(status)
    }

    async fn scalars(
        &self,
        request: Request<pb::ScalarsRequest>,
    ) -> Result<Response<pb::ScalarsResponse>, Status> {
        let values = request.into_inner().values;
        Ok(Response::new(pb::ScalarsResponse { values }))
    }

    async fn sleep(
        &self,
        request: Request<pb::SleepRequest>,
    ) -> Result<Response<pb::SleepResponse>, Status> {
        self.count("sleep");
        attempt()?.progress(0.5, "sleeping");
        let sleep = tokio::time::sleep(duration(request.into_inner().duration));
        self.witness(sleep).await;
        Ok(Response::new(pb::SleepResponse {}))
    }

    async fn flow(
        &self,
        request: Request<pb::FlowRequest>,
    ) -> Result<Response<pb::FlowResponse>, Status> {
        self.count("flow");
        let (client, request) = (self.client()?, request.into_inner());
        let echoes = (0..request.width).map(|index| {
            let (mut client, payload) = (client.clone(), format!("{}/{index}", request.seed));
            async move {
                client
                    .echo(pb::EchoRequest {
                        payload: payload.into(),
                    })
                    .await
            }
        });
        let echoes = try_join_all(echoes).await?;
        let echoed: usize = echoes.iter().map(|echo| echo.get_ref().payload.len()).sum();
        let mut child_attempts = 0;
        for index in 0..request.depth {
            let mut message = format!("{}/{index}", request.seed);
            if request.diverge {
                message += &number()?.to_string();
            }
            let code = Code::Unavailable.into();
            let fail = pb::FailRequest {
                code,
                message,
                failures: 1,
                ..Default::default()
            };
            child_attempts += client.clone().fail(fail).await?.get_ref().attempt;
        }
        let attempt = number()?;
        if attempt <= request.failures {
            return Err(Status::unavailable("told to"));
        }
        let echoed_bytes = i64::try_from(echoed).expect("few");
        Ok(Response::new(pb::FlowResponse {
            echoed_bytes,
            child_attempts,
            attempt,
        }))
    }

    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        self.count("append");
        let request = request.into_inner();
        let mut lines = self
            .inner
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(request.account).or_default();
        line.push(request.entry.unwrap_or_default().number);
        let length = i64::try_from(line.len()).expect("few");
        Ok(Response::new(pb::AppendResponse { length }))
    }

    async fn once(
        &self,
        _: Request<pb::OnceRequest>,
    ) -> Result<Response<pb::OnceResponse>, Status> {
        self.count("once");
        self.witness(async {
            self.inner.gate.acquire().await.expect("open").forget();
        })
        .await;
        Ok(Response::new(pb::OnceResponse {}))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectRequest>,
    ) -> Result<Response<pb::InspectResponse>, Status> {
        self.count("inspect");
        if let Some(script) = &self.inner.script {
            script().await?;
        }
        let attempt = attempt()?;
        let text = |(key, value): (&http::HeaderName, &http::HeaderValue)| {
            (
                key.to_string(),
                value.to_str().unwrap_or_default().to_owned(),
            )
        };
        Ok(Response::new(pb::InspectResponse {
            time_remaining: attempt.time_remaining().try_into().ok(),
            metadata: request.metadata().as_ref().iter().map(text).collect(),
            attempt: number()?,
            task: attempt.task_id().to_string(),
            idempotency_key: attempt.idempotency_key(),
            fencing_token: attempt.fencing_token(),
            ..pb::InspectResponse::default()
        }))
    }
}
