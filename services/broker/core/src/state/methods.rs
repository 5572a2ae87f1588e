//! Methods with their policies and ready lists, and the queues that group them.

use super::archives::Group;
use super::limits::{Limiter, Limiters, Waiting};
use super::list::List;
use super::slab::NONE;
use super::totals::Totals;
use super::turns::Turns;
use crate::effect::{HeldBy, TaskState};
use crate::ids::{Millis, Token};
use crate::live::failures::{FAILURES_MIN, SHARE};
use crate::live::worker_gate::Verdict;
use crate::metrics::BreakerState;
use crate::policy::{MethodPolicy, method_of};
use crate::split::Cut;
use crate::weight::Weights;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Highest weight of a queue.
pub(crate) const QUEUE_WEIGHT_MAX: u32 = 1000;

/// Highest priority of a task.
pub(crate) const PRIORITY_MAX: u8 = 9;

pub(super) const PRIORITIES: usize = PRIORITY_MAX as usize + 1;
const STATES: usize = 10;

/// gRPC's code.
const CANCELLED: usize = 1;

/// One method, or one route of a method that has several. Each has tasks and ready lists of its own; what people see
/// and what keys stand for is the method.
#[derive(Debug)]
pub(crate) struct Method {
    /// The method, without what tells the route.
    pub(crate) path: Arc<str>,
    /// The method's first route, which stands for all of them.
    family: u32,
    /// All routes of the method; kept by the first.
    routes: Vec<u32>,
    pub(crate) policy: MethodPolicy,
    pub(crate) queue: u32,
    pub(super) ready: [List; PRIORITIES],
    /// The order of the keys in each of these, where keys of the method have weights.
    pub(super) turns: Option<Box<[Turns; PRIORITIES]>>,
    /// READY tasks at the head of their ordering lines.
    pub(crate) ready_count: u64,
    /// READY tasks that wait for their limit key, by why.
    pub(super) held: [u64; HeldBy::ALL.len()],
    /// Those that wait in the lanes of their limit keys, held or behind another of their key.
    pub(super) waiting: Waiting,
    /// What limits the method, all its routes together, or NONE.
    pub(crate) limiter: u32,
    /// Whether keys have limits of their own.
    pub(super) keyed: bool,
    /// Whether a gate or a limit counts what begins.
    pub(super) restrained: bool,
    /// Whether a gate or a limit lets nothing begin.
    barred: bool,
    /// Tasks by state.
    counts: [u64; STATES],
    pub(crate) dead_letters: u64,
    /// What happened since figures were taken last.
    pub(crate) tally: Tally,
    /// What happened since the process began.
    pub(crate) totals: Totals,
    /// How many of its attempts may begin; the one of the first route holds for all.
    gate: Gate,
    /// How its tasks are divided between versions, if they are.
    pub(super) cut: Option<Cut>,
    /// Of each ready list the part that may stand on the wrong side, since the cut has changed.
    pub(super) unsorted: [List; PRIORITIES],
    /// Its second list, or NONE.
    pub(crate) second: u32,
    /// Itself, or of a second list the route.
    pub(super) route: u32,
}

/// What bars a method while its breaker is open. It ends with the process.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    /// Attempts that may begin; `None`: any number.
    pub(crate) permits: Option<u32>,
    /// Whether it was set to let probes through, whatever is left of them.
    probing: bool,
    /// The first token of attempts that begin under it.
    since: Token,
    /// When it is over.
    pub(crate) until: Millis,
}

/// Sums for the figures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) submitted: u64,
    pub(crate) outcomes: [u64; 17],
    /// Those of attempts that began since the gate was set last.
    pub(crate) fresh: [u64; 17],
    pub(crate) retried: u64,
    pub(crate) busy_ms: u64,
    /// Failures that say that the method is ill, since fresh outcomes were taken last.
    ill: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            permits: None,
            probing: false,
            since: Token(0),
            until: 0,
        }
    }
}

