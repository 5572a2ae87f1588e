//! gRPC metadata between HTTP headers and the contracts' `Metadatum`.

use crate::pb::v1::Metadatum;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use tonic::metadata::{
    AsciiMetadataKey, BinaryMetadataKey, KeyAndValueRef, MetadataMap, MetadataValue,
};

/// Told to the handler, and to the submitter: the task.
pub(crate) const TASK_ID_KEY: &str = "plait-task-id";
/// As `TASK_ID_KEY`.
pub(crate) const TASK_ID: HeaderName = HeaderName::from_static(TASK_ID_KEY);
/// Told to the handler: the number of the attempt, from 1.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("plait-attempt");
/// Told to the handler: the fencing token, decimal.
pub(crate) const FENCING_TOKEN: HeaderName = HeaderName::from_static("plait-fencing-token");
/// Told to the handler: the same for every attempt of the task.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("plait-idempotency-key");
/// What is left, on every hop.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The metadata that a user set, without what belongs to gRPC, HTTP and Plait.
pub(crate) fn from_headers(headers: &HeaderMap) -> Vec<Metadatum> {
    if headers.keys().all(|key| is_reserved(key.as_str())) {
        return Vec::new();
    }
    from_metadata_map(&MetadataMap::from_headers(headers.clone()))
}

/// As `from_headers`.
pub(crate) fn from_metadata_map(map: &MetadataMap) -> Vec<Metadatum> {
    let entries = map.iter().filter_map(|entry| match entry {
        KeyAndValueRef::Ascii(key, value) => Some((
            key.as_str(),
            Bytes::copy_from_slice(value.as_encoded_bytes()),
        )),
        KeyAndValueRef::Binary(key, value) => Some((key.as_str(), value.to_bytes().ok()?)),
    });
    entries
        .filter(|(key, _)| !is_reserved(key))
        .map(|(key, value)| Metadatum {
            key: key.to_owned(),
            value,
        })
        .collect()
}

/// Metadata as tonic has it. What is no valid metadata is left out: it could not have been sent.
pub(crate) fn to_metadata_map(metadata: &[Metadatum]) -> MetadataMap {
    let mut map = MetadataMap::new();
    for Metadatum { key, value } in metadata {
        if key.ends_with("-bin") {
            if let Ok(key) = key.parse::<BinaryMetadataKey>() {
                map.append_bin(key, MetadataValue::from_bytes(value));
            }
        } else if let (Ok(key), Ok(value)) = (
            key.parse::<AsciiMetadataKey>(),
            MetadataValue::try_from(value.as_ref()),
        ) {
            map.append(key, value);
        }
    }
    map
}

fn is_reserved(key: &str) -> bool {
    key.starts_with("grpc-")
        || matches!(
            key,
            "te" | "content-type"
                | "content-length"
                | "user-agent"
                | "host"
                | "date"
                | "plait-task-id"
                | "plait-attempt"
                | "plait-fencing-token"
                | "plait-idempotency-key"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_survives_the_way_there_and_back() {
        let metadata = vec![
            Metadatum {
                key: "tenant".into(),
                value: Bytes::from_static(b"a"),
            },
            Metadatum {
                key: "tenant".into(),
                value: Bytes::from_static(b"b"),
            },
            Metadatum {
                key: "raw-bin".into(),
                value: Bytes::from_static(&[0, 1, 255]),
            },
        ];
        let headers = to_metadata_map(&metadata).into_headers();
        assert_eq!(from_headers(&headers), metadata);
    }

    #[test]
    fn what_belongs_to_others_stays_behind() {
        let mut headers = HeaderMap::new();
        for key in [
            "te",
            "content-type",
            "grpc-timeout",
            "plait-attempt",
            "user-agent",
        ] {
            headers.insert(key, "1".parse().expect("ascii"));
        }
        assert_eq!(from_headers(&headers), []);
        headers.insert("traceparent", "00-1-2-01".parse().expect("ascii"));
        assert_eq!(from_headers(&headers).len(), 1);
    }

    #[test]
    fn what_is_no_metadata_is_left_out() {
        let bad = Metadatum {
            key: "Bad Key".into(),
            value: Bytes::new(),
        };
        let value = Metadatum {
            key: "k".into(),
            value: Bytes::from_static(&[0, 10]),
        };
        assert!(to_metadata_map(&[bad, value]).is_empty());
    }
}
