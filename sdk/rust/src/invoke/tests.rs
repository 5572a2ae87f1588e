use super::*;
use crate::attempt::{Facts, Lease};
use crate::flags::Readings;
use crate::pb::v1::AttemptExtra;
use crate::session::tests::method;
use std::convert::Infallible;
use std::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};
use tonic::Code;

fn attempt(extra: Option<AttemptExtra>, deadline: Instant) -> Attempt {
    Attempt::new(Facts {
        lease: Lease { task: 7, token: 9 },
        extra: extra.map(Box::new),
        method: method("/a.B/C"),
        deadline,
        client: 1,
        desk: None,
        trace: None,
        flags: Readings::default(),
    })
}

fn plain() -> Attempt {
    attempt(None, crate::clock::now())
}

/// Runs a service on an empty request.
async fn run<F>(service: impl Fn(Request<Body>) -> F + Clone + Send + Sync + 'static) -> Ended
where
    F: Future<Output = Result<Response<Body>, StdError>> + Send + 'static,
{
    let handler = TowerHandler(tower::service_fn(service));
    Invocation::new(plain(), &handler, Request::new(Body::empty())).await
}

fn failed(ended: Ended) -> (Code, String) {
    let failure = ended.expect_err("failed");
    (Code::from_i32(failure.code.cast_signed()), failure.message)
}

#[tokio::test]
async fn the_message_of_an_ok_response_is_the_outcome() {
    let ended = run(|_| async {
        Ok(Response::new(Body::new(Framed::response(
            Bytes::from_static(b"hi"),
        ))))
    });
    assert_eq!(ended.await.expect("ok"), "hi");
}

#[tokio::test]
async fn a_status_in_headers_or_trailers_is_the_failure() {
    let headers = run(|_| async { Ok(Status::not_found("gone").into_http()) });
    assert_eq!(failed(headers.await), (Code::NotFound, "gone".into()));
    let trailers = run(|_| async {
        let frames = [
            http_body::Frame::data(Bytes::from_static(&[0, 0, 0, 0, 1, 7])),
            http_body::Frame::trailers(Status::aborted("late").into_http::<()>().headers().clone()),
        ];
        let frames = tokio_stream::iter(frames.map(Ok::<_, Status>));
        Ok(Response::new(Body::new(http_body_util::StreamBody::new(
            frames,
        ))))
    });
    assert_eq!(failed(trailers.await), (Code::Aborted, "late".into()));
}

#[tokio::test]
async fn a_response_without_a_message_is_internal() {
    let ended = run(|_| async { Ok(Response::new(Body::empty())) });
    assert_eq!(failed(ended.await).0, Code::Internal);
}

#[tokio::test]
async fn a_panic_is_unknown_wherever_it_happens() {
    async fn polled(text: &str) -> Result<Response<Body>, StdError> {
        panic!("{text}")
    }
    let (code, message) = failed(run(|_| polled("later")).await);
    assert_eq!(
        (code, message.as_str()),
        (Code::Unknown, "the handler panicked: later")
    );
    fn called(_: Request<Body>) -> std::future::Ready<Result<Response<Body>, StdError>> {
        panic!("at once")
    }
    let (code, message) = failed(run(called).await);
    assert_eq!(
        (code, message.as_str()),
        (Code::Unknown, "the handler panicked: at once")
    );
}

#[tokio::test]
async fn the_handler_runs_as_part_of_its_attempt_in_every_step() {
    let ended = run(|_| {
        let called = crate::attempt().map(|attempt| attempt.fencing_token());
        async move {
            let polled = crate::attempt().map(|attempt| attempt.fencing_token());
            Ok(Status::ok(format!("{called:?} {polled:?}")).into_http())
        }
    });
    assert_eq!(
        failed(ended.await).0,
        Code::Internal,
        "OK without a message"
    );
    let ended = run(|_| async {
        match crate::attempt().map(|attempt| attempt.fencing_token()) {
            Some(9) => Ok(Status::already_exists("seen").into_http()),
            other => Err(format!("{other:?}").into()),
        }
    });
    assert_eq!(failed(ended.await).0, Code::AlreadyExists);
    assert!(crate::attempt().is_none());
}

/// A service that is ready the second time it is asked.
#[derive(Clone)]
struct Lazy(bool);

impl tower::Service<Request<Body>> for Lazy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(self.0, "called before it was ready");
        std::future::ready(Ok(Response::new(Body::new(Framed::response(
            Bytes::from_static(b"x"),
        )))))
    }
}