impl Gate {
    /// What it says of the breaker that it was set for.
    pub(crate) fn state(&self) -> BreakerState {
        match self.permits {
            None => BreakerState::Closed,
            Some(_) if self.probing => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        }
    }
}

impl Tally {
    fn is_empty(&self) -> bool {
        let ended = self.outcomes.iter().any(|count| *count > 0);
        self.submitted == 0 && self.retried == 0 && !ended
    }

    /// Counts what another route of the method counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.retried += other.retried;
        self.busy_ms += other.busy_ms;
        let outcomes = self.outcomes.iter_mut().zip(other.outcomes);
        let fresh = self.fresh.iter_mut().zip(other.fresh);
        for (sum, count) in outcomes.chain(fresh) {
            *sum += count;
        }
    }
}

/// One queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: Arc<str>,
    /// Why it is paused, if it is.
    pub(crate) paused: Option<Arc<str>>,
    pub(crate) methods: BTreeSet<u32>,
    pub(crate) unfinished: u64,
    /// Its share of starts beside other queues: the largest that any of its methods says.
    weight: u32,
}

/// All methods and queues. Neither is ever removed, so their numbers stay good.
#[derive(Debug, Default)]
pub(crate) struct Methods {
    pub(crate) methods: Vec<Method>,
    pub(crate) by_path: BTreeMap<Arc<str>, u32>,
    /// The first route of each method.
    families: BTreeMap<Arc<str>, u32>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) by_name: BTreeMap<Arc<str>, u32>,
    /// Ready lists that were empty and are not any more; taken by the dispatcher.
    pub(crate) woken: Vec<(u32, u8)>,
    /// Routes of which tasks may stand on the wrong side.
    pub(crate) unsorted: BTreeSet<u32>,
    pub(crate) limiters: Limiters,
    /// Weights of keys by method, known or not.
    pub(super) weights: BTreeMap<Arc<str>, Arc<Weights>>,
    /// How often a method got another latency class.
    pub(crate) latency_changes: u64,
}

