//! Power cuts, kills and I/O errors, thousands of seeds: every acknowledged frame survives and
//! nothing appears that was not written. `LOG_SEEDS` sets how many, `LOG_SEED` runs one.

use std::io::{IoSlice, Read};

use plait_broker_log::disk::DiskFile;
use plait_broker_log::sim::{Faults, Random, SimDisk};
use plait_broker_log::{FileLog, FileLogOptions, Frame, Log, LogError, Offset};

const SEEDS: u64 = 2_000;

fn options() -> FileLogOptions {
    FileLogOptions {
        segment_bytes: 16 * 1024,
        first_segment_bytes: 8 * 1024,
        background: false,
        spares_max: 2,
        ..FileLogOptions::default()
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match number("LOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LOG_SEEDS").unwrap_or(SEEDS),
    }
}

/// What the log must hold, as its user knows it.
#[derive(Default)]
struct Model {
    acked: Vec<(Offset, Vec<u8>)>,
    /// Appended without an answer: it may have become durable, whole, or not.
    unknown: Option<(Offset, Vec<u8>)>,
    tail: Offset,
    epoch: u64,
    snapshot: Option<(Offset, Vec<u8>)>,
    unknown_snapshot: Option<(Offset, Vec<u8>)>,
    /// Frames below were released.
    released_to: Offset,
    /// Base and end of older segments that a release was told to keep.
    pinned: Vec<(Offset, Offset)>,
}

struct Run {
    disk: SimDisk,
    random: Random,
    model: Model,
    faults: Faults,
    counter: u64,
}

impl Run {
    fn new(seed: u64, faults: Faults) -> Self {
        let (disk, random) = (SimDisk::new(seed), Random(seed ^ 0xabcd));
        Self {
            disk,
            random,
            model: Model::default(),
            faults,
            counter: 0,
        }
    }

    /// One life of a process: open, work, end in some way.
    fn live(&mut self) -> Result<(), String> {
        self.disk.set_faults(self.faults);
        if self.random.chance(0.6) {
            self.disk.cut_power_at(self.random.below(60) as u64);
        }
        let opened = FileLog::open_on(self.disk.mount(), options());
        let opened = opened.map_err(|error| io_only(&error)).and_then(|mut log| {
            self.check(&mut log)?;
            self.work(&mut log)?;
            Ok(log)
        });
        match opened {
            Ok(log) => {
                let clean = self.random.chance(0.3);
                if clean {
                    drop(log);
                }
                self.end();
            }
            // An injected error: the log is dropped while it may still write.
            Err(None) => self.end(),
            Err(Some(wrong)) => return Err(wrong),
        }
        Ok(())
    }

    fn end(&mut self) {
        let faults = Faults {
            syncs_lie: self.faults.syncs_lie,
            ..Faults::default()
        };
        self.disk.set_faults(faults);
        if self.disk.is_off() || self.random.chance(0.5) {
            self.disk.crash();
        } else {
            self.disk.kill();
        }
    }

    /// With no fault and the power on, an open must succeed and show what was acknowledged.
    fn reopen(&mut self) -> Result<(), String> {
        let log = FileLog::open_on(
            self.disk.mount(),
            FileLogOptions {
                verify_all: true,
                ..options()
            },
        );
        let mut log = log.map_err(|error| format!("the log does not open: {error}"))?;
        match self.check(&mut log) {
            Err(Some(wrong)) => Err(wrong),
            Err(None) => Err("an I/O error without a fault".to_owned()),
            Ok(()) => Ok(()),
        }
    }

    fn check(&mut self, log: &mut FileLog) -> Result<(), Option<String>> {
        ensure(log.epoch() > self.model.epoch, || {
            "the epoch did not grow".to_owned()
        })?;
        self.model.epoch = log.epoch();
        let from = self.check_snapshot(log)?;
        let frames = log
            .frames(from)
            .and_then(|frames| frames.collect::<Result<Vec<_>, _>>());
        let frames = frames.map_err(|error| io_only(&error))?;
        self.check_frames(from, &frames, log.tail())?;
        self.check_pinned(log)
    }

    fn check_snapshot(&mut self, log: &FileLog) -> Result<Offset, Option<String>> {
        let loaded = log.load_snapshot().map_err(|error| io_only(&error))?;
        let unknown = self.model.unknown_snapshot.take();
        let Some((at, mut body)) = loaded else {
            ensure(self.model.snapshot.is_none(), || {
                "the snapshot is gone".to_owned()
            })?;
            return Ok(0);
        };
        let mut bytes = Vec::new();
        if body.read_to_end(&mut bytes).is_err() {
            return Err(None);
        }
        let found = Some((at, bytes));
        ensure(found == self.model.snapshot || found == unknown, || {
            format!("the snapshot at {at} was never installed")
        })?;
        self.model.snapshot = found;
        Ok(at)
    }

