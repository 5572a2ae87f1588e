//! The share of a version among a service's tasks: which lists its workers and the others serve.
//!
//! A worker that serves another set of lists is of another class. So a split costs where workers come and go, and
//! where a share changes; a dispatch does not know of it.

use crate::effect::{Error, Reply};
use crate::ids::Millis;
use crate::live::alarms::Alarm;
use crate::live::splits::{Divided, Side, SideTally};
use crate::partition::{Partition, SideFigures, SplitFigures, Step};
use crate::record::Record;
use crate::split::{Cut, SPLITS_KEY, Split, WHOLE};
use crate::state::slab::NONE;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Splits at once.
const SPLITS_MAX: usize = 1_000;

/// READY tasks that are looked at in one step where a share has changed: bounds the pause, some 0.5 ms. The next step
/// is due at once then.
const SORTED_MAX: usize = 4_096;

impl Partition {
    /// Puts all splits in force, and `record` where a broker that comes back finds them.
    pub(super) fn set_splits(
        &mut self,
        splits: Vec<Split>,
        record: Bytes,
        now: Millis,
        step: &mut Step,
    ) -> Result<Reply, Error> {
        check(&splits)?;
        let kept = self.state.kv.entries.get(SPLITS_KEY);
        if kept.map_or(!record.is_empty(), |(value, _)| *value != record) {
            let version = self.state.kv.version.saturating_add(1);
            let put = Record::KvPut {
                key: SPLITS_KEY.into(),
                value: record,
                version,
            };
            self.commit(put, step);
        }
        self.enforce_splits(splits, now);
        Ok(Reply::Done)
    }

    /// Goes on with splits that were decided before.
    pub(crate) fn enforce_splits(&mut self, splits: Vec<Split>, now: Millis) {
        let before = std::mem::replace(&mut self.live.splits.list, splits);
        self.divide(&before, now);
    }

    /// Routes that are new may be of a service that is split.
    pub(super) fn divide_new_routes(&mut self, now: Millis) {
        if !self.live.splits.list.is_empty() {
            self.divide(&self.live.splits.list.clone(), now);
        }
    }

    fn divide(&mut self, before: &[Split], now: Millis) {
        let methods = &self.state.methods;
        let routes: Vec<(u32, Arc<str>)> = methods
            .by_path
            .values()
            .map(|route| (*route, Arc::clone(&methods.get(*route).path)))
            .collect();
        let mut old = std::mem::take(&mut self.live.splits.routes);
        for (route, path) in routes {
            let found = self.live.splits.list.iter().position(|s| s.covers(&path));
            let known = old.remove(&route);
            let Some(index) = found else {
                self.state.methods.divide(route, None);
                continue;
            };
            let split = &self.live.splits.list[index];
            let same = known.filter(|known| before[known.split].version == split.version);
            let cut = Cut::of(split);
            // Where all tasks are for one side, both lists are: nothing has to be moved.
            if split.share > 0 && split.share < WHOLE {
                self.state.methods.divide(route, Some(cut));
            } else {
                self.state.methods.second(route);
            }
            let divided = Divided {
                split: index,
                ..same.unwrap_or_else(|| Divided::new(index, now))
            };
            self.live.splits.routes.insert(route, divided);
        }
        self.count_sides(now);
        self.place_workers();
    }

    /// Puts some of what waits on its side, where shares have changed.
    pub(crate) fn sort_sides(&mut self) {
        let tasks = &mut self.state.tasks;
        let now = self.state.time;
        self.state.methods.sort(tasks, SORTED_MAX, now);
    }

    /// Finds out anew who serves each side of each route that is divided.
    fn count_sides(&mut self, now: Millis) {
        for divided in self.live.splits.routes.values_mut() {
            divided.served = [0; 2];
        }
        let workers: Vec<u32> = self.live.workers.by_conn.values().copied().collect();
        for worker in workers {
            if self.live.workers.slab[worker].taking {
                self.count_worker(worker, true, now);
            }
        }
        for (route, divided) in &self.live.splits.routes {
            if divided.served[Side::Others as usize] == 0 && !divided.alone {
                let split = &self.live.splits.list[divided.split];
                let due = divided.left_at.saturating_add(fallback(split));
                self.live.alarms.set(due, Alarm::Split(*route));
            }
        }
    }

    /// Whether a side of a route came or went with a worker.
    fn count_worker(&mut self, number: u32, more: bool, now: Millis) -> bool {
        let worker = &self.live.workers.slab[number];
        let splits = &mut self.live.splits;
        let mut turned = false;
        let routes: BTreeSet<u32> = worker.routes.iter().copied().collect();
        for route in routes {
            let Some(divided) = splits.routes.get_mut(&route) else {
                continue;
            };
            let split = &splits.list[divided.split];
            let side = if *split.version == *worker.version {
                Side::Version
            } else {
                Side::Others
            };
            turned |= divided.change(side, more, now);
            if !more && divided.served[Side::Others as usize] == 0 && side == Side::Others {
                let due = now.saturating_add(fallback(split));
                self.live.alarms.set(due, Alarm::Split(route));
            }
        }
        turned
    }

