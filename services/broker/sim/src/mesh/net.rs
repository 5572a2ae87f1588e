//! tonic over the simulated network.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use http::Uri;
use http::header::{DATE, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tower::util::MapResponseLayer;
use turmoil::net::{TcpListener, TcpStream};

/// The broker's host, and where it listens.
pub(super) const BROKER: &str = "broker";
const PORT: u16 = 7420;

/// How long a peer waits for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// After how much silence a peer asks whether the broker is there, and for how long it waits for the answer: as the
/// SDKs.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A connection that the broker accepted.
#[derive(Debug)]
pub(super) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The broker's door.
pub(super) async fn listen() -> io::Result<impl Stream<Item = io::Result<Accepted>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let accept = async |listener: TcpListener| {
        let accepted = listener.accept().await;
        Some((accepted.map(|(stream, _)| Accepted(stream)), listener))
    };
    Ok(stream::unfold(listener, accept))
}

/// Answers with a date of ours: that of the real clock would end in the bytes, and so in the trace.
pub(super) fn dated(routes: Routes) -> Routes {
    let dated = MapResponseLayer::new(|mut answer: http::Response<_>| {
        let date = HeaderValue::from_static("Tue, 14 Nov 2023 22:13:20 GMT");
        answer.headers_mut().insert(DATE, date);
        answer
    });
    Routes::from(routes.into_axum_router().layer(dated))
}

/// Connects to the broker once.
pub(super) async fn connect() -> Result<Channel, Status> {
    let dial = service_fn(|_: Uri| async {
        let stream = TcpStream::connect((BROKER, PORT)).await?;
        Ok::<_, io::Error>(TokioIo::new(stream))
    });
    let endpoint = Endpoint::from_static("http://broker")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    let connecting = tokio::time::timeout(CONNECT, endpoint.connect_with_connector(dial));
    let connected = connecting
        .await
        .map_err(|_| Status::unavailable("no connection in time"))?;
    connected.map_err(|error| Status::unavailable(error.to_string()))
}

/// A call's answer, or UNAVAILABLE when it takes too long.
pub(super) async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answered = tokio::time::timeout(CONNECT, call).await;
    answered.map_err(|_| Status::unavailable("no answer in time"))?
}
