//! The second layer: the whole broker with its real servers, and clients and workers that speak the real protocol, in a
//! simulated network (turmoil), on a simulated disk, on one thread and on virtual time.

mod broker;
mod chaos;
mod desk;
mod draft;
mod look;
mod net;
mod operator;
mod plan;
mod story;
mod submitter;
mod threads;
mod worker;

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use plait_broker_log::sim::SimDisk;

use broker::Machine;
use chaos::Chaos;
use plan::Plan;
use story::Shared;

use crate::check::{self, Invariant};
use crate::disk::Seen;
use crate::history::{Event, Rules};
use crate::points::Points;
use crate::world::{Outcome, policies};

/// The wall clock at the beginning of every world, ms since 1970.
const START_MS: u64 = 1_700_000_000_000;

/// How long a world may take to come to rest after its last fault, virtual ms. A connection that died in silence is
/// noticed within 20 s by its client and 30 s by the broker, a worker's within 15 s; then its tasks have their
/// longest deadline, 40 s.
pub const REST_MS: u64 = 90_000;

thread_local! {
    /// Panics of the world on this thread: tokio catches those of its tasks.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Has panics of a world noted; all others go the way they went.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let noted = PANICS.with(|panics| match &mut *panics.borrow_mut() {
                Some(panics) => {
                    panics.push(panic.to_string());
                    true
                }
                None => false,
            });
            if !noted {
                before(panic);
            }
        }));
    });
    PANICS.with(|panics| *panics.borrow_mut() = Some(Vec::new()));
}

fn panics() -> Vec<String> {
    PANICS.with(|panics| {
        panics
            .borrow_mut()
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    })
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    note_panics();
    let plan = Plan::draw(seed);
    let story = Shared::default();
    let machine = Machine {
        seed,
        plan,
        disk: SimDisk::new(seed),
        seen: Arc::new(Seen::default()),
        story: story.clone(),
    };
    story.tell(Event::Rules(Rules {
        slack_ms: 0,
        complete: true,
        ..Rules::default()
    }));
    for policy in policies::all(machine.plan.brief, &machine.plan.limits) {
        story.tell(Event::Method(policies::told(&policy)));
    }
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let mut chaos = Chaos::new(&machine);
        chaos.live();
        // Judged before the world is taken down, which would tell of the end of its processes.
        judge(&machine)
    }));
    let outcome = judged.unwrap_or_else(|_| judge(&machine));
    PANICS.with(|panics| *panics.borrow_mut() = None);
    outcome
}

fn judge(machine: &Machine) -> Outcome {
    for panic in panics() {
        machine.story.wrong(Invariant::Assertion, panic);
    }
    let (mut history, mut violations, counts, times) = machine.story.with(|story| {
        let times = (story.now, story.healing, story.rested);
        (
            story.history.clone(),
            story.found.clone(),
            story.counts.clone(),
            times,
        )
    });
    // A run that was stopped by a violation tells nothing of ends.
    if !violations.is_empty()
        && let Some(Event::Rules(rules)) = history.first_mut().map(|entry| &mut entry.event)
    {
        rules.complete = false;
    }
    let report = check::check(&history);
    let mut hasher = DefaultHasher::new();
    history.hash(&mut hasher);
    violations.extend(report.violations);
    let count = |name| counts.get(name).copied().unwrap_or(0);
    Outcome {
        seed: machine.seed,
        hash: hasher.finish(),
        violations,
        points: Points::default(),
        tasks: report.tasks,
        attempts: report.attempts,
        crashes: count(chaos::KILLS) + count(chaos::POWER_LOSSES),
        worker_crashes: count(chaos::PEER_CRASHES),
        checks: report.checks.values().sum(),
        virtual_ms: times.0,
        rest_ms: times.1.zip(times.2).map_or(0, |(from, to)| to - from),
        counts,
        history,
    }
}

/// The network of a seed.
fn network(seed: u64, plan: &Plan) -> turmoil::Sim<'static> {
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_millis(START_MS);
    turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(epoch)
        .simulation_duration(Duration::from_millis(plan.chaos + 2 * REST_MS))
        .tick_duration(plan.tick())
        .min_message_latency(plan.tick())
        .max_message_latency(plan.tick() + Duration::from_millis(plan.way))
        .tcp_capacity(1_024)
        .enable_random_order()
        .build()
}
