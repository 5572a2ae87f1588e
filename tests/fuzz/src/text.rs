//! What is read from users' words: filters, settings, timeouts, and keys in their requests.

use clap::Parser;
use plait::deadline::{decode_timeout, encode_timeout};
use plait::fuzzing::key_text;
use plait::pb::testing::v1::AppendRequest;
use plait::pb::v1::{KeyKind, KeyPath};
use plait_broker::config::{Flags, Settings};
use plait_broker::filter::Filter;
use prost::Message;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A filter of a list.
pub(crate) fn filter(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Err(error) = Filter::parse(text) {
        assert!(!error.to_string().is_empty());
    }
}

/// A file of settings.
pub(crate) fn config(bytes: &[u8]) {
    static FILE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("broker.toml");
        (folder, path)
    });
    std::fs::write(path, bytes).expect("a file");
    let flags = Flags::parse_from([
        "plait-broker".as_ref(),
        "--config".as_ref(),
        path.as_os_str(),
    ]);
    if let Err(error) = Settings::load(&flags) {
        assert!(!error.to_string().is_empty());
    }
}

/// A `grpc-timeout` header: what is understood is never made longer by writing it again.
pub(crate) fn timeout(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Some(left) = decode_timeout(text) else {
        return;
    };
    let again = decode_timeout(&encode_timeout(left)).expect("what was written is read");
    assert!(again <= left, "{left:?} became {again:?}");
}

/// The keys of a request, read by field numbers, are those that a parser reads.
pub(crate) fn keys(bytes: &[u8]) {
    let path = |path: &str, numbers: &[u32]| KeyPath {
        path: path.to_owned(),
        numbers: numbers.to_vec(),
        kind: KeyKind::String.into(),
    };
    let (id, account) = (path("entry.id", &[2, 1]), path("account", &[1]));
    let read = (key_text(&id, bytes), key_text(&account, bytes));
    let Ok(parsed) = AppendRequest::decode(bytes) else {
        return;
    };
    let entry = parsed.entry.unwrap_or_default();
    assert_eq!(read.0, Ok(entry.id));
    assert_eq!(read.1, Ok(parsed.account));
}
