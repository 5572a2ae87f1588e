//! Archive files under power cuts, faults and decay: whole or absent, never wrong. `LOG_SEEDS` sets how many seeds.

use std::collections::BTreeMap;
use std::sync::Arc;

use plait_broker_log::format::archive_name;
use plait_broker_log::sim::{Faults, Random, SimDisk};
use plait_broker_log::{FileLog, FileLogOptions, Log, LogError};

type Blocks = Vec<(u64, Vec<u8>)>;

fn open(disk: &SimDisk) -> Result<FileLog, LogError> {
    let options = FileLogOptions {
        segment_bytes: 16 * 1024,
        first_segment_bytes: 8 * 1024,
        background: false,
        ..FileLogOptions::default()
    };
    FileLog::open_on(disk.mount(), options)
}

fn write(log: &FileLog, number: u64, blocks: &Blocks) -> Result<(), LogError> {
    log.archive().write(number, &mut |out| {
        let mut blocks = blocks.iter();
        blocks.try_for_each(|(key, bytes)| out.block(*key, *key, bytes))
    })
}

fn read(log: &FileLog, number: u64) -> Result<Vec<Vec<u8>>, LogError> {
    let file = log.archive().open(number)?;
    let blocks = (0..file.blocks()).map(|block| Ok(file.read(block)?.to_vec()));
    blocks.collect()
}

fn same(found: &[Vec<u8>], blocks: &Blocks) -> bool {
    found.iter().eq(blocks.iter().map(|(_, bytes)| bytes))
}

/// What the files must hold, as their user knows it.
struct Run {
    disk: SimDisk,
    random: Random,
    next: u64,
    /// Written, and not yet removed.
    acked: BTreeMap<u64, Blocks>,
    /// Begun without an answer: there, whole, or not.
    unknown: BTreeMap<u64, Blocks>,
    /// Removed without an answer.
    going: BTreeMap<u64, Blocks>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            disk: SimDisk::new(seed),
            random: Random(seed ^ 0x1234),
            next: 1,
            acked: BTreeMap::new(),
            unknown: BTreeMap::new(),
            going: BTreeMap::new(),
        }
    }

    fn blocks(&mut self) -> Blocks {
        let count = self.random.below(6) as u64;
        let mut one = |key| {
            let len = [20, 700, 9_000][self.random.below(3)];
            (
                key,
                vec![self.random.number() as u8; self.random.below(len)],
            )
        };
        (0..count).map(&mut one).collect()
    }

    fn live(&mut self, faults: Faults) -> Result<(), String> {
        self.disk.set_faults(faults);
        if self.random.chance(0.7) {
            self.disk.cut_power_at(self.random.below(40) as u64);
        }
        let Ok(log) = open(&self.disk) else {
            return Ok(());
        };
        for _ in 0..self.random.below(12) {
            let goes = self.acked.keys().next().copied();
            let went = match goes.filter(|_| self.random.chance(0.3)) {
                Some(number) => {
                    let blocks = self.acked.remove(&number).unwrap_or_default();
                    self.going.insert(number, blocks);
                    let removed = log.archive().remove(&[number]);
                    removed.map(|()| drop(self.going.remove(&number)))
                }
                None => {
                    let (number, blocks) = (self.next, self.blocks());
                    self.next += 1;
                    self.unknown.insert(number, blocks);
                    write(&log, number, &self.unknown[&number]).map(|()| {
                        let blocks = self.unknown.remove(&number).unwrap_or_default();
                        self.acked.insert(number, blocks);
                    })
                }
            };
            if let Err(LogError::Corrupt { .. }) = went {
                return Err(format!("corrupt without a reason: {went:?}"));
            }
        }
        Ok(())
    }

    fn crash(&mut self, lie: bool) {
        self.disk.set_faults(Faults {
            syncs_lie: lie,
            ..Faults::default()
        });
        if self.disk.is_off() || self.random.chance(0.6) {
            self.disk.crash();
        } else {
            self.disk.kill();
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let log = open(&self.disk).map_err(|error| format!("the log does not open: {error}"))?;
        let list = log.archive().list();
        let listed = list.map_err(|error| error.to_string())?;
        for (number, blocks) in &self.acked {
            let found = read(&log, *number).map_err(|error| format!("{number}: {error}"))?;
            if !same(&found, blocks) {
                return Err(format!("{number} is not what was written"));
            }
        }
        for number in listed {
            let maybe = self
                .unknown
                .get(&number)
                .or_else(|| self.going.get(&number));
            let known = self.acked.contains_key(&number);
            match maybe {
                None if known => {}
                None => return Err(format!("{number} came from nowhere")),
                Some(blocks) => {
                    let found = read(&log, number).map_err(|error| format!("{number}: {error}"))?;
                    if !same(&found, blocks) {
                        return Err(format!("{number} is there in part"));
                    }
                }
            }
        }
        drop(log);
        self.disk.kill();
        Ok(())
    }
}

