//! What the log tells of archive files, and the chunks of tasks that they are made of.

use bytes::Bytes;
use plait::pb::plait::log::v1::{self as pb, record::Fact};
use plait_broker_core::ids::{ArchiveId, TaskId};
use plait_broker_core::image::{ArchiveImage, ArchivedGroup, ArchivedKey, Image, TaskImage};
use plait_broker_core::record::Record;

use super::columns::{deltas, undelta};
use super::decode::{self, Decoder};
use super::{JournalError, encode_image, split_head, task_images};
use crate::states;

/// Tasks as a block of an archive file: a chunk as a snapshot has it.
pub fn encode_block(tasks: Vec<TaskImage>) -> Result<Bytes, JournalError> {
    encode_image(vec![Record::Image(Image::Tasks(tasks))], 0)
}

/// The tasks of a block.
pub fn decode_block(block: &[u8]) -> Result<Vec<TaskImage>, JournalError> {
    let (meta, rest) = split_head(block)?;
    let (_, records) = Decoder::default().chunk(meta)?;
    let mut tasks = Vec::new();
    for record in records {
        match record {
            Record::Image(Image::Tasks(more)) => tasks.extend(more),
            _ => return Err(JournalError::Unknown { field: "block" }),
        }
    }
    match rest.len() {
        0 => Ok(tasks),
        len => Err(JournalError::Payloads {
            end: 0,
            len: len as u64,
        }),
    }
}

pub(super) fn encode(record: Record) -> Result<Fact, JournalError> {
    Ok(match record {
        Record::Archived { archive, tasks } => Fact::Archived(pb::Archived {
            archive: archive.0,
            task_deltas: deltas(tasks.iter().map(|task| task.0)),
        }),
        Record::ArchivesDropped { archives } => Fact::ArchivesDropped(pb::ArchivesDropped {
            archive_deltas: deltas(archives.iter().map(|archive| archive.0)),
        }),
        Record::Restored { archive, tasks } => Fact::Restored(pb::Restored {
            archive: archive.0,
            tasks: Some(task_images::encode(&tasks)?),
        }),
        _ => return Err(JournalError::Unknown { field: "kind" }),
    })
}

pub(super) fn decode(decoder: &mut Decoder, fact: Fact) -> Result<Record, JournalError> {
    Ok(match fact {
        Fact::Archived(fact) => Record::Archived {
            archive: ArchiveId(fact.archive),
            tasks: undelta(&fact.task_deltas).map(TaskId).collect(),
        },
        Fact::ArchivesDropped(fact) => Record::ArchivesDropped {
            archives: undelta(&fact.archive_deltas).map(ArchiveId).collect(),
        },
        Fact::Restored(fact) => Record::Restored {
            archive: ArchiveId(fact.archive),
            tasks: task_images::decode(decoder, &fact.tasks.unwrap_or_default())?,
        },
        _ => return Err(JournalError::Unknown { field: "kind" }),
    })
}

pub(super) fn encode_images(files: &[ArchiveImage], keys: &[ArchivedKey]) -> pb::ArchiveImages {
    pb::ArchiveImages {
        files: files.iter().map(file).collect(),
        key_hashes: keys.iter().map(|key| key.hash).collect(),
        key_tags: keys.iter().map(|key| u32::from(key.tag)).collect(),
        key_digests: keys.iter().map(|key| key.digest).collect(),
        key_task_deltas: deltas(keys.iter().map(|key| key.task.0)),
        key_until_deltas_ms: deltas(keys.iter().map(|key| key.until)),
    }
}

fn file(file: &ArchiveImage) -> pb::ArchiveImage {
    let group = |group: &ArchivedGroup| pb::ArchivedGroup {
        method: group.method.to_string(),
        state: states::to_wire(group.state).into(),
        dead_letter: group.dead_letter,
        count: group.count,
        ended_ms: group.ended_at,
    };
    pb::ArchiveImage {
        archive: file.archive.0,
        first: file.first.0,
        last: file.last.0,
        groups: file.groups.iter().map(group).collect(),
        key_until_ms: file.key_until,
        region_deltas: deltas(file.regions.iter().map(|(at, _)| *at)),
        region_counts: file.regions.iter().map(|(_, count)| *count).collect(),
        restored_deltas: deltas(file.restored.iter().map(|task| task.0)),
    }
}

pub(super) fn decode_images(
    decoder: &mut Decoder,
    images: &pb::ArchiveImages,
) -> Result<Image, JournalError> {
    let files = images.files.iter().map(|file| file_of(decoder, file));
    Ok(Image::Archives {
        files: files.collect::<Result<_, _>>()?,
        keys: keys(images)?,
    })
}

fn file_of(decoder: &mut Decoder, file: &pb::ArchiveImage) -> Result<ArchiveImage, JournalError> {
    same(
        "region_counts",
        file.region_counts.len(),
        &file.region_deltas,
    )?;
    let mut group = |group: &pb::ArchivedGroup| {
        Ok(ArchivedGroup {
            method: decoder.name(&group.method),
            state: decode::state(group.state)?,
            dead_letter: group.dead_letter,
            count: group.count,
            ended_at: group.ended_ms,
        })
    };
    let regions = undelta(&file.region_deltas).zip(file.region_counts.iter().copied());
    Ok(ArchiveImage {
        archive: ArchiveId(file.archive),
        first: TaskId(file.first),
        last: TaskId(file.last),
        groups: file
            .groups
            .iter()
            .map(&mut group)
            .collect::<Result<_, JournalError>>()?,
        key_until: file.key_until_ms,
        regions: regions.collect(),
        restored: undelta(&file.restored_deltas).map(TaskId).collect(),
    })
}

fn keys(images: &pb::ArchiveImages) -> Result<Vec<ArchivedKey>, JournalError> {
    let tasks = &images.key_task_deltas;
    same("key_hashes", images.key_hashes.len(), tasks)?;
    same("key_tags", images.key_tags.len(), tasks)?;
    same("key_digests", images.key_digests.len(), tasks)?;
    same(
        "key_until_deltas_ms",
        images.key_until_deltas_ms.len(),
        tasks,
    )?;
    let times = undelta(tasks).zip(undelta(&images.key_until_deltas_ms));
    let key = |(index, (task, until)): (usize, (u64, u64))| {
        let tag = u16::try_from(images.key_tags[index]);
        Ok(ArchivedKey {
            hash: images.key_hashes[index],
            tag: tag.map_err(|_| JournalError::Unknown { field: "key_tags" })?,
            digest: images.key_digests[index],
            task: TaskId(task),
            until,
        })
    };
    times.enumerate().map(key).collect()
}

fn same(name: &'static str, found: usize, column: &[i64]) -> Result<(), JournalError> {
    match column.len() {
        count if count == found => Ok(()),
        count => Err(JournalError::Column { name, found, count }),
    }
}