#[tokio::test]
async fn a_service_is_called_when_it_is_ready() {
    let handler = TowerHandler(Lazy(false));
    let invocation = Invocation::new(plain(), &handler, Request::new(Body::empty()));
    assert_eq!(invocation.await.expect("ok"), "x");
}

#[test]
fn an_invocation_that_waits_can_go_on_elsewhere() {
    let (send, receive) = tokio::sync::oneshot::channel::<()>();
    let receive = std::sync::Arc::new(tokio::sync::Mutex::new(receive));
    let handler = TowerHandler(tower::service_fn(move |_: Request<Body>| {
        let receive = std::sync::Arc::clone(&receive);
        async move {
            (&mut *receive.lock().await)
                .await
                .map_err(|error| error.to_string())?;
            let body = Body::new(Framed::response(Bytes::from_static(b"x")));
            Ok::<_, String>(Response::new(body))
        }
    }));
    let mut invocation = Invocation::new(plain(), &handler, Request::new(Body::empty()));
    let first = Pin::new(&mut invocation).poll(&mut Context::from_waker(Waker::noop()));
    assert!(first.is_pending());
    let mut elsewhere = task::spawn(invocation);
    assert_pending!(elsewhere.poll());
    send.send(()).expect("waiting");
    assert!(elsewhere.is_woken());
    assert_eq!(assert_ready!(elsewhere.poll()).expect("ok"), "x");
}

#[test]
fn the_request_tells_the_attempt() {
    let uri = "/a.B/C".parse().expect("a path");
    let extra = AttemptExtra {
        attempt: 3,
        idempotency_key: "k".into(),
        ..Default::default()
    };
    let attempt = attempt(Some(extra), crate::clock::now());
    let tenant = Metadatum {
        key: "tenant".into(),
        value: Bytes::from_static(b"acme"),
    };
    let envelope = Envelope {
        uri: &uri,
        attempt: &attempt,
        metadata: &[tenant],
        left: Duration::from_millis(5),
        payload: Bytes::from_static(b"x"),
    };
    let request = envelope.into_request(&mut Values::default());
    assert_eq!(
        (request.method(), request.uri().path()),
        (&Method::POST, "/a.B/C")
    );
    for (key, want) in [
        ("content-type", "application/grpc"),
        ("grpc-timeout", "5000000n"),
        ("plait-task-id", "t0000000000000007"),
        ("plait-attempt", "3"),
        ("plait-fencing-token", "9"),
        ("plait-idempotency-key", "k"),
        ("tenant", "acme"),
    ] {
        assert_eq!(request.headers()[key], want, "{key}");
    }
}

#[test]
fn a_task_without_a_key_has_its_id_for_one() {
    let uri = "/a.B/C".parse().expect("a path");
    let attempt = plain();
    let envelope = Envelope {
        uri: &uri,
        attempt: &attempt,
        metadata: &[],
        left: Duration::from_millis(5),
        payload: Bytes::new(),
    };
    let request = envelope.into_request(&mut Values::default());
    assert_eq!(
        request.headers()["plait-idempotency-key"],
        "t0000000000000007"
    );
    assert_eq!(request.headers()["plait-attempt"], "1");
    assert!(
        request.headers().capacity() <= 8,
        "{}",
        request.headers().capacity()
    );
}
