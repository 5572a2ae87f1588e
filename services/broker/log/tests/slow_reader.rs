//! A reader that is in the midst of a read when its segment is released must get the bytes it
//! asked for, never those of the segment that would reuse the file.

use std::io::{self, IoSlice};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use plait_broker_log::disk::{Disk, DiskFile, DiskLock, LockError};
use plait_broker_log::sim::SimDisk;
use plait_broker_log::{FileLog, FileLogOptions, Log};

/// Tells that a read has begun, and holds it until it may go on. Used up by the first read.
type Gate = Arc<Mutex<Option<(SyncSender<()>, Receiver<()>)>>>;

#[derive(Debug)]
struct GatedDisk {
    inner: Arc<dyn Disk>,
    gate: Gate,
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn DiskFile>,
    gate: Gate,
}

impl GatedDisk {
    fn gated(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(GatedFile {
            inner,
            gate: Arc::clone(&self.gate),
        })
    }
}

impl Disk for GatedDisk {
    fn describe(&self, name: &str) -> String {
        self.inner.describe(name)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(self.inner.create(name)?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.gated(self.inner.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }
    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, LockError> {
        self.inner.lock(name)
    }
    fn entropy(&self) -> u64 {
        self.inner.entropy()
    }
}

impl DiskFile for GatedFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        self.inner.write_at(parts, at)
    }
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let gate = self.gate.lock().expect("the gate").take();
        if let Some((begun, go_on)) = gate {
            begun.send(()).expect("the test waits");
            go_on.recv().expect("the test lets it go on");
        }
        self.inner.read_at(buf, at)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }
}

#[test]
fn a_slow_reader_gets_what_it_asked_for() {
    let gate = Gate::default();
    let disk = GatedDisk {
        inner: SimDisk::new(1).mount(),
        gate: Arc::clone(&gate),
    };
    let options = FileLogOptions {
        segment_bytes: 16 * 1024,
        first_segment_bytes: 16 * 1024,
        background: false,
        ..FileLogOptions::default()
    };
    let mut log = FileLog::open_on(Arc::new(disk), options).expect("open");
    let fill = |log: &mut FileLog, byte: u8| {
        let wanted = log.segments().len() + 4;
        while log.segments().len() < wanted {
            log.append(&[IoSlice::new(&[byte; 1_000])]).expect("append");
        }
    };
    fill(&mut log, 1);

    let (begun, has_begun) = sync_channel(0);
    let (let_go, go_on) = sync_channel(0);
    *gate.lock().expect("the gate") = Some((begun, go_on));
    let reader = log.reader();
    let reading = thread::spawn(move || reader.read(100, 500));
    has_begun.recv().expect("the reader reads");

    let tail = log.tail();
    log.install_snapshot(tail, &mut |_| Ok(()))
        .expect("install");
    let released = log.release(tail, &|_, _| false).expect("release");
    assert_eq!(
        (released.segments.len(), released.recycled),
        (4, 3),
        "the one read is not reused"
    );
    fill(&mut log, 2);
    let_go.send(()).expect("the reader waits");
    let bytes = reading.join().expect("no panic").expect("the bytes");
    assert!(bytes.iter().all(|byte| *byte == 1));
}
