//! Reads key fields out of a serialized request, by field numbers.
//!
//! The broker says where a method's keys are (`MethodInfo`); the submitter's side picks them out, so that nobody else
//! has to decode a request. What a key's text is stands at `KeyKind` in `contract_service.proto`.

use crate::pb::v1::{KeyKind, KeyPath};
use crate::wire::{Fields, Malformed, Value};

/// Why a key could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// The request is no protobuf message.
    #[error("the request is malformed protobuf")]
    Malformed,
    /// A string field that is not UTF-8.
    #[error("the key field is not UTF-8")]
    NotUtf8,
    /// The broker named a path or kind that this version does not know.
    #[error("the key's path or kind is not known to this version")]
    Unknown,
}

impl From<Malformed> for KeyError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// The text of the key at `path`; empty text means that there is no key.
pub(crate) fn text(path: &KeyPath, message: &[u8]) -> Result<String, KeyError> {
    if path.numbers.is_empty() {
        return Err(KeyError::Unknown);
    }
    let value = last(&path.numbers, path.kind(), message)?;
    render(path.kind(), value)
}

/// The last occurrence of the field at the end of `numbers`. Occurrences of an embedded message merge, so the last
/// one that holds the field counts. A field with another wire type than its kind's is unknown to a parser, too.
fn last<'a>(
    numbers: &[u32],
    kind: KeyKind,
    message: &'a [u8],
) -> Result<Option<Value<'a>>, KeyError> {
    let Some((first, rest)) = numbers.split_first() else {
        return Ok(None);
    };
    let mut found = None;
    for field in Fields::new(message) {
        let (number, value) = field?;
        if number != *first {
            continue;
        }
        if rest.is_empty() {
            found = Some(value).filter(|value| fits(kind, *value)).or(found);
        } else if let Value::Bytes(embedded) = value {
            found = last(rest, kind, embedded)?.or(found);
        }
    }
    Ok(found)
}

fn fits(kind: KeyKind, value: Value<'_>) -> bool {
    match kind {
        KeyKind::String | KeyKind::Bytes => matches!(value, Value::Bytes(_)),
        KeyKind::Int | KeyKind::Uint | KeyKind::Sint | KeyKind::Bool => {
            matches!(value, Value::Varint(_))
        }
        KeyKind::Fixed32 | KeyKind::Sfixed32 => matches!(value, Value::Fixed32(_)),
        KeyKind::Fixed64 | KeyKind::Sfixed64 => matches!(value, Value::Fixed64(_)),
        KeyKind::Unspecified => false,
    }
}

