//! `KeyValueService`: a small durable key-value space for the scheduler's own state.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::control::v1 as pb;
use plait::pb::control::v1::key_value_service_server::KeyValueService;
use plait_broker_core::command::{Command, FLAGS_PREFIX};
use plait_broker_core::effect::Reply;
use tonic::{Request, Response, Status};

use super::{Context, contract, epoch, pages};
use crate::status::{Refused, invalid, too_large};

/// The longest key, bytes.
const KEY_BYTES_MAX: usize = 256;

/// The longest value, bytes.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// Bytes of values in one page, so that an answer stays below the length that clients take.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// What is the broker's own.
const OWN: [&str; 3] = [contract::PREFIX, contract::VERSIONS_PREFIX, FLAGS_PREFIX];

/// The service.
#[derive(Debug, Clone)]
pub struct KeyValues {
    context: Context,
}

impl KeyValues {
    /// Serves the key-value space of a broker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

fn check_key(key: &str) -> Result<(), Refused> {
    match key.len() {
        0 => Err(invalid("key", "it is empty")),
        len if len > KEY_BYTES_MAX => Err(too_large("key", len, KEY_BYTES_MAX)),
        _ => Ok(()),
    }
}

/// The broker's own keys are written by deciding on contracts and by setting flags only.
fn check_writable(key: &str) -> Result<(), Refused> {
    check_key(key)?;
    if OWN.iter().any(|prefix| key.starts_with(prefix)) {
        return Err(invalid(
            "key",
            format!("keys under {} are the broker's own", OWN.join(" and ")),
        ));
    }
    Ok(())
}

#[tonic::async_trait]
impl KeyValueService for KeyValues {
    async fn get_entry(
        &self,
        request: Request<pb::GetEntryRequest>,
    ) -> Result<Response<pb::GetEntryResponse>, Status> {
        let key = request.into_inner().key;
        check_key(&key)?;
        let wanted = key.clone();
        let found = self
            .context
            .partition
            .query(move |p, _| p.kv_get(&wanted))
            .await?;
        let entry = found.map(|(value, version)| pb::Entry {
            key,
            value,
            version,
        });
        Ok(Response::new(pb::GetEntryResponse { entry }))
    }

    async fn put_entry(
        &self,
        request: Request<pb::PutEntryRequest>,
    ) -> Result<Response<pb::PutEntryResponse>, Status> {
        let epoch = epoch::of(&request)?;
        let pb::PutEntryRequest {
            key,
            value,
            expected_version: expected,
        } = request.into_inner();
        check_writable(&key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(too_large("value", value.len(), VALUE_BYTES_MAX).into());
        }
        let key: Arc<str> = Arc::from(key);
        // A copy: a slice would keep the whole request for as long as the key lives.
        let value = Bytes::copy_from_slice(&value);
        let bytes = value.len();
        let put = |tag| Command::KvPut {
            tag,
            key,
            value,
            expected,
        };
        match self.context.partition.call_in(epoch, bytes, put).await? {
            Reply::Version(version) => Ok(Response::new(pb::PutEntryResponse { version })),
            _ => Err(Status::internal(
                "a write was answered by something else than a version",
            )),
        }
    }

    async fn delete_entry(
        &self,
        request: Request<pb::DeleteEntryRequest>,
    ) -> Result<Response<pb::DeleteEntryResponse>, Status> {
        let epoch = epoch::of(&request)?;
        let pb::DeleteEntryRequest {
            key,
            expected_version: expected,
        } = request.into_inner();
        check_writable(&key)?;
        let key: Arc<str> = Arc::from(key);
        self.context
            .partition
            .call_in(epoch, 0, |tag| Command::KvDelete { tag, key, expected })
            .await?;
        Ok(Response::new(pb::DeleteEntryResponse {}))
    }

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Result<Response<pb::ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let size = pages::size(request.page_size, 100, 1000)?;
        let after = pages::after(&request.page_token)?;
        let list = move |p: &mut plait_broker_core::Partition, _| {
            p.kv_list(&request.prefix, &after, size + 1)
        };
        let found = self.context.partition.query(list).await?;
        let (mut entries, mut bytes, total) = (Vec::new(), 0, found.len());
        for (key, value, version) in found.into_iter().take(size) {
            bytes += value.len();
            if bytes > PAGE_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(pb::Entry {
                key: key.to_string(),
                value,
                version,
            });
        }
        let more = entries.len() < total;
        let last = entries
            .last()
            .filter(|_| more)
            .map(|entry: &pb::Entry| entry.key.clone());
        Ok(Response::new(pb::ListEntriesResponse {
            entries,
            next_page_token: pages::token(last),
        }))
    }
}
