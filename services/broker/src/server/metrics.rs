//! The door of metrics: HTTP/1.1, GET /metrics, on a port of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tonic::codegen::http::{Method, Request, Response, StatusCode, header};
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Error, Server};
use tower::service_fn;

use super::{ServerError, listen::closed};
use crate::metrics;
use crate::partition::Handle;

/// Where they are.
const PATH: &str = "/metrics";

/// How long a connection is kept, so that one that says nothing ends, too; and how long its end may take.
const AGE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(5));

/// A listener that nobody is answered on yet.
#[derive(Debug)]
pub(super) struct Door {
    /// Where it is, with its real port.
    pub(super) address: SocketAddr,
    listener: TcpListener,
}

impl Door {
    pub(super) async fn bind(wanted: SocketAddr) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen {
            address: wanted.to_string(),
            source,
        };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, listener })
    }

    /// Answers until closed and all answers have been given.
    pub(super) async fn serve(
        self,
        partition: Handle,
        closing: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        // Each answer is a walk over all methods and a text of its own: one at a time.
        let turns = Arc::new(Semaphore::new(1));
        let answers = service_fn(move |request: Request<_>| {
            let (partition, turns) = (partition.clone(), Arc::clone(&turns));
            async move {
                let wanted = (request.method().clone(), request.uri().path().to_owned());
                drop(request);
                let _turn = turns.acquire().await;
                Ok::<_, Infallible>(answer(&wanted.0, &wanted.1, &partition).await)
            }
        });
        let router = Routes::default()
            .into_axum_router()
            .fallback_service(answers);
        Server::builder()
            .accept_http1(true)
            .max_connection_age(AGE.0)
            .max_connection_age_grace(AGE.1)
            .add_routes(Routes::from(router))
            .serve_with_incoming_shutdown(TcpIncoming::from(self.listener), closed(closing))
            .await
    }
}

async fn answer(method: &Method, path: &str, partition: &Handle) -> Response<String> {
    if path != PATH {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are to be read\n");
    }
    let asked = partition.query(|partition, now| partition.metrics(now));
    let Ok(found) = asked.await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the partition is down\n");
    };
    let text = metrics::text(&found, partition.sync_times());
    let mut response = Response::new(text);
    let kind = header::HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    response
}
