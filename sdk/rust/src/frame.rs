//! The length prefix of gRPC: one message into a body and out of it, without copying what is large.

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::body::Body;

/// A compressed flag and a length of four bytes.
const PREFIX: usize = 5;

/// Below this a payload is copied. tonic encodes every message into a buffer of 8 KiB of its own, so a small slice that
/// is kept would hold on to thirty times its size until the task is accepted or the outcome settled; and behind a
/// prefix in one buffer it costs less than as a frame of its own.
const COPY_BELOW: usize = 2_048;

/// A body of one message, and of trailers where it is a response.
#[derive(Debug)]
pub(crate) struct Framed {
    prefix: Option<Bytes>,
    payload: Option<Bytes>,
    ok: bool,
}

impl Framed {
    /// A request's body.
    pub(crate) fn request(payload: Bytes) -> Self {
        Self::new(payload, false)
    }

    /// A successful response's body.
    pub(crate) fn response(payload: Bytes) -> Self {
        Self::new(payload, true)
    }

    fn new(payload: Bytes, ok: bool) -> Self {
        let small = payload.len() < COPY_BELOW;
        let mut prefix = Vec::with_capacity(PREFIX + if small { payload.len() } else { 0 });
        prefix.put_u8(0);
        // Payloads are bounded far below 4 GiB by the broker's limit.
        prefix.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        if small {
            prefix.put_slice(&payload);
        }
        Self {
            prefix: Some(prefix.into()),
            payload: (!small).then_some(payload),
            ok,
        }
    }
}

impl http_body::Body for Framed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let data = self.prefix.take().or_else(|| self.payload.take());
        let frame = match data {
            Some(data) => Some(Frame::data(data)),
            None => std::mem::take(&mut self.ok).then(|| {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Frame::trailers(trailers)
            }),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_none() && self.payload.is_none() && !self.ok
    }

    fn size_hint(&self) -> SizeHint {
        let len = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len) as u64;
        SizeHint::with_exact(len(&self.prefix) + len(&self.payload))
    }
}

/// What a body of at most one message held.
#[derive(Debug, Default)]
pub(crate) struct Unframed {
    /// The message; `None` when there was none.
    pub(crate) payload: Option<Bytes>,
    /// The trailers, if any.
    pub(crate) trailers: Option<HeaderMap>,
}

/// Reads a body to its end. All errors are INTERNAL as in a gRPC library, but for compression, which is
/// UNIMPLEMENTED: a
/// payload goes to workers in any language as it is.
#[derive(Debug)]
pub(crate) struct Unframing {
    body: Body,
    /// Names the body in errors.
    what: &'static str,
    data: Bytes,
    trailers: Option<Box<HeaderMap>>,
}

impl Unframing {
    pub(crate) fn new(body: Body, what: &'static str) -> Self {
        Self {
            body,
            what,
            data: Bytes::new(),
            trailers: None,
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) if self.data.is_empty() => self.data = data,
            Ok(data) => self.data = [&self.data[..], &data].concat().into(),
            Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
        }
    }
}

impl Future for Unframing {
    type Output = Result<Unframed, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            self.take(frame?);
        }
        let data = &self.data;
        let payload = if data.is_empty() {
            None
        } else {
            Some(message(data, self.what)?)
        };
        let trailers = self.trailers.take().map(|trailers| *trailers);
        Poll::Ready(Ok(Unframed { payload, trailers }))
    }
}

fn message(data: &Bytes, what: &str) -> Result<Bytes, Status> {
    let Some((prefix, message)) = data.split_first_chunk::<PREFIX>() else {
        return Err(Status::internal(format!(
            "the {what} ends inside its length prefix"
        )));
    };
    let [flag, len @ ..] = *prefix;
    match flag {
        0 => {}
        1 => {
            let text = format!("the {what} is compressed, which Plait does not pass on");
            return Err(Status::unimplemented(text));
        }
        _ => {
            return Err(Status::internal(format!(
                "the {what} has the invalid flag {flag}"
            )));
        }
    }
    let len = u32::from_be_bytes(len) as usize;
    if message.len() != len {
        let text = format!(
            "the {what} says it has {len} bytes and has {}",
            message.len()
        );
        return Err(Status::internal(text));
    }
    Ok(if len < COPY_BELOW {
        Bytes::copy_from_slice(message)
    } else {
        data.slice(PREFIX..)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full, StreamBody};
    use proptest::prelude::*;
    use tonic::Code;

    async fn unframe<B>(body: B) -> Result<Unframed, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        Unframing::new(Body::new(body), "body").await
    }

    fn bytes(body: &[u8]) -> Bytes {
        Bytes::copy_from_slice(body)
    }

    #[tokio::test]
    async fn what_is_framed_is_unframed_with_its_trailers() {
        for len in [0, 1, COPY_BELOW, 100_000] {
            let payload = Bytes::from(vec![7; len]);
            let read = unframe(Framed::response(payload.clone())).await;
            let read = read.expect("own framing");
            assert_eq!(read.payload.as_ref(), Some(&payload));
            assert_eq!(read.trailers.expect("trailers")[Status::GRPC_STATUS], "0");
        }
    }

    #[tokio::test]
    async fn a_large_payload_is_not_copied() {
        let body = [vec![0, 0, 0, 16, 0], vec![7; 4_096]].concat();
        let body = Bytes::from(body);
        let start = body.as_ptr();
        let read = unframe(Full::new(body)).await.expect("a message");
        let payload = read.payload.expect("a payload");
        assert_eq!(payload.as_ptr(), start.wrapping_add(PREFIX));
        let collected = Framed::request(payload.clone())
            .collect()
            .await
            .expect("a body");
        assert_eq!(collected.to_bytes().len(), PREFIX + payload.len());
    }

    #[tokio::test]
    async fn a_message_may_come_in_pieces() {
        let pieces = [&[0, 0][..], &[0, 0, 2, b'h'], b"i"];
        let frames = pieces.map(|piece| Ok::<_, Status>(Frame::data(bytes(piece))));
        let read = unframe(StreamBody::new(tokio_stream::iter(frames))).await;
        assert_eq!(read.expect("a message").payload, Some(bytes(b"hi")));
    }

    #[tokio::test]
    async fn an_empty_body_holds_no_message() {
        let read = unframe(Full::new(Bytes::new())).await.expect("nothing");
        assert!(read.payload.is_none());
    }

    #[tokio::test]
    async fn broken_framing_is_internal_and_compression_unimplemented() {
        for (body, code) in [
            (&[0, 0, 0][..], Code::Internal),
            (&[2, 0, 0, 0, 0], Code::Internal),
            (&[0, 0, 0, 0, 1], Code::Internal),
            (&[0, 0, 0, 0, 0, 9], Code::Internal),
            (&[0, 255, 255, 255, 255, 1], Code::Internal),
            (&[1, 0, 0, 0, 1, 9], Code::Unimplemented),
        ] {
            let error = unframe(Full::new(bytes(body))).await.expect_err("broken");
            assert_eq!(error.code(), code, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(body in proptest::collection::vec(any::<u8>(), 1..64)) {
            if let Ok(payload) = message(&bytes(&body), "request") {
                prop_assert_eq!(&payload[..], &body[PREFIX..]);
            }
        }
    }
}