fn render(kind: KeyKind, value: Option<Value<'_>>) -> Result<String, KeyError> {
    let bytes = match value {
        Some(Value::Bytes(bytes)) => bytes,
        _ => &[],
    };
    let bits = match value {
        Some(Value::Varint(bits) | Value::Fixed64(bits)) => bits,
        Some(Value::Fixed32(bits)) => u64::from(bits),
        _ => 0,
    };
    Ok(match kind {
        KeyKind::String => str::from_utf8(bytes)
            .map_err(|_| KeyError::NotUtf8)?
            .to_owned(),
        KeyKind::Bytes => hex(bytes),
        KeyKind::Int | KeyKind::Sfixed64 => bits.cast_signed().to_string(),
        KeyKind::Sfixed32 => (bits as u32).cast_signed().to_string(),
        KeyKind::Uint | KeyKind::Fixed32 | KeyKind::Fixed64 => bits.to_string(),
        KeyKind::Sint => ((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed()).to_string(),
        KeyKind::Bool => (bits != 0).to_string(),
        KeyKind::Unspecified => return Err(KeyError::Unknown),
    })
}

/// A key is read for each task, so this does not go through the formatter, which costs a string a byte.
fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(byte & 0xf)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::encoding::{self, WireType};

    fn path(numbers: &[u32], kind: KeyKind) -> KeyPath {
        KeyPath {
            path: String::new(),
            numbers: numbers.to_vec(),
            kind: kind.into(),
        }
    }

    fn embed(number: u32, inner: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        encoding::encode_key(number, WireType::LengthDelimited, &mut message);
        encoding::encode_varint(inner.len() as u64, &mut message);
        message.extend_from_slice(inner);
        message
    }

    #[test]
    fn the_last_occurrence_counts_and_embedded_messages_merge() {
        let name = |text: &str| embed(2, text.as_bytes());
        let other = embed(3, b"x");
        // The second `1` does not hold the field, so the first one's stays.
        let merged = [embed(1, &name("a")), embed(1, &other)].concat();
        assert_eq!(
            text(&path(&[1, 2], KeyKind::String), &merged),
            Ok("a".into())
        );
        let replaced = [embed(1, &name("a")), embed(1, &name("b"))].concat();
        assert_eq!(
            text(&path(&[1, 2], KeyKind::String), &replaced),
            Ok("b".into())
        );
    }

    #[test]
    fn a_missing_field_is_its_default() {
        for (kind, want) in [
            (KeyKind::String, ""),
            (KeyKind::Bytes, ""),
            (KeyKind::Int, "0"),
            (KeyKind::Uint, "0"),
            (KeyKind::Sint, "0"),
            (KeyKind::Bool, "false"),
            (KeyKind::Fixed32, "0"),
            (KeyKind::Sfixed64, "0"),
        ] {
            assert_eq!(text(&path(&[1, 2], kind), &[]), Ok(want.into()), "{kind:?}");
        }
    }

    #[test]
    fn another_wire_type_is_an_unknown_field() {
        let message = [embed(1, b"kept"), vec![0x08, 0x05]].concat();
        assert_eq!(
            text(&path(&[1], KeyKind::String), &message),
            Ok("kept".into())
        );
        assert_eq!(text(&path(&[1], KeyKind::Int), &message), Ok("5".into()));
        assert_eq!(
            text(&path(&[1], KeyKind::Fixed64), &message),
            Ok("0".into())
        );
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
        let string = path(&[1], KeyKind::String);
        assert_eq!(text(&string, &embed(1, &[0xff])), Err(KeyError::NotUtf8));
        assert_eq!(text(&string, &[0x0a, 0x05]), Err(KeyError::Malformed));
        // Broken bytes after the key are found, too: no parser would take the message.
        assert_eq!(
            text(&string, &[embed(1, b"a"), vec![0x08]].concat()),
            Err(KeyError::Malformed)
        );
        assert_eq!(
            text(&path(&[], KeyKind::String), &[]),
            Err(KeyError::Unknown)
        );
        assert_eq!(
            text(&path(&[1], KeyKind::Unspecified), &[]),
            Err(KeyError::Unknown)
        );
    }

    /// The vectors that every language shares.
    #[test]
    fn every_vector_gives_its_text_or_an_error() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../interop/vectors/field_paths.json"
        );
        let document: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors"))
                .expect("JSON");
        assert_eq!(document["schema"], 1);
        let vectors = document["vectors"].as_array().expect("vectors");
        assert!(vectors.len() >= 70);
        for vector in vectors {
            let name = &vector["name"];
            assert_eq!(
                vector.as_object().map(serde_json::Map::len),
                Some(5),
                "{name}"
            );
            let kind = vector["kind"].as_str().expect("a kind");
            let kind = KeyKind::from_str_name(&format!("KEY_KIND_{kind}")).expect("a known kind");
            let numbers: Vec<u32> =
                serde_json::from_value(vector["numbers"].clone()).expect("numbers");
            let hex = vector["message_hex"].as_str().expect("a message");
            let message: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
                .collect();
            let read = text(&self::path(&numbers, kind), &message).ok();
            let want = vector["text"].as_str().map(str::to_owned);
            assert!(want.is_some() != (vector["error"] == true), "{name}");
            assert_eq!(read, want, "{name}");
        }
    }

    /// A message with one field, encoded by prost.
    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut message = Vec::new();
        encode(&mut message);
        message
    }

    proptest! {
        #[test]
        fn integers_of_every_kind_have_decimal_text(value in any::<i64>(), number in 1u32..1000) {
            use encoding::{fixed32, fixed64, int32, int64, sfixed32, sfixed64, sint32, sint64, uint32, uint64};
            let unsigned = value.cast_unsigned();
            let (short, ushort) = (value as i32, value as u32);
            for (kind, message, want) in [
                (KeyKind::Int, encoded(|b| int64::encode(number, &value, b)), value.to_string()),
                (KeyKind::Int, encoded(|b| int32::encode(number, &short, b)), short.to_string()),
                (KeyKind::Uint, encoded(|b| uint64::encode(number, &unsigned, b)), unsigned.to_string()),
                (KeyKind::Uint, encoded(|b| uint32::encode(number, &ushort, b)), ushort.to_string()),
                (KeyKind::Sint, encoded(|b| sint64::encode(number, &value, b)), value.to_string()),
                (KeyKind::Sint, encoded(|b| sint32::encode(number, &short, b)), short.to_string()),
                (KeyKind::Fixed32, encoded(|b| fixed32::encode(number, &ushort, b)), ushort.to_string()),
                (KeyKind::Fixed64, encoded(|b| fixed64::encode(number, &unsigned, b)), unsigned.to_string()),
                (KeyKind::Sfixed32, encoded(|b| sfixed32::encode(number, &short, b)), short.to_string()),
                (KeyKind::Sfixed64, encoded(|b| sfixed64::encode(number, &value, b)), value.to_string()),
                (KeyKind::Bool, encoded(|b| encoding::bool::encode(number, &(value > 0), b)), (value > 0).to_string()),
            ] {
                prop_assert_eq!(text(&path(&[number], kind), &message), Ok(want), "{:?}", kind);
            }
        }

        #[test]
        fn strings_and_bytes_are_found_among_other_fields(
            key in ".{0,40}",
            before in proptest::collection::vec((3u32..9, any::<u64>()), 0..8),
        ) {
            let noise = encoded(|b| for (number, value) in &before {
                encoding::uint64::encode(*number, value, b);
            });
            let message = [noise.clone(), embed(1, &embed(2, key.as_bytes())), noise].concat();
            let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(text(&path(&[1, 2], KeyKind::String), &message), Ok(key));
            prop_assert_eq!(text(&path(&[1, 2], KeyKind::Bytes), &message), Ok(hex));
        }

        #[test]
        fn hostile_bytes_give_a_key_or_an_error(
            message in proptest::collection::vec(any::<u8>(), 0..200),
            numbers in proptest::collection::vec(1u32..4, 1..4),
            kind in 0i32..11,
        ) {
            let path = KeyPath { path: String::new(), numbers, kind };
            if let Ok(key) = text(&path, &message) {
                prop_assert!(key.len() <= 2 * message.len() + 20);
            }
        }
    }
}
