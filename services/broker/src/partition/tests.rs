//! Nothing is told before it is durable, and nothing is told that is not.

use std::io::IoSlice;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use plait_broker_core::command::Command;
use plait_broker_core::effect::Reply;
use plait_broker_log::{
    Archive, FileLog, FileLogOptions, Frame, FrameIter, LogReader, Offset, Released, SegmentInfo,
    Snapshot, SnapshotInfo, SnapshotWriter,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tonic::Code;

use super::*;
use crate::outbound::{End, Taken};

/// What an append is told to do.
enum Verdict {
    Go,
    Fail,
}

/// A log whose appends wait to be told how to go on.
#[derive(Debug)]
struct GatedLog {
    log: FileLog,
    begun: tokio::sync::mpsc::UnboundedSender<()>,
    verdicts: Receiver<Verdict>,
}

impl Log for GatedLog {
    fn epoch(&self) -> u64 {
        self.log.epoch()
    }

    fn tail(&self) -> Offset {
        self.log.tail()
    }

    fn append(&mut self, parts: &[IoSlice<'_>]) -> Result<Offset, LogError> {
        // A test that is over needs no more events.
        let _ = self.begun.send(());
        match self.verdicts.recv() {
            Ok(Verdict::Go) => self.log.append(parts),
            _ => Err(LogError::Poisoned),
        }
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.reader()
    }

    fn frames(&self, from: Offset) -> Result<FrameIter<'_>, LogError> {
        self.log.frames(from)
    }

    fn snapshot_writer(&self) -> Box<dyn SnapshotWriter> {
        self.log.snapshot_writer()
    }

    fn archive(&self) -> Arc<dyn Archive> {
        self.log.archive()
    }

    fn load_snapshot(&self) -> Result<Option<Snapshot>, LogError> {
        self.log.load_snapshot()
    }

    fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.log.snapshots()
    }

    fn release(
        &mut self,
        keep_from: Offset,
        pinned: &dyn Fn(Offset, Offset) -> bool,
    ) -> Result<Released, LogError> {
        self.log.release(keep_from, pinned)
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.log.segments()
    }
}

/// A partition on a gated log.
struct Bench {
    dir: tempfile::TempDir,
    running: Running,
    begun: UnboundedReceiver<()>,
    verdicts: Sender<Verdict>,
}

