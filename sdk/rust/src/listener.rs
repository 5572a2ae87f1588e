//! The port of a worker where its methods are called directly: an ordinary gRPC server.

use crate::attach::{Plan, Wish};
use crate::deadline;
use crate::direct::marks::Mark;
use crate::errors;
use crate::flags::Board;
use crate::invoke::{Handler, panicked};
use crate::metadata;
use crate::trace::rpc::{Rpc, Side};
use http::{HeaderMap, Request, Response};
use opentelemetry::Context as Trace;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Between the word that a worker goes and the end of its port. Callers are told within some 50 ms of the word; those
/// that were not meet a port that says goodbye, and call somebody else.
const WITHDRAWAL: Duration = Duration::from_secs(1);

/// HTTP/2 flow control, in bytes: room for some messages under way.
const WINDOW: u32 = 4 << 20;

/// A port that is open.
pub(crate) struct Listener {
    endpoint: String,
    incoming: TcpIncoming,
    calls: Calls,
}

impl Listener {
    /// Opens the port. INVALID_ARGUMENT for what is no address of a loopback interface, since there is no transport
    /// security yet; UNAVAILABLE for a port in use.
    pub(crate) fn open(address: &str, plan: &Plan) -> Result<Self, Status> {
        let refuse = |why: &str| Status::invalid_argument(format!("listening at {address}: {why}"));
        let at: SocketAddr = address
            .parse()
            .map_err(|_| refuse("not an IP address and a port"))?;
        if !at.ip().is_loopback() {
            return Err(refuse(
                "not on loopback, and there is no transport security yet",
            ));
        }
        let failed =
            |error: std::io::Error| Status::unavailable(format!("listening at {address}: {error}"));
        let listener = TcpListener::bind(at).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let endpoint = listener.local_addr().map_err(failed)?.to_string();
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        Ok(Self {
            endpoint,
            incoming: TcpIncoming::from(listener).with_nodelay(Some(true)),
            calls: Calls {
                handlers: Arc::new(plan.methods.iter().cloned().collect()),
                slots: Arc::new(Semaphore::new(plan.slots as usize)),
                slots_max: plan.slots,
                flags: plan.flags.clone(),
            },
        })
    }

    /// Where it listens, with the port that it got.
    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Serves until the worker is to drain, and a moment longer, since callers are only being told; then ends with the
    /// calls under way, after `grace` at the latest, or at once when the worker is to stop.
    pub(crate) async fn serve(self, wishes: watch::Receiver<Wish>, grace: Duration) {
        let (mut drain, mut stop, mut late) = (wishes.clone(), wishes.clone(), wishes);
        let goodbye = async move {
            // An error: its owner is gone, and it is to stop.
            let _ = drain.wait_for(|wish| *wish >= Wish::Drain).await;
            let told = stop.wait_for(|wish| *wish == Wish::Stop);
            let _ = tokio::time::timeout(WITHDRAWAL.min(grace), told).await;
        };
        let serving = Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .serve_with_incoming_shutdown(self.calls, self.incoming, goodbye);
        let cut = async move {
            let _ = late.wait_for(|wish| *wish >= Wish::Drain).await;
            let stopped = late.wait_for(|wish| *wish == Wish::Stop);
            let _ = tokio::time::timeout(grace, stopped).await;
        };
        tokio::select! {
            ended = serving => if let Err(error) = ended {
                tracing::error!(%error, endpoint = self.endpoint, "the port of direct calls is closed");
            },
            () = cut => {}
        }
    }
}

/// The methods that are served, by their paths.
#[derive(Clone)]
struct Calls {
    handlers: Arc<HashMap<String, Arc<dyn Handler>>>,
    slots: Arc<Semaphore>,
    slots_max: u32,
    flags: Board,
}

impl Calls {
    fn begin(&self, request: Request<Body>) -> Result<Serving, Status> {
        let path = request.uri().path();
        let handler = self
            .handlers
            .get(path)
            .ok_or_else(|| Status::unimplemented(format!("the worker does not serve {path}")))?;
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{} calls are under way, which is all that this worker takes",
                self.slots_max
            ))
        })?;
        let left = timeout(request.headers());
        let span = Rpc::start(path, Side::Worker, Some(request.headers()));
        let (handler, flags) = (Arc::clone(handler), self.flags.clone());
        Ok(Box::pin(async move {
            let context = span.context();
            let mark = Mark::default();
            let handling = flags.around(async move { handler.call(request).await });
            let handling = mark.around(handling);
            let calling = surrounded(context, handling);
            let answer = match left {
                None => calling.await,
                Some(left) => {
                    let bounded = deadline::limit(left, calling);
                    let bounded = tokio::time::timeout(left, bounded).await;
                    bounded.unwrap_or_else(|_| {
                        Ok(Status::deadline_exceeded("the call's deadline passed").into_http())
                    })
                }
            };
            drop(slot);
            let mut answer = answer.unwrap_or_else(|error| Status::from_error(error).into_http());
            span.end(errors::status_in(answer.headers()).as_ref());
            mark.tell(answer.headers_mut());
            answer
        }))
    }
}

type Serving = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(metadata::TIMEOUT)?.to_str().ok()?;
    deadline::decode_timeout(value)
}

/// Runs a handler under a trace; one that panics fails its call alone.
async fn surrounded(
    context: Option<Trace>,
    handler: impl Future<Output = Result<Response<Body>, tonic::codegen::StdError>> + Send,
) -> Result<Response<Body>, tonic::codegen::StdError> {
    let mut handler = Box::pin(handler);
    poll_fn(|cx| {
        let _context = context.clone().map(Trace::attach);
        let polled = catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx)));
        polled.unwrap_or_else(|panic| Poll::Ready(Ok(panicked(panic.as_ref()).into_http())))
    })
    .await
}

impl tower::Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let begun = self.begin(request);
        Box::pin(async move {
            Ok(match begun {
                Ok(serving) => serving.await,
                Err(status) => status.into_http(),
            })
        })
    }
}