fn run(seed: u64, lie: bool) -> Result<(), String> {
    let mut run = Run::new(seed);
    let faults = Faults {
        write_error: [0.0, 0.02][seed as usize % 2],
        no_space: [0.0, 0.02][seed as usize / 2 % 2],
        sync_error: [0.0, 0.02][seed as usize / 4 % 2],
        dir_error: [0.0, 0.02][seed as usize / 8 % 2],
        syncs_lie: lie,
        ..Faults::default()
    };
    for _ in 0..5 {
        run.live(faults)?;
        run.crash(lie);
        run.check()?;
    }
    Ok(())
}

#[test]
fn what_was_written_is_there_and_nothing_is_there_in_part() {
    let seeds = std::env::var("LOG_SEEDS").ok();
    let seeds = seeds.and_then(|text| text.parse().ok()).unwrap_or(1_000);
    for seed in 0..seeds {
        if let Err(wrong) = run(seed, false) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let found = (0..100).find(|seed| run(*seed, true).is_err());
    assert!(found.is_some(), "100 seeds did not find the missing sync");
}

/// I15: a byte of a file is flipped, or the file is cut, or it is another one's: detected, and told where.
#[test]
fn damage_of_any_byte_is_detected_and_the_file_is_named() {
    let disk = SimDisk::new(3);
    let log = open(&disk).expect("open");
    let blocks: Blocks = (0..4).map(|key| (key, vec![key as u8; 60])).collect();
    write(&log, 1, &blocks).expect("write");
    write(&log, 2, &blocks[..2].to_vec()).expect("write");
    let name = archive_name(1);
    let whole = disk.contents(&name).expect("the file");
    let detect = |bytes: Vec<u8>, what: &str| {
        disk.damage(&name, Some(bytes));
        match read(&log, 1) {
            Err(LogError::Corrupt { file, .. }) => assert!(file.ends_with(&name), "{what}"),
            Err(LogError::FutureFormat { .. }) => assert!(what.starts_with("byte"), "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    };
    for at in 0..whole.len() {
        for bit in [1, 128] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            detect(bytes, &format!("byte {at}"));
        }
    }
    for len in 0..whole.len() {
        detect(whole[..len].to_vec(), &format!("cut to {len}"));
    }
    detect([&whole[..], &[0]].concat(), "longer");
    let other = disk.contents(&archive_name(2)).expect("the other file");
    detect(other, "another file");
    disk.damage(&name, Some(whole));
    assert!(same(&read(&log, 1).expect("as it was"), &blocks));
}

#[test]
fn a_file_of_a_later_release_is_refused_as_such() {
    let disk = SimDisk::new(3);
    let log = open(&disk).expect("open");
    write(&log, 1, &vec![(1, vec![1])]).expect("write");
    let mut bytes = disk.contents(&archive_name(1)).expect("the file");
    bytes[8] = 9;
    disk.damage(&archive_name(1), Some(bytes));
    let opened = log.archive().open(1);
    assert!(
        matches!(opened, Err(LogError::FutureFormat { found: 9, .. })),
        "{opened:?}"
    );
}

#[test]
fn a_log_that_is_gone_writes_and_removes_nothing_any_more() {
    let disk = SimDisk::new(3);
    let log = open(&disk).expect("open");
    write(&log, 1, &Blocks::new()).expect("write");
    let archive = log.archive();
    let held = archive.open(1).expect("open");
    drop(log);
    let written = archive.write(2, &mut |_| Ok(()));
    assert!(matches!(written, Err(LogError::Poisoned)), "{written:?}");
    assert!(matches!(archive.remove(&[1]), Err(LogError::Poisoned)));
    assert_eq!(held.blocks(), 0);
    let _new_owner = open(&disk).expect("another owner");
    assert!(Arc::clone(&archive).list().expect("a list") == [1]);
}
