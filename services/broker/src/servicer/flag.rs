//! `FlagService`: feature flags, kept in the key-value space. The state machine tells attached workers of each change.

use std::sync::Arc;

use bytes::Bytes;
use plait::pb::plait::log::v1::FlagReadings;
use plait::pb::v1 as pb;
use plait::pb::v1::ErrorReason;
use plait::pb::v1::flag_service_server::FlagService;
use plait_broker_core::Partition;
use plait_broker_core::command::{Command, FLAGS_PREFIX};
use plait_broker_core::effect::Reply;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{Context, pages, times};
use crate::status::{Refused, invalid, too_large};

/// Flags of a broker; with their bytes it bounds what a worker's welcome says.
const FLAGS_MAX: usize = 1000;

/// All flags together.
const ALL_BYTES_MAX: usize = 1 << 20;

/// The rule of one flag, or what a flow's run tells of all that it read.
const RULE_BYTES_MAX: usize = 16 << 10;

const NAME_LEN_MAX: usize = 64;
const DESCRIPTION_BYTES_MAX: usize = 1 << 10;
const CHANGED_BY_BYTES_MAX: usize = 256;

/// All keys.
const SHARE_MAX: u32 = 10_000;

/// The service.
#[derive(Debug, Clone)]
pub struct Flags {
    context: Context,
}

impl Flags {
    /// Serves the feature flags of a broker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Refuses a new flag where there is no room for it.
    async fn check_room(&self, name: &str, bytes: usize) -> Result<(), Status> {
        let key = key(name);
        let others = move |p: &mut Partition, _| {
            let all = p.kv_list(FLAGS_PREFIX, "", FLAGS_MAX + 1).into_iter();
            let others = all.filter(|(other, ..)| **other != *key);
            others.fold((0, 0), |(count, bytes), (_, value, _)| {
                (count + 1, bytes + value.len())
            })
        };
        let (count, kept) = self.context.partition.query(others).await?;
        let full = if count >= FLAGS_MAX {
            format!("there are {count} flags, and at most {FLAGS_MAX}; delete one first")
        } else if kept + bytes > ALL_BYTES_MAX {
            format!("all flags together are over {ALL_BYTES_MAX} bytes; shorten lists of keys")
        } else {
            return Ok(());
        };
        let reason = ErrorReason::TooLarge;
        Err(Refused::new(Code::ResourceExhausted, reason, full).into())
    }
}

#[tonic::async_trait]
impl FlagService for Flags {
    async fn set_flag(
        &self,
        request: Request<pb::SetFlagRequest>,
    ) -> Result<Response<pb::SetFlagResponse>, Status> {
        let request = request.into_inner();
        let mut flag = request.flag.unwrap_or_default();
        let limit = self.context.limits.key_bytes_max;
        let name = check(&flag, limit)?;
        let partition = &self.context.partition;
        flag.version = 0;
        flag.update_time = partition.query(|_, now| times::timestamp(now)).await?;
        let value = Bytes::from(flag.encode_to_vec());
        self.check_room(&name, value.len()).await?;
        let (bytes, expected) = (value.len(), request.expected_version);
        let key: Arc<str> = key(&name).into();
        let put = |tag| Command::KvPut {
            tag,
            key,
            value,
            expected,
        };
        match partition.call(bytes, put).await? {
            Reply::Version(version) => {
                flag.version = version;
                tracing::info!(flag = %name, version, by = %flag.changed_by, "flag set");
                Ok(Response::new(pb::SetFlagResponse { flag: Some(flag) }))
            }
            _ => Err(Status::internal(
                "a write was answered by something else than a version",
            )),
        }
    }

    async fn get_flag(
        &self,
        request: Request<pb::GetFlagRequest>,
    ) -> Result<Response<pb::GetFlagResponse>, Status> {
        let name = request.into_inner().name;
        check_name("name", &name)?;
        let key = key(&name);
        let found = self.context.partition.query(move |p, _| p.kv_get(&key));
        match found.await? {
            Some((value, version)) => {
                let flag = Some(stored(&value, version));
                Ok(Response::new(pb::GetFlagResponse { flag }))
            }
            None => Err(missing(&name).into()),
        }
    }

    async fn list_flags(
        &self,
        request: Request<pb::ListFlagsRequest>,
    ) -> Result<Response<pb::ListFlagsResponse>, Status> {
        let request = request.into_inner();
        let size = pages::size(request.page_size, 100, 1000)?;
        let after = pages::after(&request.page_token)?;
        let list = move |p: &mut Partition, _| p.kv_list(FLAGS_PREFIX, &after, size + 1);
        let found = self.context.partition.query(list).await?;
        let more = found.len() > size;
        let last = found.get(size - 1).filter(|_| more);
        let next_page_token = pages::token(last.map(|(key, ..)| key.to_string()));
        let flags = found.iter().take(size);
        let flags = flags.map(|(_, value, version)| stored(value, *version));
        Ok(Response::new(pb::ListFlagsResponse {
            flags: flags.collect(),
            next_page_token,
        }))
    }

