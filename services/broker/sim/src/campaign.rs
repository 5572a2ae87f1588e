//! Many seeds on several threads, and what they came to.

use crate::points::{Point, Points};
use crate::world::{self, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

/// Which seeds to run, and how.
#[derive(Debug, Clone)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// How many at most.
    pub count: u64,
    /// Threads.
    pub threads: u64,
    /// Whether to go on after a violation.
    pub keep_going: bool,
}

/// A seed that did not hold.
#[derive(Debug, Clone)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What was seen, the first thing first.
    pub texts: Vec<String>,
    /// The invariant of the first thing.
    pub invariant: String,
}

/// Sums over seeds.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Seeds run.
    pub seeds: u64,
    /// Tasks, leases, single checks.
    pub tasks: u64,
    /// Leases granted.
    pub attempts: u64,
    /// Single checks.
    pub checks: u64,
    /// Crashes of the broker.
    pub crashes: u64,
    /// Crashes of workers.
    pub worker_crashes: u64,
    /// Virtual time, ms.
    pub virtual_ms: u64,
    /// The longest time from the last fault to rest, virtual ms.
    pub rest_ms_max: u64,
    /// Places reached.
    pub points: Points,
    /// Seeds that did not hold, by number.
    pub failed: BTreeMap<u64, Failed>,
}

/// One line of the report on campaigns; the same form for all that are reported together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub campaign: String,
    /// What it tests.
    pub invariants: Vec<String>,
    /// How often, in `unit`s.
    pub tried: u64,
    /// How often it did not hold.
    pub violations: u64,
    /// What is counted.
    pub unit: String,
    /// First and last seed.
    pub seeds: Option<[u64; 2]>,
    /// How long it took.
    pub seconds: f64,
    /// The day, YYYY-MM-DD.
    pub date: String,
    /// The commit.
    pub commit: String,
    /// Figures and remarks.
    pub notes: String,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.tasks += outcome.tasks;
        self.attempts += outcome.attempts;
        self.checks += outcome.checks;
        self.crashes += outcome.crashes;
        self.worker_crashes += outcome.worker_crashes;
        self.virtual_ms += outcome.virtual_ms;
        self.rest_ms_max = self.rest_ms_max.max(outcome.rest_ms);
        self.points.add(&outcome.points);
        if let Some(first) = outcome.violations.first() {
            let failed = Failed {
                seed: outcome.seed,
                texts: outcome.violations.iter().map(ToString::to_string).collect(),
                invariant: first.invariant.name().to_owned(),
            };
            self.failed.insert(failed.seed, failed);
        }
    }

    /// The sums as a person reads them.
    #[must_use]
    pub fn text(&self, seconds: f64) -> String {
        let mut text = format!(
            "{} seeds in {seconds:.1} s ({:.0} a second), {} failed\n\
             {} tasks, {} attempts, {} broker crashes, {} worker crashes, {} checks\n\
             {:.1} virtual hours; at most {} virtual ms from the last fault to rest (bound {})\n",
            self.seeds,
            self.seeds as f64 / seconds.max(0.001),
            self.failed.len(),
            self.tasks,
            self.attempts,
            self.crashes,
            self.worker_crashes,
            self.checks,
            self.virtual_ms as f64 / 3_600_000.0,
            self.rest_ms_max,
            world::REST_MS,
        );
        for point in Point::ALL {
            let count = self.points.count(*point);
            text.push_str(&format!("{count:>12}  {}\n", point.name()));
        }
        text
    }
}

/// Runs seeds until all are done, one fails (unless told to go on), or the time is over. `told` hears the sums now and
/// then.
pub fn run(seeds: &Seeds, time: Option<Duration>, told: &mut dyn FnMut(&Totals)) -> Totals {
    let next = AtomicU64::new(seeds.from);
    let stop = AtomicBool::new(false);
    let end = seeds.from + seeds.count;
    let started = plait_broker::clock::monotonic();
    let mut totals = Totals::default();
    thread::scope(|scope| {
        let (results, outcomes) = channel();
        for _ in 0..seeds.threads.max(1) {
            let results = results.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || work(next, end, stop, &results));
        }
        drop(results);
        while let Ok(outcome) = outcomes.recv() {
            totals.add(&outcome);
            let over = time.is_some_and(|time| started.elapsed() >= time);
            if over || (!seeds.keep_going && !totals.failed.is_empty()) {
                stop.store(true, Ordering::Relaxed);
            }
            told(&totals);
        }
    });
    totals
}

fn work(next: &AtomicU64, end: u64, stop: &AtomicBool, results: &Sender<Outcome>) {
    while !stop.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let mut outcome = world::run(seed);
        outcome.history = Vec::new();
        if results.send(outcome).is_err() {
            return;
        }
    }
}
