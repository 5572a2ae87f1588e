//! What the log tells of archive files, and the blocks of those.

use plait_broker_core::effect::TaskState;
use plait_broker_core::ids::{ArchiveId, TaskId};
use plait_broker_core::image::{ArchiveImage, ArchivedGroup, ArchivedKey};
use prop::collection::vec;

use super::*;

fn ids() -> impl Strategy<Value = Vec<TaskId>> {
    vec(any::<u64>().prop_map(TaskId), 0..5)
}

fn record() -> impl Strategy<Value = Record> {
    let archive = || any::<u64>().prop_map(ArchiveId);
    prop_oneof![
        (archive(), ids()).prop_map(|(archive, tasks)| Record::Archived { archive, tasks }),
        vec(archive(), 0..4).prop_map(|archives| Record::ArchivesDropped { archives }),
        (archive(), vec(samples::any_task_image(), 0..3))
            .prop_map(|(archive, tasks)| Record::Restored { archive, tasks }),
    ]
}

fn group() -> impl Strategy<Value = ArchivedGroup> {
    (
        samples::name(),
        any::<bool>(),
        any::<u64>(),
        samples::time(),
    )
        .prop_map(|(method, dead_letter, count, ended_at)| ArchivedGroup {
            method,
            state: TaskState::Failed,
            dead_letter,
            count,
            ended_at,
        })
}

fn file() -> impl Strategy<Value = ArchiveImage> {
    let regions = vec((any::<u64>(), any::<u64>()), 0..4);
    let (bounds, groups) = (any::<[u64; 3]>(), vec(group(), 0..3));
    (bounds, groups, samples::time(), regions, ids()).prop_map(
        |([archive, first, last], groups, key_until, regions, restored)| ArchiveImage {
            archive: ArchiveId(archive),
            first: TaskId(first),
            last: TaskId(last),
            groups,
            key_until,
            regions,
            restored,
        },
    )
}

fn key() -> impl Strategy<Value = ArchivedKey> {
    (any::<[u64; 3]>(), any::<u16>(), samples::time()).prop_map(
        |([hash, digest, task], tag, until)| ArchivedKey {
            hash,
            tag,
            digest,
            task: TaskId(task),
            until,
        },
    )
}

proptest! {
    #[test]
    fn records_of_archives_are_read_back(
        records in vec(record(), 0..4),
        time in samples::time(),
    ) {
        check_frame(records, time);
    }

    #[test]
    fn images_of_archives_are_read_back(
        files in vec(file(), 0..4),
        keys in vec(key(), 0..6),
    ) {
        let record = Record::Image(Image::Archives { files, keys });
        let chunk = encode_image(vec![record.clone()], 5).unwrap();
        let (meta, _) = split_head(&chunk).unwrap();
        prop_assert_eq!(Decoder::default().chunk(meta).unwrap(), (5, vec![record]));
    }

    #[test]
    fn blocks_are_read_back(tasks in vec(samples::any_task_image(), 0..4)) {
        let block = encode_block(tasks.clone()).unwrap();
        prop_assert_eq!(decode_block(&block).unwrap(), tasks);
    }

    #[test]
    fn broken_blocks_are_refused_or_read(
        tasks in vec(samples::any_task_image(), 1..3),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        // The checksum finds what is broken; what passes by it must at least not end the process.
        let mut block = encode_block(tasks).unwrap().to_vec();
        let at = at.index(block.len());
        block[at] = value;
        let _ = decode_block(&block);
    }
}

#[test]
fn a_block_with_anything_else_in_it_is_refused() {
    let other = encode_image(vec![Record::Dropped { tasks: vec![] }], 0).unwrap();
    assert!(matches!(
        decode_block(&other),
        Err(JournalError::Unknown { field: "block" })
    ));
    let mut longer = encode_block(vec![samples::task_image(1)]).unwrap().to_vec();
    longer.push(0);
    assert!(decode_block(&longer).is_err());
}