    async fn delete_flag(
        &self,
        request: Request<pb::DeleteFlagRequest>,
    ) -> Result<Response<pb::DeleteFlagResponse>, Status> {
        let pb::DeleteFlagRequest {
            name,
            expected_version: expected,
        } = request.into_inner();
        check_name("name", &name)?;
        let (partition, wanted) = (&self.context.partition, key(&name));
        if partition
            .query(move |p, _| p.kv_get(&wanted))
            .await?
            .is_none()
        {
            return Err(missing(&name).into());
        }
        let key: Arc<str> = key(&name).into();
        let delete = |tag| Command::KvDelete { tag, key, expected };
        partition.call(0, delete).await?;
        tracing::info!(flag = %name, "flag deleted");
        Ok(Response::new(pb::DeleteFlagResponse {}))
    }
}

fn key(name: &str) -> String {
    format!("{FLAGS_PREFIX}{name}")
}

fn missing(name: &str) -> Refused {
    let message = format!("there is no flag {name}");
    let metadata = [("flag", name.to_owned())];
    let reason = ErrorReason::FlagNotFound;
    Refused::with(Code::NotFound, reason, message, &metadata)
}

/// A flag as it is kept. One that cannot be decoded was written by nobody: the log's checksums would have told.
fn stored(value: &Bytes, version: u64) -> pb::Flag {
    let flag = pb::Flag::decode(value.clone()).unwrap_or_default();
    pb::Flag { version, ..flag }
}

/// What workers are told of a flag: not who changed it, nor when.
pub(super) fn rule(value: &Bytes) -> Option<pb::FlagRule> {
    pb::Flag::decode(value.clone()).ok()?.rule
}

/// What a flow's run has read, checked, as the log keeps it.
pub(super) fn readings(flags: Vec<pb::FlagRule>) -> Result<Bytes, Refused> {
    const FIELD: &str = "options.parent.flags";
    if flags.is_empty() {
        return Ok(Bytes::new());
    }
    for rule in &flags {
        check_name(FIELD, &rule.name)?;
    }
    let readings = FlagReadings { flags };
    match readings.encoded_len() {
        len if len > RULE_BYTES_MAX => Err(too_large(FIELD, len, RULE_BYTES_MAX)),
        _ => Ok(readings.encode_to_vec().into()),
    }
}

/// What earlier runs of a flow have read: the first that read a flag is right.
pub(super) fn read(readings: &[Arc<[u8]>]) -> Vec<pb::FlagRule> {
    let mut flags: Vec<pb::FlagRule> = Vec::new();
    for one in readings {
        let told = FlagReadings::decode(&one[..]).unwrap_or_default().flags;
        for rule in told {
            if flags.iter().all(|known| known.name != rule.name) {
                flags.push(rule);
            }
        }
    }
    flags
}

/// The name of a flag that may be set.
fn check(flag: &pb::Flag, key_bytes_max: usize) -> Result<String, Refused> {
    let Some(rule) = &flag.rule else {
        return Err(invalid("flag.rule", "it is missing"));
    };
    check_name("flag.rule.name", &rule.name)?;
    if rule.share > SHARE_MAX {
        let problem = format!("{} is not 0 to {SHARE_MAX}", rule.share);
        return Err(invalid("flag.rule.share", problem));
    }
    if rule.missing {
        return Err(invalid("flag.rule.missing", "is of readings only"));
    }
    for key in rule.keys_on.iter().chain(&rule.keys_off) {
        match key.len() {
            0 => return Err(invalid("flag.rule.keys", "a key is empty")),
            len if len > key_bytes_max => {
                return Err(too_large("flag.rule.keys", len, key_bytes_max));
            }
            _ => {}
        }
    }
    if let Some(both) = rule.keys_on.iter().find(|key| rule.keys_off.contains(key)) {
        let problem = format!("{both:?} is both on and off");
        return Err(invalid("flag.rule.keys", problem));
    }
    let sizes = [
        ("flag.rule", rule.encoded_len(), RULE_BYTES_MAX),
        (
            "flag.description",
            flag.description.len(),
            DESCRIPTION_BYTES_MAX,
        ),
        (
            "flag.changed_by",
            flag.changed_by.len(),
            CHANGED_BY_BYTES_MAX,
        ),
    ];
    match sizes.into_iter().find(|(_, size, limit)| size > limit) {
        Some((field, size, limit)) => Err(too_large(field, size, limit)),
        None => Ok(rule.name.clone()),
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Refused> {
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(legal) {
        let problem = format!("{name:?} is not 1 to {NAME_LEN_MAX} of a-z, 0-9, '.', '_', '-'");
        return Err(invalid(field, problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(name: &str, share: u32) -> pb::FlagRule {
        pb::FlagRule {
            name: name.to_owned(),
            share,
            ..pb::FlagRule::default()
        }
    }

    #[test]
    fn the_first_reading_of_a_flag_is_right() {
        let told = |flags| Arc::from(&readings(flags).unwrap()[..]);
        let runs = [
            told(vec![reading("a", 1), reading("b", 2)]),
            told(vec![reading("b", 3), reading("c", 4)]),
        ];
        let shares: Vec<u32> = read(&runs).iter().map(|rule| rule.share).collect();
        assert_eq!(shares, [1, 2, 4]);
    }

    #[test]
    fn readings_are_bounded_and_named() {
        let long = "k".repeat(RULE_BYTES_MAX);
        let rule = pb::FlagRule {
            keys_on: vec![long],
            ..reading("a", 0)
        };
        assert!(readings(vec![rule]).is_err());
        assert!(readings(vec![reading("A", 0)]).is_err());
        assert!(readings(Vec::new()).unwrap().is_empty());
    }
}
