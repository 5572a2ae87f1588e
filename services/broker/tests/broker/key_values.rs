//! The key-value space: compare and swap, durable.

use plait::pb::control::v1 as pb;
use tonic::{Code, Status};

use crate::support::{Broker, Setup, info, reason};

async fn put(
    broker: &Broker,
    key: &str,
    value: &'static str,
    expected_version: Option<u64>,
) -> Result<u64, Status> {
    let value = value.as_bytes().into();
    let request = pb::PutEntryRequest {
        key: key.to_owned(),
        value,
        expected_version,
    };
    Ok(broker
        .key_values()
        .put_entry(request)
        .await?
        .into_inner()
        .version)
}

async fn get(broker: &Broker, key: &str) -> Option<pb::Entry> {
    let request = pb::GetEntryRequest {
        key: key.to_owned(),
    };
    broker
        .key_values()
        .get_entry(request)
        .await
        .unwrap()
        .into_inner()
        .entry
}

#[tokio::test]
async fn a_key_changes_only_from_the_version_that_was_seen() {
    let mut broker = Broker::empty(Setup::default()).await;
    assert_eq!(get(&broker, "k").await, None);
    let first = put(&broker, "k", "one", Some(0)).await.unwrap();
    let status = put(&broker, "k", "two", Some(0)).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Aborted, "VERSION_MISMATCH")
    );
    assert_eq!(
        info(status.details()).unwrap().metadata["version"],
        first.to_string()
    );
    let second = put(&broker, "k", "two", Some(first)).await.unwrap();
    assert!(second > first);
    broker.crash_and_restart().await;
    let entry = get(&broker, "k").await.unwrap();
    assert_eq!(
        (entry.value.as_ref(), entry.version),
        (b"two".as_slice(), second)
    );
    let delete = |expected_version| pb::DeleteEntryRequest {
        key: "k".to_owned(),
        expected_version,
    };
    let status = broker
        .key_values()
        .delete_entry(delete(Some(first)))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    broker
        .key_values()
        .delete_entry(delete(Some(second)))
        .await
        .unwrap();
    assert_eq!(get(&broker, "k").await, None);
    // A version is never used again.
    assert!(put(&broker, "k", "three", None).await.unwrap() > second);
}

#[tokio::test]
async fn keys_are_listed_by_prefix_and_pages() {
    let broker = Broker::empty(Setup::default()).await;
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        put(&broker, key, "v", None).await.unwrap();
    }
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListEntriesRequest {
            prefix: "a/".to_owned(),
            page_size: 2,
            page_token,
        };
        let page = broker
            .key_values()
            .list_entries(request)
            .await
            .unwrap()
            .into_inner();
        found.extend(page.entries.into_iter().map(|entry| entry.key));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["a/1", "a/2", "a/3"]);
}

#[tokio::test]
async fn what_is_too_long_or_the_broker_s_own_is_refused() {
    let broker = Broker::empty(Setup::default()).await;
    for (key, expected) in [
        ("", "INVALID_REQUEST"),
        ("contracts/a.B", "INVALID_REQUEST"),
    ] {
        let status = put(&broker, key, "v", None).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, expected)
        );
    }
    let status = put(&broker, &"k".repeat(257), "v", None).await.unwrap_err();
    assert_eq!(reason(&status), "TOO_LARGE");
    assert!(put(&broker, &"k".repeat(256), "v", None).await.is_ok());
    let request = pb::PutEntryRequest {
        key: "k".to_owned(),
        value: vec![0; (1 << 20) + 1].into(),
        expected_version: None,
    };
    let status = broker.key_values().put_entry(request).await.unwrap_err();
    assert_eq!(
        info(status.details()).unwrap().metadata["limit"],
        (1 << 20).to_string()
    );
}
