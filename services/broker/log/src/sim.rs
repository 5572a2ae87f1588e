//! A [`Disk`] in memory that can lose power, for simulations. Everything follows from its seed.
//!
//! It models what a page cache and POSIX allow, and nothing kinder:
//! - A write is visible at once and durable after the file's sync. At a crash each block of 512
//!   bytes written since keeps, on its own, its durable content or one of the later ones: writes
//!   are lost, torn and reordered.
//! - A creation, rename or removal is durable after `sync_dir`; at a crash each one since is kept
//!   or lost on its own.
//! - A failed sync leaves the bytes readable and clean, though some never reached the disk: a
//!   later sync succeeds and a later crash shows the loss.
//!
//! It does not model bytes that decay (see [`SimDisk::damage`] to plant that), latency, or a
//! directory sync that fails and forgets: journalling file systems stop there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::Disk;
use crate::reader::lock;

mod bytes;
mod mount;

pub use bytes::Random;
use bytes::SimBytes;
use mount::SimMount;

/// How likely each kind of operation fails, from 0 to 1. The default is never.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// A write stores a part of its bytes and fails with EIO.
    pub write_error: f64,
    /// A write stores a part of its bytes and fails with ENOSPC.
    pub no_space: f64,
    /// A sync of a file fails with EIO and drops what it likes.
    pub sync_error: f64,
    /// A read fails with EIO.
    pub read_error: f64,
    /// A creation, rename, removal or directory sync fails with EIO and does nothing.
    pub dir_error: f64,
    /// Syncs succeed and do nothing. Not a fault of disks but a mutant: a test that passes with
    /// it tests nothing.
    pub syncs_lie: bool,
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: Random,
    faults: Faults,
    files: Vec<SimBytes>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// What happened to names since the last directory sync.
    renames: Vec<Rename>,
    locked: BTreeSet<String>,
    /// Handles of an earlier generation belong to a process that is no more.
    generation: u64,
    changes: u64,
    cut_at: Option<u64>,
    off: bool,
}

/// One change of the directory: a name goes, a name comes, or both at once.
#[derive(Debug)]
struct Rename {
    from: Option<String>,
    to: Option<(String, usize)>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Random(seed),
            faults: Faults::default(),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renames: Vec::new(),
            locked: BTreeSet::new(),
            generation: 0,
            changes: 0,
            cut_at: None,
            off: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The disk as a process sees it that starts now and lives until the next crash or kill.
    #[must_use]
    pub fn mount(&self) -> Arc<dyn Disk> {
        Arc::new(SimMount {
            disk: self.clone(),
            generation: self.lock().generation,
        })
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// How many operations that change anything were begun.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Cuts the power in the midst of the `nth` change from now (0: the next one). It and all
    /// that follow fail until [`SimDisk::crash`].
    pub fn cut_power_at(&self, nth: u64) {
        let mut state = self.lock();
        state.cut_at = Some(state.changes + nth);
    }

    /// Takes back a cut that has not come.
    pub fn keep_power(&self) {
        self.lock().cut_at = None;
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// The power goes (if it has not yet) and comes back. What was not durable is lost or not, as
    /// the seed decides. Handles and locks from before are dead.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.lose_power();
        state.kill();
    }

    /// The process ends and the machine goes on: nothing is lost, but handles and locks are dead.
    /// A cut that was planned is called off.
    pub fn kill(&self) {
        self.lock().kill();
    }

    /// The bytes of a file as a reader would see them.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state
            .names
            .get(name)
            .map(|file| state.files[*file].cache.clone())
    }

    /// Replaces a file's bytes, durably and behind everyone's back: decay, or an operator.
    /// None removes it.
    pub fn damage(&self, name: &str, bytes: Option<Vec<u8>>) {
        let mut state = self.lock();
        state.names.remove(name);
        state.durable_names.remove(name);
        if let Some(bytes) = bytes {
            let file = state.add(SimBytes::durable(bytes));
            state.names.insert(name.to_owned(), file);
            state.durable_names.insert(name.to_owned(), file);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn end(dying: bool) -> io::Result<()> {
    if dying {
        Err(io::Error::other("the power is off"))
    } else {
        Ok(())
    }
}

impl State {
    fn add(&mut self, file: SimBytes) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    fn kill(&mut self) {
        self.generation += 1;
        self.cut_at = None;
        self.locked.clear();
    }

    fn check(&self, generation: u64) -> io::Result<()> {
        if generation != self.generation {
            return Err(io::Error::other("the process of this handle is dead"));
        }
        end(self.off)
    }

    /// Counts a change; true if the power goes in its midst.
    fn begin(&mut self, generation: u64) -> io::Result<bool> {
        self.check(generation)?;
        self.off = self.cut_at == Some(self.changes);
        self.changes += 1;
        Ok(self.off)
    }

    fn may_fail(&mut self, likely: f64, code: i32) -> io::Result<()> {
        if self.random.chance(likely) {
            Err(io::Error::from_raw_os_error(code))
        } else {
            Ok(())
        }
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lose_power(&mut self) {
        // Drawn for each crash: some lose all, some nothing, most a part.
        let keep = [0.0, 0.2, 0.5, 0.8, 1.0][self.random.below(5)];
        for rename in std::mem::take(&mut self.renames) {
            if self.random.chance(keep) {
                rename.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        for file in &mut self.files {
            file.crash(&mut self.random, keep);
        }
        self.off = false;
    }
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(from) = &self.from {
            names.remove(from);
        }
        if let Some((to, file)) = &self.to {
            names.insert(to.clone(), *file);
        }
    }
}