impl Methods {
    /// With a seed that whoever chooses limit keys does not know.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            limiters: Limiters::seeded(seed),
            ..Self::default()
        }
    }

    /// Puts a policy in force, but for its limits.
    pub(crate) fn apply(&mut self, policy: &MethodPolicy) {
        let mut policy = policy.clone();
        policy.max_attempts = policy.max_attempts.clamp(1, u32::from(u16::MAX));
        policy.priority = policy.priority.min(PRIORITY_MAX);
        policy.queue_weight = policy.queue_weight.min(QUEUE_WEIGHT_MAX);
        let queue = self.queue_or_new(&policy.queue);
        let Some(&number) = self.by_path.get(&policy.method) else {
            let number = self.methods.len() as u32;
            self.by_path.insert(Arc::clone(&policy.method), number);
            let (path, family) = self.family(&policy.method, number);
            self.methods
                .push(method(policy, queue, (path, family), number));
            self.enlist(number);
            return;
        };
        let second = self.get(number).second;
        if second != NONE {
            self.replace(second, policy.clone(), queue);
        }
        self.replace(number, policy, queue);
    }

    /// A further list for tasks of a route.
    pub(super) fn add(&mut self, route: u32) -> u32 {
        let number = self.methods.len() as u32;
        let of = self.get(route);
        let (policy, names) = (of.policy.clone(), (Arc::clone(&of.path), of.family));
        self.methods.push(method(policy, of.queue, names, route));
        self.enlist(number);
        number
    }

    /// Puts a new list into its queue and its family.
    fn enlist(&mut self, number: u32) {
        let (queue, family) = (self.get(number).queue, self.family_of(number));
        self.queues[queue as usize].methods.insert(number);
        self.methods[family as usize].routes.push(number);
        let first = self.get(family);
        let (limiter, keyed, weighted) = (first.limiter, first.keyed, first.turns.is_some());
        let method = &mut self.methods[number as usize];
        (method.limiter, method.keyed) = (limiter, keyed);
        method.turns = weighted.then(Box::default);
        self.restrain(family);
        self.weigh(queue);
    }

    /// Gives a list another policy, and perhaps another queue.
    fn replace(&mut self, number: u32, policy: MethodPolicy, queue: u32) {
        let method = &mut self.methods[number as usize];
        let latency = std::mem::replace(&mut method.policy, policy).latency;
        if latency != method.policy.latency {
            self.latency_changes += 1;
            self.wake_method(number);
        }
        let method = &mut self.methods[number as usize];
        let old = std::mem::replace(&mut method.queue, queue);
        if old != queue {
            let unfinished = method.unfinished();
            self.queues[old as usize].methods.remove(&number);
            self.queues[old as usize].unfinished -= unfinished;
            self.queues[queue as usize].methods.insert(number);
            self.queues[queue as usize].unfinished += unfinished;
            self.wake_method(number);
            self.weigh(old);
        }
        self.weigh(queue);
    }

    fn weigh(&mut self, queue: u32) {
        let methods = self.queues[queue as usize].methods.iter();
        let weights = methods.map(|method| self.policy(*method).queue_weight);
        let weight = weights.max().unwrap_or(1).max(1);
        let weight = if crate::mutant::is(crate::mutant::Mutant::WeightIgnored) {
            1
        } else {
            weight
        };
        self.queues[queue as usize].weight = weight;
    }

    /// The share of starts that a queue gets beside others.
    pub(crate) fn weight(&self, queue: u32) -> u32 {
        self.queues
            .get(queue as usize)
            .map_or(1, |queue| queue.weight)
    }

    /// The queue of a method, and its share.
    pub(crate) fn share(&self, number: u32) -> (u32, u32) {
        let queue = self.get(number).queue;
        (queue, self.weight(queue))
    }

    /// The method of a new route, and its first route, which may be the new one.
    fn family(&mut self, route: &Arc<str>, number: u32) -> (Arc<str>, u32) {
        let method = method_of(route);
        if let Some((path, first)) = self.families.get_key_value(method) {
            return (Arc::clone(path), *first);
        }
        let whole = method.len() == route.len();
        let path = if whole {
            Arc::clone(route)
        } else {
            Arc::from(method)
        };
        self.families.insert(Arc::clone(&path), number);
        (path, number)
    }

    /// The route that stands for all of its method.
    pub(crate) fn family_of(&self, number: u32) -> u32 {
        self.get(number).family
    }

    /// The routes of the method that this is a route of, itself included.
    pub(crate) fn routes(&self, number: u32) -> &[u32] {
        &self.get(self.family_of(number)).routes
    }

    /// The routes of a method by its path.
    pub(crate) fn routes_of(&self, method: &str) -> &[u32] {
        self.families
            .get(method)
            .map_or(&[], |first| self.routes(*first))
    }

    /// Methods with limits, by path.
    pub(super) fn limited(&self) -> impl Iterator<Item = (&Arc<str>, &Limiter)> + '_ {
        self.families.iter().filter_map(|(path, first)| {
            let limiter = self.limiters.slab.get(self.get(*first).limiter)?;
            Some((path, limiter))
        })
    }

    /// All methods by path, each with the route that stands for it.
    pub(crate) fn families(&self) -> impl Iterator<Item = (&Arc<str>, u32)> + '_ {
        self.families.iter().map(|(path, first)| (path, *first))
    }

    /// What happened since this was asked for last, by method, where anything did.
    pub(crate) fn take_tallies(&mut self) -> Vec<(Arc<str>, Tally)> {
        let mut found = Vec::new();
        for first in self.families.values() {
            let mut sum = Tally::default();
            let routes = self.methods[*first as usize].routes.clone();
            for route in routes {
                let method = &mut self.methods[route as usize];
                let tally = std::mem::take(&mut method.tally);
                method.totals.taken.add(&tally);
                sum.add(&tally);
            }
            // A gate is told of as long as there is one.
            if !sum.is_empty() || self.gate(*first).permits.is_some() {
                found.push((Arc::clone(&self.methods[*first as usize].path), sum));
            }
        }
        found
    }

    /// Fresh outcomes since this or figures were asked for last, by method, where there are some or a gate is.
    pub(crate) fn take_fresh(&mut self) -> Vec<(Arc<str>, [u64; 17])> {
        let mut found = Vec::new();
        for (path, first) in &self.families {
            let mut sum = Tally::default();
            for at in 0..self.methods[*first as usize].routes.len() {
                let route = self.methods[*first as usize].routes[at];
                let tally = &mut self.methods[route as usize].tally;
                tally.ill = 0;
                let fresh = std::mem::take(&mut tally.fresh);
                sum.add(&Tally {
                    fresh,
                    ..Tally::default()
                });
            }
            let gated = self.methods[*first as usize].gate.permits.is_some();
            if gated || sum.fresh.iter().any(|count| *count > 0) {
                found.push((Arc::clone(path), sum.fresh));
            }
        }
        found
    }

    /// How many attempts the gate of a method lets begin; `None`: there is none.
    pub(crate) fn permits(&self, method: &str) -> Option<u32> {
        self.find(method)
            .and_then(|number| self.gate(number).permits)
    }

    fn queue_or_new(&mut self, name: &Arc<str>) -> u32 {
        if let Some(queue) = self.by_name.get(name) {
            return *queue;
        }
        let queue = self.queues.len() as u32;
        let entry = Queue {
            name: Arc::clone(name),
            paused: None,
            methods: BTreeSet::new(),
            unfinished: 0,
            weight: 1,
        };
        self.queues.push(entry);
        self.by_name.insert(Arc::clone(name), queue);
        queue
    }

    /// Pauses a queue, or resumes it without a reason.
    pub(crate) fn pause(&mut self, name: &Arc<str>, reason: Option<&Arc<str>>) {
        let queue = self.queue_or_new(name);
        self.queues[queue as usize].paused = reason.cloned();
        if reason.is_none() {
            let methods: Vec<u32> = self.queues[queue as usize]
                .methods
                .iter()
                .copied()
                .collect();
            for method in methods {
                self.wake_method(method);
            }
        }
    }

    pub(super) fn wake_method(&mut self, number: u32) {
        let method = &self.methods[number as usize];
        for priority in 0..=PRIORITY_MAX {
            if !method.ready[usize::from(priority)].is_empty() {
                self.woken.push((number, priority));
            }
        }
    }

    /// The number of a method.
    pub(crate) fn find(&self, path: &str) -> Option<u32> {
        self.by_path.get(path).copied()
    }

    pub(crate) fn get(&self, number: u32) -> &Method {
        &self.methods[number as usize]
    }

    pub(crate) fn policy(&self, number: u32) -> &MethodPolicy {
        &self.methods[number as usize].policy
    }

    /// How long finished tasks of a method are kept, ms.
    pub(crate) fn retention_ms(&self, number: u32, dead_letter: bool) -> u64 {
        let policy = self.policy(number);
        if dead_letter {
            policy.dead_letter_retention_ms
        } else {
            policy.retention_ms
        }
    }

    pub(crate) fn queue_of(&self, number: u32) -> &Queue {
        &self.queues[self.methods[number as usize].queue as usize]
    }

    /// Whether READY tasks of the method are shown as PARKED.
    pub(crate) fn is_parked(&self, number: u32) -> bool {
        self.is_paused(number) || self.gate(number).permits == Some(0)
    }

    fn is_paused(&self, number: u32) -> bool {
        self.queue_of(number).paused.is_some()
            && !crate::mutant::is(crate::mutant::Mutant::PausedDispatches)
    }

    /// Whether a task of the method that stands in a ready list may start now.
    pub(crate) fn may_start(&self, number: u32) -> bool {
        !self.is_barred(number) && !self.is_paused(number)
    }

    /// Whether the first task of a ready list may start now; there may be none.
    pub(crate) fn may_start_first(&self, number: u32, priority: u8) -> bool {
        self.first_ready(number, priority) != NONE && self.may_start(number)
    }

    /// Whether a gate or a limit lets no attempt of the method begin.
    pub(crate) fn is_barred(&self, number: u32) -> bool {
        self.get(number).barred
    }

    /// About how many tasks of the method can start now, if it may start any.
    pub(crate) fn startable(&self, number: u32, now: Millis) -> u64 {
        let method = self.get(number);
        if !method.restrained {
            return method.ready_count;
        }
        let ready = method.ready_count.saturating_sub(method.held.iter().sum());
        let gate = self.gate(number).permits.map_or(u64::MAX, u64::from);
        let limiter = self.limiters.slab.get(method.limiter);
        let limit = limiter.map_or(u64::MAX, |limiter| limiter.permits(now));
        ready.min(gate).min(limit)
    }

    /// READY tasks of a route that a limit holds, by why; none while they are PARKED.
    pub(crate) fn held(&self, number: u32) -> [u64; HeldBy::ALL.len()] {
        let method = self.get(number);
        let limiter = self.limiters.slab.get(method.limiter);
        match limiter.and_then(|limiter| limiter.held) {
            _ if self.is_parked(number) => [0; HeldBy::ALL.len()],
            None => method.held,
            Some(why) => {
                let mut held = [0; HeldBy::ALL.len()];
                held[why as usize] = method.ready_count;
                held
            }
        }
    }

    /// Finds out anew what keeps attempts of a method from beginning.
    pub(super) fn restrain(&mut self, family: u32) {
        let first = self.get(family);
        let permits = first.gate.permits;
        let limiter = self.limiters.slab.get(first.limiter);
        let held = limiter.is_some_and(|limiter| limiter.held.is_some());
        let restrained = permits.is_some() || limiter.is_some();
        let barred = permits == Some(0) || held;
        for at in 0..first.routes.len() {
            let route = self.get(family).routes[at];
            let method = &mut self.methods[route as usize];
            method.restrained = restrained;
            if std::mem::replace(&mut method.barred, barred) && !barred {
                self.wake_method(route);
            }
        }
    }

    pub(crate) fn gate(&self, number: u32) -> &Gate {
        &self.get(self.family_of(number)).gate
    }

    /// An attempt of the method begins.
    pub(crate) fn take_permit(&mut self, number: u32) {
        let family = self.family_of(number);
        if let Some(left) = &mut self.methods[family as usize].gate.permits {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.restrain(family);
            }
        }
    }

    /// Sets how many attempts of a method may begin, by whatever route. The number that stands for it.
    pub(crate) fn set_gate(
        &mut self,
        number: u32,
        permits: Option<u32>,
        since: Token,
        until: Millis,
    ) -> u32 {
        let family = self.family_of(number);
        let gate = &mut self.methods[family as usize].gate;
        // Said again, it goes on.
        let again = gate.permits.is_none() && permits.is_none();
        gate.until = until;
        if again {
            return family;
        }
        gate.permits = permits;
        gate.probing = permits.is_some_and(|permits| permits > 0);
        gate.since = since;
        for route in self.routes(family).to_vec() {
            let tally = &mut self.methods[route as usize].tally;
            (tally.fresh, tally.ill) = ([0; 17], 0);
        }
        self.restrain(family);
        family
    }

    /// An attempt ended. At a worker that is lost or closed off, it says nothing of the method: as if it was cancelled.
    /// Whether so many fail that breakers must know.
    pub(crate) fn count_outcome(
        &mut self,
        number: u32,
        token: Token,
        (code, says_nothing): (u32, bool),
        busy_ms: u64,
    ) -> bool {
        let gate = self.gate(number);
        let (fresh, gated) = (token >= gate.since, gate.permits.is_some());
        let tally = &mut self.methods[number as usize].tally;
        let code = (code as usize).min(16);
        tally.outcomes[code] += 1;
        tally.fresh[if says_nothing { CANCELLED } else { code }] += u64::from(fresh);
        tally.busy_ms += busy_ms;
        if gated || says_nothing || Verdict::of(code as u32) != Verdict::Ill {
            return false;
        }
        tally.ill += 1;
        tally.ill >= FAILURES_MIN && tally.ill * SHARE >= tally.fresh.iter().sum()
    }

    /// One task more in a state.
    pub(crate) fn count(&mut self, number: u32, state: TaskState) {
        let method = &mut self.methods[number as usize];
        method.counts[state as usize] += 1;
        if !state.is_final() {
            self.queues[method.queue as usize].unfinished += 1;
        }
    }

    /// Counts finished tasks that are in no table.
    pub(crate) fn count_archived(&mut self, group: &Group) {
        let method = &mut self.methods[group.method as usize];
        method.counts[group.state as usize] += group.count;
        if group.dead_letter {
            method.dead_letters += group.count;
        }
    }

    /// Such tasks are forgotten.
    pub(crate) fn discount_archived(&mut self, group: &Group) {
        let method = &mut self.methods[group.method as usize];
        let count = &mut method.counts[group.state as usize];
        debug_assert!(*count >= group.count, "archived tasks stay counted");
        *count = count.saturating_sub(group.count);
        if group.dead_letter {
            method.dead_letters = method.dead_letters.saturating_sub(group.count);
        }
    }

    /// One task less in a state.
    pub(crate) fn discount(&mut self, number: u32, state: TaskState) {
        let method = &mut self.methods[number as usize];
        debug_assert!(
            method.counts[state as usize] > 0,
            "a counted task leaves {state:?}"
        );
        method.counts[state as usize] = method.counts[state as usize].saturating_sub(1);
        if !state.is_final() {
            let queue = &mut self.queues[method.queue as usize];
            queue.unfinished = queue.unfinished.saturating_sub(1);
        }
    }

    /// The first task of a ready list, or NONE: also while it may belong to the other side.
    pub(crate) fn first_ready(&self, number: u32, priority: u8) -> u32 {
        self.methods.get(number as usize).map_or(NONE, |method| {
            let at = usize::from(priority.min(PRIORITY_MAX));
            let first = method.ready[at].first;
            if first == method.unsorted[at].first {
                NONE
            } else {
                first
            }
        })
    }
}

