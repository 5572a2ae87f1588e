//! Inputs to begin with: what a real broker wrote (its golden data directory), and what clients and workers say.

use plait::pb::testing::v1::{AppendRequest, Entry};
use plait::pb::v1::attach_request::Message as Attach;
use plait::pb::v1::submit_stream_request::Message as Submit;
use plait::pb::v1::{
    AttachRequest, AwaitFrame, SequencedSubmit, SessionHello, SubmitFrame, SubmitStreamRequest,
    WorkerHello,
};
use plait_broker_log::{FileLog, FileLogOptions, Log};
use prost::Message;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Inputs of a target at most, and bytes of one: more would only be slower.
const COUNT_MAX: usize = 40;
const BYTES_MAX: usize = 4_096;

/// Writes the corpus into `folder`, from the data directory `golden`.
pub(crate) fn write(folder: &Path, golden: &Path) {
    let data = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(golden).expect("golden data") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, data.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    let log = FileLog::open(data.path(), FileLogOptions::default()).expect("a log");
    let frames = log.frames(0).expect("frames");
    let bodies = frames.map(|frame| frame.expect("a frame").body.to_vec());
    put(folder, "journal_frame", bodies);
    put(folder, "snapshot_chunk", chunks(&log));
    let numbers = log.archive().list().expect("a list").into_iter();
    let blocks = numbers.flat_map(|number| {
        let file = log.archive().open(number).expect("a file");
        (0..file.blocks()).map(move |block| file.read(block).expect("a block").to_vec())
    });
    put(folder, "archive_block", blocks);
    let damages = [
        &b"\0\0"[..],
        b"\x01\x00\xff\xff\xff\xff",
        b"\x10\x40\0\0\0\0\0\0\0\0",
    ];
    put(folder, "log_segment", damages.map(<[u8]>::to_vec));
    let filters = [
        "state = FAILED AND queue = \"echo\"",
        "method = \"a.B/C\" OR NOT (priority > 3)",
        "create_time >= \"2026-11-22T00:00:00Z\"",
    ];
    put(
        folder,
        "filter",
        filters.map(|text| text.as_bytes().to_vec()),
    );
    let settings = [
        "listen = \"127.0.0.1:7420\"\nsync = \"none\"\ndrain_grace = \"10s\"\n",
        "payload_bytes_max = 1048576\nthreads = 2\nlog_format = \"json\"\n",
    ];
    put(
        folder,
        "config",
        settings.map(|text| text.as_bytes().to_vec()),
    );
    put(
        folder,
        "timeout",
        ["1S", "100m", "99999999H", "5u"].map(|text| text.as_bytes().to_vec()),
    );
    let append = AppendRequest {
        account: "account".into(),
        entry: Some(Entry {
            id: "entry".into(),
            number: 7,
        }),
    };
    put(folder, "keys", [append.encode_to_vec()]);
    put(folder, "streams", [submit_stream(), attach_stream()]);
}

fn chunks(log: &FileLog) -> Vec<Vec<u8>> {
    let Some((_, mut body)) = log.load_snapshot().expect("a snapshot") else {
        return Vec::new();
    };
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).expect("a body");
    let (mut rest, mut found) = (&bytes[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).min(after.len());
        found.push(after[..length].to_vec());
        rest = &after[length..];
    }
    found
}

fn submit_stream() -> Vec<u8> {
    let hello = SessionHello {
        session: vec![7; 16].into(),
        client: "fuzz".into(),
    };
    let tasks = SubmitFrame {
        methods: vec!["/testing.v1.EchoService/Echo".into()],
        payloads: vec![b"one".to_vec().into(), b"two".to_vec().into()],
        ..SubmitFrame::default()
    };
    let submit = SequencedSubmit {
        sequence: 1,
        tasks: Some(tasks),
        r#await: true,
    };
    let wait = AwaitFrame {
        tasks: vec![1, 2, 3],
        forget: vec![1],
        parent: None,
    };
    let said = [
        Submit::Hello(hello),
        Submit::Submit(submit),
        Submit::Await(wait),
    ];
    let said = said.map(|message| {
        SubmitStreamRequest {
            message: Some(message),
        }
        .encode_to_vec()
    });
    joined(0, &said)
}

fn attach_stream() -> Vec<u8> {
    let hello = WorkerHello {
        methods: vec!["/testing.v1.EchoService/Echo".into()],
        worker: "fuzz".into(),
        slots: 4,
        ..WorkerHello::default()
    };
    let hello = AttachRequest {
        message: Some(Attach::Hello(hello)),
        ..AttachRequest::default()
    };
    joined(
        1,
        &[
            hello.encode_to_vec(),
            AttachRequest::default().encode_to_vec(),
        ],
    )
}

fn joined(which: u8, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![which];
    for message in messages {
        let length = u16::try_from(message.len()).expect("small");
        bytes.extend(length.to_be_bytes());
        bytes.extend(message);
    }
    bytes
}

fn put(folder: &Path, target: &str, inputs: impl IntoIterator<Item = Vec<u8>>) {
    let folder = folder.join(target);
    fs::create_dir_all(&folder).expect("a folder");
    let small = inputs.into_iter().filter(|input| input.len() <= BYTES_MAX);
    for (number, input) in small.take(COUNT_MAX).enumerate() {
        fs::write(folder.join(format!("seed-{number:02}")), input).expect("a seed");
    }
}
