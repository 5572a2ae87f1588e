//! The length prefix of gRPC: one message into a body and out of it, without copying the payload.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tonic::Status;

/// A compressed flag and a length of four bytes.
const PREFIX: usize = 5;

/// Below this a payload that is kept is copied. tonic encodes every message into a buffer of 8 KiB of its own, so a
/// small slice would hold on to thirty times its size until the task is accepted or the outcome settled.
const COPY_BELOW: usize = 2_048;

/// A body of one message, and of trailers where it is a response.
#[derive(Debug)]
pub(crate) struct Framed {
    prefix: Option<Bytes>,
    payload: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Framed {
    /// A request's body.
    pub(crate) fn request(payload: Bytes) -> Self {
        Self::new(payload, None)
    }

    /// A successful response's body.
    pub(crate) fn response(payload: Bytes) -> Self {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("0"));
        Self::new(payload, Some(trailers))
    }

    fn new(payload: Bytes, trailers: Option<HeaderMap>) -> Self {
        // Payloads are bounded far below 4 GiB by the broker's limit.
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut prefix = BytesMut::with_capacity(PREFIX);
        prefix.put_u8(0);
        prefix.put_u32(len);
        let payload = Some(payload).filter(|payload| !payload.is_empty());
        Self {
            prefix: Some(prefix.freeze()),
            payload,
            trailers,
        }
    }
}

impl Body for Framed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let data = self.prefix.take().or_else(|| self.payload.take());
        let frame = match data {
            Some(data) => Some(Frame::data(data)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_none() && self.payload.is_none() && self.trailers.is_none()
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

/// Reads a body to its end. `what` names it in errors, all of which are INTERNAL as in a gRPC library, but for
/// compression, which is UNIMPLEMENTED: a payload goes to workers in any language as it is.
pub(crate) async fn unframe<B>(body: B, what: &str) -> Result<Unframed, Status>
where
    B: Body<Data = Bytes>,
    B::Error: Into<tonic::codegen::StdError>,
{
    let mut body = pin!(body);
    let mut data = Bytes::new();
    let mut trailers = None;
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| Status::from_error(error.into()))?;
        match frame.into_data() {
            Ok(more) if data.is_empty() => data = more,
            Ok(more) => data = [data, more].concat().into(),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let payload = if data.is_empty() {
        None
    } else {
        Some(message(&data, what)?)
    };
    Ok(Unframed { payload, trailers })
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

    fn bytes(body: &[u8]) -> Bytes {
        Bytes::copy_from_slice(body)
    }

    #[tokio::test]
    async fn what_is_framed_is_unframed_with_its_trailers() {
        for len in [0, 1, COPY_BELOW, 100_000] {
            let payload = Bytes::from(vec![7; len]);
            let read = unframe(Framed::response(payload.clone()), "response").await;
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
        let read = unframe(Full::new(body), "request")
            .await
            .expect("a message");
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
        let read = unframe(StreamBody::new(tokio_stream::iter(frames)), "request").await;
        assert_eq!(read.expect("a message").payload, Some(bytes(b"hi")));
    }

    #[tokio::test]
    async fn an_empty_body_holds_no_message() {
        let read = unframe(Full::new(Bytes::new()), "request")
            .await
            .expect("nothing");
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
            let error = unframe(Full::new(bytes(body)), "request")
                .await
                .expect_err("broken");
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