/// A new method, or a further list of one.
fn method(policy: MethodPolicy, queue: u32, names: (Arc<str>, u32), route: u32) -> Method {
    let (path, family) = names;
    Method {
        path,
        family,
        routes: Vec::new(),
        policy,
        queue,
        ready: [List::default(); PRIORITIES],
        turns: None,
        ready_count: 0,
        held: [0; HeldBy::ALL.len()],
        waiting: Waiting::default(),
        limiter: NONE,
        keyed: false,
        restrained: false,
        barred: false,
        counts: [0; STATES],
        dead_letters: 0,
        tally: Tally::default(),
        totals: Totals::default(),
        gate: Gate::default(),
        cut: None,
        unsorted: [List::default(); PRIORITIES],
        second: NONE,
        route,
    }
}

impl Method {
    /// Tasks that are not final.
    pub(crate) fn unfinished(&self) -> u64 {
        self.counts[..TaskState::Succeeded as usize].iter().sum()
    }

    pub(crate) fn counted(&self, state: TaskState) -> u64 {
        self.counts[state as usize]
    }

    /// First tasks of the ready lists that are not empty, and of those that wait for their limit key.
    pub(crate) fn ready_heads(&self) -> impl Iterator<Item = u32> + '_ {
        let lists = self.ready.iter().filter(|list| !list.is_empty());
        lists.map(|list| list.first).chain(self.waiting.oldest())
    }
}