pub(super) fn options() -> Options {
    Options {
        core: Config {
            epoch: 0,
            resident_bytes_max: 1 << 20,
            queue_tasks_max: 1000,
            reattach_grace_ms: 1000,
            divergence_grace_ms: 1000,
            session_ttl_ms: 60_000,
            finished_in_memory: 1_000_000,
            frame_attempts_max: 256,
        },
        inbox_bytes_max: 1 << 20,
        snapshot_bytes: 1 << 30,
    }
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = FileLog::open(dir.path(), FileLogOptions::default()).unwrap();
        let (begun_sender, begun) = unbounded_channel();
        let (verdicts, receiver) = channel();
        let log = GatedLog {
            log,
            begun: begun_sender,
            verdicts: receiver,
        };
        let running = start(Box::new(log), options(), Surroundings::of_process()).unwrap();
        Self {
            dir,
            running,
            begun,
            verdicts,
        }
    }

    fn put(&self, key: &str) -> impl Future<Output = Result<Reply, CallError>> + Send + 'static {
        let handle = self.running.handle.clone();
        let key: Arc<str> = Arc::from(key);
        async move {
            let put = |tag| Command::KvPut {
                tag,
                key,
                value: Bytes::from_static(b"v"),
                expected: None,
            };
            handle.call(1, put).await
        }
    }

    async fn append_begins(&mut self) {
        let begun = tokio::time::timeout(Duration::from_secs(10), self.begun.recv()).await;
        begun.unwrap().unwrap();
    }

    fn go(&self) {
        self.verdicts.send(Verdict::Go).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_replies_nor_answers_nor_effects_come_before_the_disk() {
    let mut bench = Bench::start();
    let mut put = tokio::spawn(bench.put("k"));
    bench.append_begins().await;
    let handle = bench.running.handle.clone();
    let mut query = Box::pin(handle.query(|partition, _| partition.kv_get("k").is_some()));
    let (conn, outbound) = handle.open(1 << 20);
    let session = [1; 16];
    handle
        .post(Command::SessionOpened { conn, session })
        .unwrap();
    // A second group, whose append begins only after the first: it has passed behind all of the above by then.
    let mut later = tokio::spawn(bench.put("later"));
    assert!((&mut query).now_or_never().is_none());
    assert!((&mut put).now_or_never().is_none());
    assert!(outbound.take().now_or_never().is_none());
    bench.go();
    assert!(matches!(put.await.unwrap(), Ok(Reply::Version(_))));
    bench.append_begins().await;
    assert!((&mut later).now_or_never().is_none());
    bench.go();
    assert!(later.await.unwrap().is_ok());
    assert!(query.await.unwrap());
    assert!(matches!(outbound.take().await, Taken::Items(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_during_a_sync_is_one_group() {
    let mut bench = Bench::start();
    let first = tokio::spawn(bench.put("first"));
    bench.append_begins().await;
    let puts: Vec<_> = (0..50)
        .map(|n| tokio::spawn(bench.put(&n.to_string())))
        .collect();
    let mut appends = 1;
    let all = async {
        first.await.unwrap().unwrap();
        for put in puts {
            put.await.unwrap().unwrap();
        }
    };
    let mut all = std::pin::pin!(all);
    bench.go();
    loop {
        tokio::select! {
            () = &mut all => break,
            () = bench.append_begins() => {
                appends += 1;
                bench.go();
            }
        }
    }
    // One that was sealed while the first was synced, one with all the rest, and a few for stragglers.
    assert!(appends < 20, "{appends} appends for 51 commands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_append_ends_the_partition_and_nobody_is_told_that_it_was_done() {
    let mut bench = Bench::start();
    let put = tokio::spawn(bench.put("k"));
    let (conn, outbound) = bench.running.handle.open(1 << 20);
    bench.append_begins().await;
    bench.verdicts.send(Verdict::Fail).unwrap();
    assert!(matches!(put.await.unwrap(), Err(CallError::Stopped)));
    let failure = bench.running.owner.await.unwrap().unwrap_err();
    assert!(
        matches!(failure, Failure::Log(LogError::Poisoned)),
        "{failure}"
    );
    let Taken::End(End::Status(status)) = outbound.take().await else {
        panic!("an open stream")
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("log could not be written"));
    let handle = bench.running.handle;
    assert!(handle.query(|_, _| ()).await.is_err());
    assert!(handle.post(Command::Unwatch { conn }).is_err());
    assert!(handle.send(Command::Unwatch { conn }, 0).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_makes_all_durable_and_leaves_a_snapshot() {
    let mut bench = Bench::start();
    let put = tokio::spawn(bench.put("k"));
    bench.append_begins().await;
    bench.running.handle.stop();
    bench.go();
    put.await.unwrap().unwrap();
    bench.running.owner.await.unwrap().unwrap();
    let log = FileLog::open(bench.dir.path(), FileLogOptions::default()).unwrap();
    assert_eq!(log.snapshots().len(), 1);
    let frames: Vec<Frame> = log.frames(0).unwrap().map(Result::unwrap).collect();
    assert_eq!((frames.len(), frames[0].end()), (1, log.tail()));
    let again = start(Box::new(log), options(), Surroundings::of_process()).unwrap();
    assert!(again.recovered.snapshot_records > 0);
    assert_eq!(again.recovered.frames, 0);
    let found = again
        .handle
        .query(|partition, _| partition.kv_get("k"))
        .await;
    assert_eq!(found.unwrap().unwrap().0.as_ref(), b"v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_finds_no_room_is_refused_in_time() {
    let mut bench = Bench::start();
    let handle = bench.running.handle.clone();
    // As much as the inbox bears, held until the disk has it.
    let large = tokio::spawn(async move {
        let put = |tag| Command::KvPut {
            tag,
            key: Arc::from("large"),
            value: Bytes::new(),
            expected: None,
        };
        handle.call(1 << 20, put).await
    });
    bench.append_begins().await;
    assert!(matches!(bench.put("k").await, Err(CallError::Overloaded)));
    bench.go();
    large.await.unwrap().unwrap();
    let put = tokio::spawn(bench.put("k"));
    bench.append_begins().await;
    bench.go();
    put.await.unwrap().unwrap();
}
