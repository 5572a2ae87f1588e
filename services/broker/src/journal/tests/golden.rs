//! Bytes that must never change: a log that was written once is read for ever.

use plait_broker_core::ids::{ArchiveId, TaskId, Token};
use plait_broker_core::record::{ChildKey, Failure, Start};

use super::*;

/// Compares with the bytes on record, written as hexadecimal digits, space and line breaks ignored.
fn check(records: Vec<Record>, golden: &str) {
    let body = joined(&encode(records.clone(), 1_800_000_000_000).unwrap());
    let found: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected: String = golden.split_whitespace().collect();
    assert_eq!(found, expected);
    check_frame(records, 1_800_000_000_000);
}

fn first_tasks() -> Record {
    let time = 1_800_000_000_000;
    let mut tasks: Vec<_> = (7..10).map(|id| samples::task(id, b"abc", b"")).collect();
    for task in &mut tasks {
        (task.start_at, task.expire_at) = (time, time + 86_400_000);
    }
    samples::submitted(tasks)
}

#[test]
fn a_plain_submission() {
    check(
        vec![first_tasks()],
        "2700000008011080a0f1c2b1341a1c0a1a22030e02022a062f612e422f433a01044a0480f0b2 \
         5282010103616263616263616263",
    );
}

#[test]
fn a_child_with_everything() {
    let mut task = samples::task(300, b"xyz", b"env");
    task.idempotency_key = Some("k".into());
    task.ordering_key = Some("o".into());
    task.limit_key = Some("l".into());
    task.parent = Some((TaskId(299), ChildKey::Nth(1 << 64, 2)));
    task.digest = (2 << 64) | 3;
    let Record::Submitted {
        acceptance, tasks, ..
    } = samples::submitted(vec![task])
    else {
        unreachable!()
    };
    let record = Record::Submitted {
        session: Some(([9; 16], 4)),
        acceptance,
        tasks,
    };
    check(
        vec![record],
        "8000000008011080a0f1c2b1341a750a730a1009090909090909090909090909090909100422 \
         02d8042a062f612e422f433a01044206f5bfe285e3684a06a5b0e285e36852016b5a016f6201 \
         6c6a080200000000000000720803000000000000007a19121708ab021a100000000000000001 \
         00000000000000002002820101038a01010378797a656e76",
    );
}

#[test]
fn what_is_told_of_archives() {
    let archive = ArchiveId((3 << 32) | 1);
    let mut image = samples::task_image(9);
    image.task.envelope = Blob::default();
    check(
        vec![
            Record::Archived {
                archive,
                tasks: vec![TaskId(7), TaskId(9)],
            },
            Record::Restored {
                archive,
                tasks: vec![image],
            },
            Record::ArchivesDropped {
                archives: vec![archive],
            },
        ],
        "6d00000008011080a0f1c2b1341a0daa010a08818080803012020e041a47ba01440881808080 \
         30123c0a062f612e422f432201123201043a010a4a02d00f820101078a0101019a010112b201 \
         0110ba01070a02d041120107c20100ca01070a0298431201031a0ab201070a058280808060",
    );
}

#[test]
fn a_group_of_starts_and_ends() {
    let start = |task| Start {
        task: TaskId(task),
        token: Token((1 << 40) | task),
        attempt: 1,
    };
    let blob = |text: &'static [u8]| Blob::resident(Bytes::from_static(text));
    let records = vec![
        Record::Started {
            worker: "w".into(),
            starts: vec![start(7), start(8), start(9)],
        },
        Record::Succeeded {
            tasks: vec![(TaskId(7), blob(b"r1")), (TaskId(8), blob(b""))],
        },
        Record::Failed {
            task: TaskId(9),
            failure: Failure {
                reason: Some(Reason::WorkerLost),
                code: 14,
                message: "gone".into(),
                ..Failure::default()
            },
            dead_letter: true,
        },
    ];
    check(
        records,
        "3f00000008011080a0f1c2b1341a1412120a017712030e02021a088e808080804002021a0a1a \
         080a020e02120202001a123a100809120a080e1204676f6e65280518017231",
    );
}
