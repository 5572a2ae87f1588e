//! The suite that every backend of [`Log`] passes. A fix of any backend extends it.
//!
//! It is a library so that each backend's tests can run it: hand [`exercise`] a factory of fresh,
//! empty stores. It panics, naming the case, when a promise of the trait is broken. It needs no
//! power cuts: those are each backend's own.

mod archiving;
mod frames;
mod reading;
mod releasing;
mod snapshots;

use std::io::IoSlice;

use crate::{Frame, Log, LogError, Offset};

/// One store, empty when made. Configure it to begin a new segment (or what it has instead) every
/// 16 KiB or so, or the cases about releasing have nothing to release.
pub trait Store {
    /// Opens the log in the store, again each time.
    fn open(&mut self) -> Result<Box<dyn Log>, LogError>;
}

/// One promise.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The promise as a name.
    pub name: &'static str,
    /// Panics if it is broken. Needs an empty store.
    pub run: fn(&mut dyn Store),
}

/// Runs every case, each on a fresh store.
///
/// # Panics
/// If the backend breaks a promise.
pub fn exercise(make: &mut dyn FnMut() -> Box<dyn Store>) {
    for case in cases() {
        // Captured by the test harness, and shown with the panic of the case that fails.
        eprintln!("conformance: {}", case.name);
        (case.run)(&mut *make());
    }
}

/// All cases, to run one by one.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for group in [
        frames::CASES,
        reading::CASES,
        snapshots::CASES,
        releasing::CASES,
        archiving::CASES,
    ] {
        all.extend(group.iter().map(|(name, run)| Case { name, run: *run }));
    }
    all
}

type Group = &'static [(&'static str, fn(&mut dyn Store))];

fn open(store: &mut dyn Store) -> Box<dyn Log> {
    store.open().expect("the log opens")
}

fn append(log: &mut dyn Log, body: &[u8]) -> Offset {
    log.append(&[IoSlice::new(body)])
        .expect("the append succeeds")
}

fn append_all(log: &mut dyn Log, bodies: &[Vec<u8>]) {
    for body in bodies {
        append(log, body);
    }
}

/// A body that tells its number and is `len` long (at least 8).
fn body(number: u64, len: usize) -> Vec<u8> {
    let mut out = number.to_le_bytes().to_vec();
    out.resize(len.max(8), number as u8);
    out
}

fn frames(log: &dyn Log, from: Offset) -> Vec<Frame> {
    let frames = log.frames(from).expect("the frames can be read");
    frames
        .collect::<Result<_, _>>()
        .expect("every frame is intact")
}

fn bodies(log: &dyn Log, from: Offset) -> Vec<Vec<u8>> {
    frames(log, from)
        .iter()
        .map(|frame| frame.body.to_vec())
        .collect()
}

/// Appends until the log has begun `count` more segments, and returns what was appended. A backend
/// that has none stops after enough.
fn fill(log: &mut dyn Log, count: usize) -> Vec<(Offset, Vec<u8>)> {
    let wanted = log.segments().len() + count;
    let mut appended = Vec::new();
    while log.segments().len() < wanted && appended.len() < 1_000 {
        let body = body(log.tail(), 1_000);
        appended.push((append(log, &body), body));
    }
    appended
}

fn snapshot(log: &mut dyn Log, at: Offset, body: &[u8]) {
    log.install_snapshot(at, &mut |out| out.write_all(body))
        .expect("the snapshot is installed");
}

fn loaded(log: &dyn Log) -> Option<(Offset, Vec<u8>)> {
    let (at, mut body) = log.load_snapshot().expect("the snapshot loads")?;
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes)
        .expect("the snapshot can be read");
    Some((at, bytes))
}
