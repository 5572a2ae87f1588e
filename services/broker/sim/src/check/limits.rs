//! Limits: no more attempts begin in any time than a rate and its burst allow, and no more run at once than may.

use super::{Checker, Invariant, When};
use crate::history::{Lease, Limits, Method, Submission};
use std::collections::BTreeMap;

/// Attempts that count together: of a method, or of one limit key of it. Tasks without one count together, too.
pub(super) type Group<'a> = (&'a str, Option<Option<&'a str>>);

/// Starts of a group, for the windows that end with the last of them.
#[derive(Debug, Default)]
pub(super) struct Starts {
    count: i128,
    /// The least of `number * period - instant * starts` over all starts: that of the window which is fullest.
    least: Option<i128>,
}

impl Starts {
    /// Takes in a start at a reading of the broker's clock. How many periods' worth of starts the fullest window that
    /// ends with it has over what the rate allows, the burst aside; in units of 1/starts ms.
    fn add(&mut self, limits: &Limits, at: u64) -> i128 {
        let (starts, period) = (i128::from(limits.starts), i128::from(limits.period_ms));
        self.count += 1;
        let weight = self.count * period - i128::from(at) * starts;
        let least = self.least.map_or(weight, |least| least.min(weight));
        self.least = Some(least);
        // A window of one reading has its start and one ms of the rate.
        weight - least + period - starts
    }
}

impl<'a> Checker<'a> {
    /// An attempt began. Only the broker's own clock can tell how close to others.
    pub(super) fn check_rate(
        &mut self,
        lease: &'a Lease,
        submission: &'a Submission,
        method: &'a Method,
    ) {
        let Some((limits, at)) = method.limits.as_ref().zip(lease.broker_at) else {
            return;
        };
        if limits.starts == 0 {
            return;
        }
        let key = limits.rate_by_key.then_some(submission.limit.as_deref());
        let group = (&*method.method, key);
        let over = self.starts.entry(group).or_default().add(limits, at);
        let burst = i128::from(limits.burst) * i128::from(limits.period_ms);
        self.ensure(Invariant::Limited, over <= burst, || {
            let task = lease.task;
            format!("{task:?} begins sooner after others of {group:?} than {limits:?}")
        });
    }

    /// Attempts that ran at the same time for certain: each from when it was granted until its worker first told the
    /// outcome that was accepted, so that its lease lasted for so long.
    pub(super) fn check_running(&mut self) {
        let mut spans: BTreeMap<Group<'a>, (u64, Vec<(When, When)>)> = BTreeMap::new();
        for facts in self.tasks.values() {
            let Some(submission) = self.submission_of(facts) else {
                continue;
            };
            let method = self.methods.get(&*submission.method).copied();
            let Some((method, limits)) =
                method.and_then(|method| Some((method, method.limits.as_ref()?)))
            else {
                continue;
            };
            let key = submission.limit.as_deref();
            let most = [(None, limits.running), (Some(key), limits.running_per_key)];
            for token in &facts.accepted {
                let lease = facts.leases.iter().find(|lease| lease.token == *token);
                let sent = facts.sent.iter().find(|sent| sent.token == *token);
                let Some((from, to)) = lease.zip(sent).map(|(lease, sent)| (lease.at, sent.at))
                else {
                    continue;
                };
                for (key, most) in most.iter().filter(|(_, most)| *most > 0) {
                    let group = spans.entry((&*method.method, *key)).or_default();
                    group.0 = *most;
                    group.1.push((from, to));
                }
            }
        }
        for (group, (most, mut spans)) in spans {
            spans.sort_by_key(|(from, _)| from.position);
            self.check_spans(group, most, &spans);
        }
    }

    fn check_spans(&mut self, group: Group<'a>, most: u64, spans: &[(When, When)]) {
        let mut running: Vec<When> = Vec::new();
        for (from, to) in spans {
            running.retain(|end| self.is_between(*from, *end));
            running.push(*to);
            let count = running.len() as u64;
            self.now = *from;
            self.ensure(Invariant::Limited, count <= most, || {
                format!("{count} of {group:?} run at once, of {most}")
            });
        }
    }

    /// Whether something that began then was going on until the end for certain.
    fn is_between(&self, from: When, end: When) -> bool {
        if self.rules.slack_ms == 0 {
            from.position < end.position
        } else {
            from.at + self.rules.slack_ms < end.at
        }
    }
}
