//! Everything that reads bytes from outside, given any bytes. `PLAIT_FUZZ` names the target; `.ci/fuzz.sh` runs them.
//!
//! `PLAIT_FUZZ=seeds plait-fuzz -runs=1` at the root of the repository writes the inputs that they begin with into
//! tests/fuzz/corpus.
//!
//! A target fails by a panic: one of the code under test, or of a property that is stated here.
#![no_main]

mod files;
mod seeds;
mod streams;
mod text;

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 9] = [
    ("journal_frame", files::journal_frame),
    ("snapshot_chunk", files::snapshot_chunk),
    ("archive_block", files::archive_block),
    ("log_segment", files::log_segment),
    ("filter", text::filter),
    ("config", text::config),
    ("timeout", text::timeout),
    ("keys", text::keys),
    ("streams", streams::streams),
];

fn target() -> Target {
    let name = std::env::var("PLAIT_FUZZ").unwrap_or_default();
    if name == "seeds" {
        seeds::write(
            "tests/fuzz/corpus".as_ref(),
            "services/broker/tests/golden/format-1/data".as_ref(),
        );
        return |_| {};
    }
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let names = TARGETS.map(|(known, _)| known).join(", ");
    found
        .unwrap_or_else(|| panic!("PLAIT_FUZZ is {name:?}; known are {names}"))
        .1
}

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    TARGET.get_or_init(target)(bytes);
});