    fn check_frames(
        &mut self,
        from: Offset,
        frames: &[Frame],
        tail: Offset,
    ) -> Result<(), Option<String>> {
        let model = &mut self.model;
        if let Some((offset, body)) = model.unknown.take()
            && tail > model.tail
        {
            model.tail = offset + frames.last().map_or(0, |last| last.end() - last.offset);
            model.acked.push((offset, body));
        }
        ensure(tail == model.tail, || {
            format!("the tail is {tail}, not {}", model.tail)
        })?;
        let expected = model.acked.iter().filter(|(offset, _)| *offset >= from);
        let same = frames
            .iter()
            .map(|f| (f.offset, &f.body[..]))
            .eq(expected.map(|(o, b)| (*o, &b[..])));
        ensure(same, || "the frames are not those acknowledged".to_owned())
    }

    fn check_pinned(&self, log: &FileLog) -> Result<(), Option<String>> {
        let reader = log.reader();
        for (base, end) in &self.model.pinned {
            for (offset, body) in self
                .model
                .acked
                .iter()
                .filter(|(o, _)| o >= base && o < end)
            {
                let frame = reader.frame(*offset).map_err(|error| io_only(&error))?;
                ensure(frame.body == body[..], || {
                    format!("pinned frame {offset} changed")
                })?;
            }
        }
        Ok(())
    }

    fn work(&mut self, log: &mut FileLog) -> Result<(), Option<String>> {
        for _ in 0..self.random.below(40) {
            match self.random.below(12) {
                0 => self.install(log)?,
                1 => self.release(log)?,
                _ => self.append(log)?,
            }
        }
        Ok(())
    }

    fn append(&mut self, log: &mut FileLog) -> Result<(), Option<String>> {
        let longest = [10, 300, 3_000, 20_000][self.random.below(4)];
        self.counter += 1;
        let mut body = vec![self.counter as u8; self.random.below(longest)];
        body.extend_from_slice(&self.counter.to_le_bytes());
        // A payload that looks like a frame of this log must never be taken for one.
        if let Some((offset, held)) = self.model.acked.last().filter(|_| self.random.chance(0.2)) {
            let reader = log.reader();
            body.extend(
                reader
                    .read(*offset, held.len().min(600))
                    .unwrap_or_default(),
            );
        }
        self.model.unknown = Some((log.tail(), body.clone()));
        let (left, right) = body.split_at(body.len() / 2);
        match log.append(&[IoSlice::new(left), IoSlice::new(right)]) {
            Ok(offset) => {
                ensure(offset == self.model.tail, || "a gap in the log".to_owned())?;
                self.model.unknown = None;
                self.model.acked.push((offset, body));
                self.model.tail = log.tail();
                Ok(())
            }
            Err(error) => {
                let poisoned = log.append(&[]);
                let poisoned = matches!(poisoned, Err(LogError::Poisoned));
                ensure(poisoned, || "an append after a failed one".to_owned())?;
                Err(io_only(&error))
            }
        }
    }

    fn install(&mut self, log: &mut FileLog) -> Result<(), Option<String>> {
        let at = log.tail();
        self.counter += 1;
        let body = vec![self.counter as u8; self.random.below(3_000)];
        self.model.unknown_snapshot = Some((at, body.clone()));
        log.install_snapshot(at, &mut |out| out.write_all(&body))
            .map_err(|e| io_only(&e))?;
        self.model.unknown_snapshot = None;
        self.model.snapshot = Some((at, body));
        Ok(())
    }

    fn release(&mut self, log: &mut FileLog) -> Result<(), Option<String>> {
        let salt = self.random.number();
        let pinned = |base: Offset, _: Offset| Random(base ^ salt).chance(0.3);
        let held = log.segments();
        let outcome = log.release(log.tail(), &pinned);
        let bound = self.model.snapshot.as_ref().map_or(0, |(at, _)| *at);
        let survives = |s: &&plait_broker_log::SegmentInfo| s.end <= bound && pinned(s.base, s.end);
        self.model.pinned = held
            .iter()
            .filter(survives)
            .map(|s| (s.base, s.end))
            .collect();
        for gone in outcome.map_err(|error| io_only(&error))?.segments {
            ensure(gone.end <= bound, || {
                "released past the snapshot".to_owned()
            })?;
            self.model.released_to = self.model.released_to.max(gone.end);
        }
        Ok(())
    }
}

fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Result<(), Option<String>> {
    if holds { Ok(()) } else { Err(Some(wrong())) }
}

/// An injected error is none of ours; any other is.
fn io_only(error: &LogError) -> Option<String> {
    match error {
        LogError::Io { .. } | LogError::Poisoned => None,
        other => Some(other.to_string()),
    }
}

fn run(seed: u64, faults: Faults) -> Result<u64, String> {
    let mut run = Run::new(seed, faults);
    for _ in 0..6 {
        run.live()?;
        run.reopen()?;
        run.disk.kill();
    }
    Ok(run.model.acked.len() as u64)
}

/// Which faults a seed has: some none, some one kind, some all.
fn faults_of(seed: u64) -> Faults {
    let rate = 0.02;
    match seed % 6 {
        0 | 1 => Faults::default(),
        2 => Faults {
            sync_error: rate,
            ..Faults::default()
        },
        3 => Faults {
            write_error: rate,
            ..Faults::default()
        },
        4 => Faults {
            no_space: rate,
            dir_error: rate,
            ..Faults::default()
        },
        _ => Faults {
            write_error: rate / 3.0,
            sync_error: rate / 3.0,
            read_error: rate / 3.0,
            dir_error: rate / 3.0,
            ..Faults::default()
        },
    }
}

