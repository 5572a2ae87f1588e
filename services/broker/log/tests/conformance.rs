//! The conformance suite on the file log, on a real and on a simulated disk.

use plait_broker_log::conformance::{Store, cases, exercise};
use plait_broker_log::sim::SimDisk;
use plait_broker_log::{FileLog, FileLogOptions, Log, LogError};

fn options(background: bool) -> FileLogOptions {
    FileLogOptions {
        segment_bytes: 16 * 1024,
        first_segment_bytes: 8 * 1024,
        background,
        ..FileLogOptions::default()
    }
}

struct RealStore(tempfile::TempDir);

impl Store for RealStore {
    fn open(&mut self) -> Result<Box<dyn Log>, LogError> {
        Ok(Box::new(FileLog::open(
            &self.0.path().join("log"),
            options(true),
        )?))
    }
}

struct SimStore(SimDisk);

impl Store for SimStore {
    fn open(&mut self) -> Result<Box<dyn Log>, LogError> {
        Ok(Box::new(FileLog::open_on(self.0.mount(), options(false))?))
    }
}

#[test]
fn file_log_on_a_real_disk_conforms() {
    exercise(&mut || Box::new(RealStore(tempfile::tempdir().expect("a directory"))));
}

#[test]
fn file_log_on_a_simulated_disk_conforms() {
    exercise(&mut || Box::new(SimStore(SimDisk::new(7))));
}

#[test]
fn case_names_are_unique() {
    let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() == count && count >= 40, "{count} cases");
}
