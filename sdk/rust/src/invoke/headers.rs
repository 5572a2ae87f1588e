//! The headers that every handler sees.

use crate::attempt::Attempt;
use crate::deadline::encode_timeout;
use crate::metadata;
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};
use std::sync::LazyLock;
use std::time::Duration;

/// Bytes of header values that are written into one buffer.
const BUFFER: usize = 4_096;

/// Writes values one behind the other into buffers that they share, because allocating each costs more than writing
/// it. A buffer is used again once none of its values is left.
#[derive(Debug)]
pub(crate) struct Values {
    buffer: BytesMut,
    /// The last timeout, in milliseconds and as a header: those of a burst are the same.
    timeout: (u128, HeaderValue),
}

impl Default for Values {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            timeout: (0, HeaderValue::from_static("0m")),
        }
    }
}

impl Values {
    /// A value of some bytes. Empty if no header can carry them.
    fn value(&mut self, text: &[u8]) -> HeaderValue {
        if self.buffer.capacity() < text.len() {
            self.buffer.reserve(BUFFER.max(text.len()));
        }
        self.buffer.extend_from_slice(text);
        let value = HeaderValue::from_maybe_shared(self.buffer.split().freeze());
        value.unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn number(&mut self, number: u64) -> HeaderValue {
        self.value(itoa::Buffer::new().format(number).as_bytes())
    }

    /// What is left, in whole milliseconds and never more than there is.
    fn timeout(&mut self, left: Duration) -> HeaderValue {
        let left_ms = left.as_millis();
        if left_ms != self.timeout.0 {
            let text = encode_timeout(
                left - Duration::from_nanos(u64::from(left.subsec_nanos()) % 1_000_000),
            );
            self.timeout = (left_ms, self.value(text.as_bytes()));
        }
        self.timeout.1.clone()
    }
}

/// What every handler sees as metadata.
#[derive(Debug)]
pub(super) struct Facts {
    timeout: HeaderValue,
    token: HeaderValue,
    number: HeaderValue,
    /// A key that no header can carry is still there in `Attempt::idempotency_key`.
    key: Option<HeaderValue>,
    task: HeaderValue,
}

impl Facts {
    pub(super) fn of(attempt: &Attempt, left: Duration, values: &mut Values) -> Self {
        let task = values.value(&attempt.task_id().text());
        Self {
            timeout: values.timeout(left),
            token: values.number(attempt.fencing_token()),
            number: match attempt.number() {
                1 => HeaderValue::from_static("1"),
                number => HeaderValue::from(number),
            },
            key: if attempt.has_key() {
                HeaderValue::try_from(attempt.idempotency_key()).ok()
            } else {
                Some(task.clone())
            },
            task,
        }
    }

    /// As the headers of a request. A copy of a map that has them all is filled in, because putting each into an empty
    /// one hashes its name.
    pub(super) fn into_headers(mut self) -> HeaderMap {
        static NAMES: LazyLock<HeaderMap> = LazyLock::new(|| {
            let names = [
                http::header::CONTENT_TYPE,
                metadata::TIMEOUT,
                metadata::FENCING_TOKEN,
                metadata::ATTEMPT,
                metadata::IDEMPOTENCY_KEY,
                metadata::TASK_ID,
            ];
            let grpc = HeaderValue::from_static("application/grpc");
            names.map(|name| (name, grpc.clone())).into_iter().collect()
        });
        let mut headers = NAMES.clone();
        for (name, value) in &mut headers {
            let fact = match &mut self.key {
                Some(key) if *name == metadata::IDEMPOTENCY_KEY => key,
                _ if *name == metadata::TIMEOUT => &mut self.timeout,
                _ if *name == metadata::FENCING_TOKEN => &mut self.token,
                _ if *name == metadata::ATTEMPT => &mut self.number,
                _ if *name == metadata::TASK_ID => &mut self.task,
                _ => continue,
            };
            std::mem::swap(value, fact);
        }
        if self.key.is_none() {
            headers.remove(metadata::IDEMPOTENCY_KEY);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_share_a_buffer_until_it_is_full() {
        let mut values = Values::default();
        let written: Vec<_> = (0..1_000).map(|n| values.number(n)).collect();
        for (number, value) in written.iter().enumerate() {
            assert_eq!(value, &number.to_string());
        }
        let long = "x".repeat(2 * BUFFER);
        assert_eq!(values.value(long.as_bytes()), long);
        assert_eq!(values.value(b"\n"), "");
        drop(written);
        assert_eq!(values.number(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn the_timeout_is_whole_milliseconds_and_never_more_than_is_left() {
        let mut values = Values::default();
        for (left, want) in [
            (Duration::from_millis(30_000), 30_000),
            (Duration::from_micros(30_000_999), 30_000),
            (Duration::from_micros(1_500), 1),
            (Duration::from_micros(999), 0),
        ] {
            let text = values.timeout(left);
            let told = crate::deadline::decode_timeout(text.to_str().expect("ascii"));
            assert_eq!(told, Some(Duration::from_millis(want)), "{left:?}");
        }
    }
}
