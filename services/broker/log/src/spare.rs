//! Files prepared for later segments.
//!
//! Writing over blocks that exist saves a third of each sync, but zeroing 64 MiB takes as long as
//! hundreds of commits. So a thread prepares the next file while the current segment fills, and
//! released segments are taken back as they are. Nobody ever waits for a spare: without one a
//! segment starts as an empty file and is only slower. For the same reason a failure here is
//! dropped: if it matters, the append meets it too.
//!
//! The bytes of a spare mean nothing (see `format`), so it needs no clearing and no care at a
//! crash.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::disk::{self, Disk, DiskFile};
use crate::reader::lock;

pub(crate) const PREFIX: &str = "spare-";

/// Synced this often while zeroing, so that an append's sync never queues behind all of it.
const STEP: u64 = 1024 * 1024;

/// A file that may become a segment.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u64,
}

/// The spares of one log.
#[derive(Debug)]
pub(crate) struct Spares {
    inner: Arc<Inner>,
    /// None: files are prepared on demand, on the caller's thread.
    background: bool,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    wake: Condvar,
    next_name: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Spare>,
    /// The size of the file to prepare next.
    wanted: Option<u64>,
    stop: bool,
}

impl Spares {
    pub(crate) fn new(disk: Arc<dyn Disk>, background: bool) -> Self {
        let inner = Inner {
            disk,
            state: Mutex::default(),
            wake: Condvar::new(),
            next_name: AtomicU64::new(0),
        };
        Self {
            inner: Arc::new(inner),
            background,
            thread: None,
        }
    }

    /// Takes over a file that an earlier owner left, if its size is worth it.
    pub(crate) fn adopt(&self, name: String, worth: &dyn Fn(u64) -> bool) -> io::Result<()> {
        let number: Option<u64> = name.strip_prefix(PREFIX).and_then(|n| n.parse().ok());
        self.inner
            .next_name
            .fetch_max(number.map_or(0, |n| n + 1), Ordering::Relaxed);
        let file = self.inner.disk.open(&name)?;
        let bytes = file.size()?;
        if !worth(bytes) {
            return self.inner.disk.remove(&name);
        }
        self.offer(Spare { name, file, bytes });
        Ok(())
    }

    /// A name for a new spare.
    pub(crate) fn new_name(&self) -> String {
        self.inner.new_name()
    }

    /// Asks the thread for a file of `bytes`; call it when idle.
    pub(crate) fn request(&mut self, bytes: u64) {
        if !self.background {
            return;
        }
        lock(&self.inner.state).wanted = Some(bytes);
        self.inner.wake.notify_one();
        if self.thread.is_none() {
            let inner = Arc::clone(&self.inner);
            let builder = thread::Builder::new().name("plait-log-spare".to_owned());
            self.thread = builder.spawn(move || inner.run()).ok();
        }
    }

    /// A ready file, or else an empty one; without a background thread, one prepared here.
    pub(crate) fn take(&self, bytes: u64) -> io::Result<Spare> {
        if let Some(spare) = lock(&self.inner.state).ready.pop() {
            return Ok(spare);
        }
        if self.background {
            self.empty()
        } else {
            self.inner.prepare(bytes)
        }
    }

    /// An empty file.
    pub(crate) fn empty(&self) -> io::Result<Spare> {
        let name = self.new_name();
        let file = self.inner.disk.create(&name)?;
        Ok(Spare {
            name,
            file,
            bytes: 0,
        })
    }

    /// A file of zeros, prepared on this thread.
    pub(crate) fn prepare(&self, bytes: u64) -> io::Result<Spare> {
        self.inner.prepare(bytes)
    }

    /// Whether nothing is ready and nothing on its way.
    pub(crate) fn idle(&self) -> bool {
        let state = lock(&self.inner.state);
        state.ready.is_empty() && state.wanted.is_none()
    }

    pub(crate) fn ready(&self) -> usize {
        lock(&self.inner.state).ready.len()
    }

    /// Gives a file that exists to later segments.
    pub(crate) fn offer(&self, spare: Spare) {
        lock(&self.inner.state).ready.push(spare);
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        lock(&self.inner.state).stop = true;
        self.inner.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It ends after at most one step of zeroing; its panic would be ours to ignore.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn new_name(&self) -> String {
        format!(
            "{PREFIX}{:08}",
            self.next_name.fetch_add(1, Ordering::Relaxed)
        )
    }

    fn run(&self) {
        while let Some(bytes) = self.next_wanted() {
            let spare = self.prepare(bytes);
            let mut state = lock(&self.state);
            state.wanted = None;
            state.ready.extend(spare);
        }
    }

    /// Waits for a request; none means stop. The request stays until it is fulfilled.
    fn next_wanted(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return None;
            }
            if let Some(bytes) = state.wanted {
                return Some(bytes);
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn prepare(&self, bytes: u64) -> io::Result<Spare> {
        let name = self.new_name();
        let file = self.disk.create(&name)?;
        let zeroed = self.zero(&*file, bytes);
        if let Err(error) = zeroed {
            // What cannot be removed now is removed at the next open.
            let _ = self.disk.remove(&name);
            return Err(error);
        }
        Ok(Spare { name, file, bytes })
    }

    fn zero(&self, file: &dyn DiskFile, bytes: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes {
            if lock(&self.state).stop {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let step = STEP.min(bytes - done);
            disk::write_zeros(file, done, step)?;
            file.sync()?;
            done += step;
        }
        Ok(())
    }
}
