//! Measures durable commits of a [`FileLog`]: batches of 1, 128 and 1024 records of 300 bytes,
//! each batch one frame. Prints one JSON line a batch size, one for opening and replaying a log of a
//! million such records, and some for reading 256 byte payloads back, unchecked and checked.
//!
//! `log_bench [DIR] [SECONDS]`: where (default: a directory under the current one, which is
//! removed) and how long for each size (default 3). Segments are released as a broker would, after
//! a snapshot, so that files are recycled. Measure on the disk that matters, not on a tmpfs.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plait_broker_log::{FRAME_HEADER_LEN, FileLog, FileLogOptions, Log, LogError, Payloads};

const RECORD_BYTES: usize = 300;

#[allow(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args
        .next()
        .map_or_else(|| PathBuf::from("log_bench.tmp"), PathBuf::from);
    let seconds = args.next().map_or(Ok(3), |text| text.parse())?;
    for batch in [1, 128, 1024] {
        let dir = dir.join(format!("batch-{batch}"));
        measure(&dir, batch, Duration::from_secs(seconds))?;
        std::fs::remove_dir_all(&dir)?;
    }
    replay(&dir.join("replay"), 1_000_000)?;
    std::fs::remove_dir_all(dir.join("replay"))?;
    payloads(&dir.join("payloads"))?;
    std::fs::remove_dir_all(dir.join("payloads"))?;
    std::fs::remove_dir(&dir)?;
    Ok(())
}

fn measure(dir: &Path, batch: usize, time: Duration) -> Result<(), LogError> {
    let opening = now();
    let mut log = FileLog::open(dir, FileLogOptions::default())?;
    let open_ms = opening.elapsed().as_secs_f64() * 1e3;
    let body = vec![0x5a_u8; batch * RECORD_BYTES];
    // Warm up: let the segments grow to their full size and the first files come back.
    run(&mut log, &body, time / 3)?;
    let start = now();
    let mut commits = run(&mut log, &body, time)?;
    let elapsed = start.elapsed().as_secs_f64();
    commits.sort_unstable();
    let at =
        |share: f64| commits[((commits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{{\"batch\":{batch},\"records_per_s\":{:.0},\"commit_p50_us\":{:.0},\
         \"commit_p99_us\":{:.0},\"commit_max_us\":{:.0},\"open_ms\":{open_ms:.1}}}",
        (commits.len() * batch) as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0),
    );
    Ok(())
}

fn run(log: &mut FileLog, body: &[u8], time: Duration) -> Result<Vec<Duration>, LogError> {
    let start = now();
    let mut commits = Vec::new();
    while start.elapsed() < time {
        let one = now();
        log.append(&[IoSlice::new(body)])?;
        commits.push(one.elapsed());
        if log.segments().len() > 6 {
            let tail = log.tail();
            log.install_snapshot(tail, &mut |out| out.write_all(b"state"))?;
            log.release(tail, &|_, _| false)?;
        }
    }
    Ok(commits)
}

fn replay(dir: &Path, records: usize) -> Result<(), LogError> {
    const BATCH: usize = 128;
    let mut log = FileLog::open(dir, FileLogOptions::default())?;
    let body = vec![0x5a_u8; BATCH * RECORD_BYTES];
    for _ in 0..records / BATCH {
        log.append(&[IoSlice::new(&body)])?;
    }
    drop(log);
    let start = now();
    let log = FileLog::open(dir, FileLogOptions::default())?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    let start = now();
    let mut bytes = 0;
    for frame in log.frames(0)? {
        bytes += frame?.body.len();
    }
    let replay_ms = start.elapsed().as_secs_f64() * 1e3;
    let records = bytes / RECORD_BYTES;
    println!("{{\"records\":{records},\"open_ms\":{open_ms:.0},\"replay_ms\":{replay_ms:.0}}}");
    Ok(())
}

/// Reads payloads back in batches of 128, as a broker does that sends attempts: ns each, from frames
/// with so many of them, first once each in their order, then at random.
fn payloads(dir: &Path) -> Result<(), LogError> {
    const LEN: usize = 256;
    const TOTAL: usize = 1 << 17;
    for each in [1, 256, 4096] {
        let dir = dir.join(each.to_string());
        let mut log = FileLog::open(&dir, FileLogOptions::default())?;
        let body = vec![0x5a_u8; each * LEN];
        let mut places = Vec::with_capacity(TOTAL);
        for _ in 0..(TOTAL / each).min(1 << 14) {
            let first = log.append(&[IoSlice::new(&body)])? + FRAME_HEADER_LEN;
            places.extend((first..).step_by(LEN).take(each).map(|at| (at, LEN)));
        }
        let random = shuffled(&places);
        for (order, places) in [("in order", &places), ("random", &random)] {
            let reader = log.reader();
            let checked = Payloads::new(log.reader());
            let start = now();
            for (at, len) in places {
                reader.read(*at, *len)?;
            }
            let unchecked_ns = start.elapsed().as_nanos() / places.len() as u128;
            let start = now();
            for batch in places.chunks(128) {
                assert!(checked.read(batch).iter().all(Result::is_ok));
            }
            let checked_ns = start.elapsed().as_nanos() / places.len() as u128;
            println!(
                "{{\"payloads_a_frame\":{each},\"order\":\"{order}\",\
                 \"unchecked_ns\":{unchecked_ns},\"checked_ns\":{checked_ns}}}"
            );
        }
    }
    Ok(())
}

/// The same in another order, the same in every run.
fn shuffled<T: Clone>(of: &[T]) -> Vec<T> {
    let mut out = of.to_vec();
    let mut seed = 1_u64;
    for last in (1..out.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        out.swap(last, (seed >> 33) as usize % (last + 1));
    }
    out
}
