//! Many seeds on several threads, and what they came to.

use crate::mesh;
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
    /// What is simulated.
    pub layer: Layer,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Layer {
    /// Core, journal, log and recovery, without servers.
    Core,
    /// The whole broker with its servers, in a network.
    Mesh,
}

impl Layer {
    /// Its name in commands.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Mesh => "mesh",
        }
    }

    /// Runs one seed.
    #[must_use]
    pub fn run(self, seed: u64) -> Outcome {
        match self {
            Self::Core => world::run(seed),
            Self::Mesh => mesh::run(seed),
        }
    }

    /// The most virtual time from the last fault to rest, ms.
    #[must_use]
    pub fn rest_ms(self) -> u64 {
        match self {
            Self::Core => world::PATIENT_REST_MS,
            Self::Mesh => mesh::REST_MS,
        }
    }
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
    /// What else was counted, by name.
    pub counts: BTreeMap<&'static str, u64>,
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
        for (name, count) in &outcome.counts {
            *self.counts.entry(name).or_default() += count;
        }
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
    pub fn text(&self, layer: Layer, seconds: f64) -> String {
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
            layer.rest_ms(),
        );
        let points = Point::ALL.iter().filter(|_| layer == Layer::Core);
        let points = points.map(|point| (point.name(), self.points.count(*point)));
        let counts = self.counts.iter().map(|(name, count)| (*name, *count));
        for (name, count) in points.chain(counts) {
            text.push_str(&format!("{count:>12}  {name}\n"));
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
            let (next, stop, layer) = (&next, &stop, seeds.layer);
            scope.spawn(move || work(layer, (next, end), stop, &results));
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

fn work(
    layer: Layer,
    (next, end): (&AtomicU64, u64),
    stop: &AtomicBool,
    results: &Sender<Outcome>,
) {
    while !stop.load(Ordering::Relaxed) {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let mut outcome = layer.run(seed);
        outcome.history = Vec::new();
        if results.send(outcome).is_err() {
            return;
        }
    }
}
