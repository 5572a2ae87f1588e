//! A connection to one worker, kept up for as long as somebody may call it.

use crate::contracts::pause;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::body::Body;

/// Until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 flow control, in bytes: room for some messages under way.
const WINDOW: u32 = 4 << 20;

/// Sends requests to one worker.
pub(super) type Sender = SendRequest<Body>;

/// Whether a worker can be called.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// It was not tried yet, or its connection has just ended.
    Connecting,
    Ready(Sender),
    /// Why not. It is tried again.
    Failing(Arc<str>),
}

/// A worker's address and the connection to it, which ends with the last call under way once this is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Calls under way from this client.
    pub(super) calls: AtomicU32,
    state: watch::Receiver<State>,
    connecting: JoinHandle<()>,
}

impl Peer {
    /// Begins to connect. `changed` is told whenever the state is another one.
    pub(super) fn start(address: SocketAddr, changed: watch::Sender<u64>) -> Self {
        let (told, state) = watch::channel(State::Connecting);
        Self {
            address,
            calls: AtomicU32::new(0),
            state,
            connecting: tokio::spawn(async move {
                let mut attempt = 1;
                loop {
                    let tell = |state| {
                        told.send_replace(state);
                        changed.send_modify(|count| *count += 1);
                    };
                    match connect(address).await {
                        Ok((sender, connection)) => {
                            attempt = 1;
                            tell(State::Ready(sender));
                            connection.await;
                            tell(State::Connecting);
                        }
                        Err(error) => tell(State::Failing(error.into())),
                    }
                    attempt += 1;
                    pause(attempt).await;
                }
            }),
        }
    }

    /// Its state; a connection that has just ended is none.
    pub(super) fn state(&self) -> State {
        match &*self.state.borrow() {
            State::Ready(sender) if sender.is_closed() => State::Connecting,
            state => state.clone(),
        }
    }

    /// Counts a call until what is returned is dropped.
    pub(super) fn call(self: &Arc<Self>) -> Counted {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(self))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.connecting.abort();
    }
}

/// A call under way at a worker.
#[derive(Debug)]
pub(super) struct Counted(Arc<Peer>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects, without pings: gRPC servers end connections that ping more often than every 5 min. A worker that vanished
/// without a word is withdrawn by the scheduler. The future that comes along lasts as long as new requests are taken.
async fn connect(address: SocketAddr) -> Result<(Sender, impl Future<Output = ()> + Send), String> {
    let opening = async {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())
    };
    let (sender, connection) = tokio::time::timeout(CONNECT_TIMEOUT, opening)
        .await
        .map_err(|_| format!("no connection within {CONNECT_TIMEOUT:?}"))??;
    let ended = async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, %address, "the connection to a worker ended");
        }
    };
    Ok((sender, ended))
}