#[test]
fn acknowledged_frames_survive_and_nothing_is_invented() {
    let mut acked = 0;
    for seed in seeds() {
        match run(seed, faults_of(seed)) {
            Ok(count) => acked += count,
            Err(wrong) => panic!("LOG_SEED={seed}: {wrong}"),
        }
    }
    assert!(acked > 0);
}

#[test]
fn a_log_that_does_not_sync_is_found_out() {
    let lying = Faults {
        syncs_lie: true,
        ..Faults::default()
    };
    let found = (0..100).find(|seed| run(*seed, lying).is_err());
    assert!(found.is_some(), "100 seeds did not find the missing sync");
}

#[test]
fn same_seed_same_bytes() {
    let bytes = |seed| {
        let mut one = Run::new(seed, faults_of(seed));
        for _ in 0..3 {
            one.live().expect("live");
        }
        let names = one.disk.mount().list().expect("list");
        names
            .iter()
            .map(|name| one.disk.contents(name))
            .collect::<Vec<_>>()
    };
    for seed in 0..20 {
        assert!(
            bytes(seed) == bytes(seed),
            "seed {seed} is not deterministic"
        );
    }
}

/// Cuts the power at each change in turn of one fixed life: begin, roll, snapshot, release.
#[test]
fn power_may_go_at_any_change() {
    let life = |disk: &SimDisk| -> Result<Vec<Offset>, LogError> {
        let mut log = FileLog::open_on(disk.mount(), options())?;
        let mut acked = Vec::new();
        for round in 0..3_u8 {
            for _ in 0..12 {
                let Ok(offset) = log.append(&[IoSlice::new(&[round; 2_000])]) else {
                    return Ok(acked);
                };
                acked.push(offset);
            }
            let tail = log.tail();
            if log
                .install_snapshot(tail, &mut |out| out.write_all(&[round]))
                .is_err()
            {
                return Ok(acked);
            }
            let _ = log.release(tail, &|base, _| base == 0);
        }
        Ok(acked)
    };
    let whole = SimDisk::new(1);
    life(&whole).expect("no fault, no error");
    for cut in 0..whole.changes() {
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            disk.cut_power_at(cut);
            let acked = life(&disk).unwrap_or_default();
            disk.crash();
            let log = FileLog::open_on(disk.mount(), options());
            let log = log.unwrap_or_else(|error| panic!("cut {cut}, seed {seed}: {error}"));
            let last = acked.last().map_or(0, |last| last + 1);
            assert!(
                log.tail() >= last,
                "cut {cut}, seed {seed}: an acknowledged frame is gone"
            );
            let from = log
                .load_snapshot()
                .expect("snapshot")
                .map_or(0, |(at, _)| at);
            for frame in log.frames(from).expect("frames") {
                frame.expect("frame");
            }
        }
    }
}

/// I16: a failed sync is fatal for this log, and a new open is well.
#[test]
fn failed_sync_poisons_and_a_new_open_is_well() {
    for seed in 0..1_000 {
        let disk = SimDisk::new(seed);
        let mut log = FileLog::open_on(disk.mount(), options()).expect("open");
        let acked = log.append(&[IoSlice::new(b"before")]).expect("append");
        disk.set_faults(Faults {
            sync_error: 1.0,
            ..Faults::default()
        });
        let failed = log.append(&[IoSlice::new(&[7; 4_000])]);
        assert!(
            matches!(failed, Err(LogError::Io { op: "sync", .. })),
            "{failed:?}"
        );
        disk.set_faults(Faults::default());
        for _ in 0..3 {
            assert!(matches!(log.append(&[]), Err(LogError::Poisoned)));
        }
        let snapshot = log.install_snapshot(acked, &mut |_| Ok(()));
        assert!(matches!(snapshot, Err(LogError::Poisoned)));
        // The process goes, the cache stays: what the failed sync left is readable, not durable.
        disk.kill();
        let log = FileLog::open_on(disk.mount(), options()).expect("reopen");
        let shown: Vec<Frame> = log
            .frames(0)
            .expect("frames")
            .map(|f| f.expect("frame"))
            .collect();
        assert_eq!(shown[0].body, b"before"[..]);
        disk.crash();
        let log = FileLog::open_on(disk.mount(), options()).expect("reopen after a crash");
        let again: Vec<Frame> = log
            .frames(0)
            .expect("frames")
            .map(|f| f.expect("frame"))
            .collect();
        assert_eq!(shown, again, "seed {seed}: what an open showed is gone");
    }
}

#[test]
fn dead_handles_cannot_write() {
    let disk = SimDisk::new(1);
    let file = disk.mount().create("file").expect("create");
    disk.kill();
    let file: &dyn DiskFile = &*file;
    assert!(file.sync().is_err() && disk.contents("file").is_some());
}