    /// A worker begins to take tasks, or will take no more.
    pub(super) fn worker_takes(&mut self, number: u32, takes: bool, now: Millis) {
        let worker = &mut self.live.workers.slab[number];
        if std::mem::replace(&mut worker.taking, takes) == takes
            || self.live.splits.routes.is_empty()
        {
            return;
        }
        if self.count_worker(number, takes, now) {
            self.place_workers();
        }
    }

    /// The others may have been away for long enough.
    pub(super) fn split_alone(&mut self, route: u32, now: Millis) {
        let splits = &mut self.live.splits;
        let Some(divided) = splits.routes.get_mut(&route) else {
            return;
        };
        let due = divided
            .left_at
            .saturating_add(fallback(&splits.list[divided.split]));
        let away = divided.served[Side::Others as usize] == 0;
        if away && due <= now && !std::mem::replace(&mut divided.alone, true) {
            self.place_workers();
        }
    }

    /// The lists that a worker serves, ascending.
    pub(super) fn lists_of(&self, version: &str, routes: &[u32]) -> Vec<u32> {
        let mut set = Vec::with_capacity(routes.len());
        for route in routes {
            let [others, own] = self.live.splits.lists(*route, version);
            let second = self.state.methods.get(*route).second;
            if others {
                set.push(*route);
            }
            if own && second != NONE {
                set.push(second);
            }
        }
        set.sort_unstable();
        set.dedup();
        set
    }

    /// For each list its method's index among those that the worker announced.
    pub(super) fn positions_of(&self, lists: &[u32], routes: &[u32]) -> Vec<u32> {
        let position = |list: &u32| {
            let route = self.state.methods.route_of(*list);
            let at = routes.iter().position(|own| *own == route).unwrap_or(0);
            u32::try_from(at).unwrap_or(0)
        };
        lists.iter().map(position).collect()
    }

    /// Puts every worker into the class of what it serves now.
    fn place_workers(&mut self) {
        let workers: Vec<u32> = self.live.workers.by_conn.values().copied().collect();
        for number in workers {
            let worker = &self.live.workers.slab[number];
            let lists = self.lists_of(&worker.version, &worker.routes);
            if lists == self.live.workers.classes.list[worker.class].methods {
                continue;
            }
            let positions = self.positions_of(&lists, &worker.routes);
            let classes = &mut self.live.workers.classes;
            let class = classes.find_or_make(&lists, &self.state.methods);
            self.live.workers.reclass(number, class, positions);
        }
    }

    /// An attempt ended on a worker.
    pub(super) fn tally_side(
        &mut self,
        route: u32,
        worker: u32,
        outcome: (u32, bool),
        busy_ms: u64,
    ) {
        let splits = &mut self.live.splits;
        if let Some(divided) = splits.routes.get_mut(&route) {
            let version = &self.live.workers.slab[worker].version;
            let own = *splits.list[divided.split].version == **version;
            divided.tallies[usize::from(own)].count(outcome, busy_ms);
        }
    }

    /// How each side of each split method did since this was asked for last.
    pub(super) fn split_figures(&mut self) -> Vec<SplitFigures> {
        let mut found: BTreeMap<Arc<str>, SplitFigures> = BTreeMap::new();
        let splits = &mut self.live.splits;
        for (route, divided) in &mut splits.routes {
            let method = &self.state.methods.get(*route).path;
            let figures = found.entry(Arc::clone(method)).or_insert_with(|| {
                let version = Arc::clone(&splits.list[divided.split].version);
                SplitFigures::new(Arc::clone(method), version)
            });
            let [others, version] = std::mem::take(&mut divided.tallies);
            figures.others.add(divided.served[0], &others);
            figures.own.add(divided.served[1], &version);
        }
        found.into_values().collect()
    }
}

impl SplitFigures {
    fn new(method: Arc<str>, version: Arc<str>) -> Self {
        Self {
            method,
            version,
            own: SideFigures::default(),
            others: SideFigures::default(),
        }
    }
}

impl SideFigures {
    fn add(&mut self, workers: u32, tally: &SideTally) {
        self.workers = self.workers.max(workers);
        self.lost += tally.lost;
        self.busy_ms += tally.busy_ms;
        let outcomes = self.outcomes.iter_mut().zip(tally.outcomes);
        let spans = self.spans.iter_mut().zip(tally.spans);
        for (sum, count) in outcomes.chain(spans) {
            *sum += count;
        }
    }
}

/// How long the others' tasks wait for one of them, ms.
fn fallback(split: &Split) -> u64 {
    if crate::mutant::is(crate::mutant::Mutant::SplitHurried) {
        return 0;
    }
    split.fallback_ms
}

fn check(splits: &[Split]) -> Result<(), Error> {
    let invalid = |problem: String| Error::Invalid {
        field: "splits",
        problem: problem.into(),
    };
    if splits.len() > SPLITS_MAX {
        return Err(invalid(format!("at most {SPLITS_MAX}")));
    }
    let mut services = BTreeSet::new();
    for split in splits {
        let service = &split.service;
        let problem = if service.is_empty() || split.version.is_empty() {
            "names no service or no version"
        } else if split.share > WHOLE {
            "has a share of more than 10,000"
        } else if !services.insert(Arc::clone(service)) {
            "is there twice"
        } else {
            continue;
        };
        return Err(invalid(format!("the split of \"{service}\" {problem}")));
    }
    Ok(())
}
