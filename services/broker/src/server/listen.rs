//! Sockets and the limits of HTTP/2 on them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Error, Server};
use tower::util::MapResponseLayer;

use super::{ServerError, refusals};
use crate::config::Settings;

/// Streams of one connection. An SDK needs two for a process and one for each call under way.
const STREAMS_MAX: u32 = 100;

/// Headers of one request, bytes.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Streams that a peer may reset before they were taken.
const PENDING_RESETS_MAX: usize = 64;

/// What a stream may send before it is read, bytes: covers the delay of real networks.
const STREAM_WINDOW: u32 = 4 << 20;

/// The same for a connection.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// How often a silent connection is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// What the broker listens on.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Where the TCP listener is, with its real port.
    pub(super) address: SocketAddr,
    tcp: TcpListener,
    unix: Option<(UnixListener, PathBuf)>,
}

impl Sockets {
    pub(super) async fn bind(settings: &Settings) -> Result<Self, ServerError> {
        let failed = |address: String| |source| ServerError::Listen { address, source };
        let named = settings.listen.to_string();
        let tcp = TcpListener::bind(settings.listen)
            .await
            .map_err(failed(named.clone()))?;
        let address = tcp.local_addr().map_err(failed(named))?;
        let unix = match &settings.listen_unix {
            None => None,
            Some(path) => {
                // A socket file that a killed process left. One that is in use is guarded by the log's lock.
                let _ = std::fs::remove_file(path);
                let bound = UnixListener::bind(path).map_err(failed(path.display().to_string()))?;
                Some((bound, path.clone()))
            }
        };
        Ok(Self { address, tcp, unix })
    }

    /// Serves until closed and all streams have ended.
    pub(super) async fn serve(
        self,
        routes: Routes,
        closing: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let tcp = TcpIncoming::from(self.tcp).with_nodelay(Some(true));
        let over_tcp = serve(tcp, routes.clone(), closing.clone());
        let Some((unix, path)) = self.unix else {
            return over_tcp.await;
        };
        let over_unix = serve(UnixListenerStream::new(unix), routes, closing);
        let served = tokio::try_join!(over_tcp, over_unix).map(|_| ());
        let _ = std::fs::remove_file(path);
        served
    }
}

/// Serves connections until closed and all their streams have ended.
pub async fn serve<C>(
    connections: impl Stream<Item = io::Result<C>>,
    routes: Routes,
    closing: watch::Receiver<bool>,
) -> Result<(), Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    server()
        .layer(MapResponseLayer::new(refusals::in_our_words::<Body>))
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, closed(closing))
        .await
}

pub(super) async fn closed(mut closing: watch::Receiver<bool>) {
    // A sender that is gone closes, too.
    let _ = closing.wait_for(|closed| *closed).await;
}

fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_max_header_list_size(Some(HEADER_BYTES_MAX))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
}
