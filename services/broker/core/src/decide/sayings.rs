//! What breakers go by: how attempts ended since the gates were set, of methods and of workers. It is told with all
//! figures, and early where a method begins to fail.

use crate::partition::{Figures, MethodFigures, Partition, WorkerFigures, WorkerSaid};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Partition {
    /// Figures of nothing else.
    pub(crate) fn early_figures(&mut self) -> Figures {
        let fresh = self.state.methods.take_fresh().into_iter();
        let methods = &self.state.methods;
        let figures = |(method, fresh): (Arc<str>, [u64; 17])| MethodFigures {
            submitted: 0,
            outcomes: [0; 17],
            fresh,
            permits: methods.permits(&method),
            retried: 0,
            busy_ms: 0,
            method,
        };
        let methods: Vec<MethodFigures> = fresh.map(figures).collect();
        let workers = &self.live.workers;
        let told = workers.by_id.values().map(|number| &workers.slab[*number]);
        let told = told.filter(|worker| worker.gate.permits.is_some() || !worker.said.is_empty());
        let figures = told.map(|worker| WorkerFigures {
            worker: Arc::clone(&worker.id),
            slots: worker.slots,
            window: worker.window(),
            in_flight: worker.in_flight(),
            suspended: worker.suspended,
            succeeded: 0,
            failed: 0,
            busy_ms: 0,
            said: WorkerSaid::default(),
        });
        let mut workers: Vec<WorkerFigures> = figures.collect();
        self.take_sayings(&mut workers, &methods);
        Figures {
            workers,
            splits: Vec::new(),
            queues: Vec::new(),
            methods,
            lost: Vec::new(),
        }
    }

    /// Takes what was said of workers since this was asked for last. What was said of a method that figures do not
    /// tell of is dropped: its gate was set meanwhile.
    pub(crate) fn take_sayings(
        &mut self,
        workers: &mut [WorkerFigures],
        methods: &[MethodFigures],
    ) {
        let places: BTreeMap<&str, u32> = (0..)
            .zip(methods)
            .map(|(place, told)| (&*told.method, place))
            .collect();
        for figures in workers {
            let Some(number) = self.live.workers.by_id.get(&figures.worker) else {
                continue;
            };
            let worker = &mut self.live.workers.slab[*number];
            let said = std::mem::take(&mut worker.said);
            // Routes of one method count together.
            let mut sums: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            for each in said.methods {
                if let Some(place) = places.get(&*self.state.methods.get(each.method).path) {
                    let (well, ill) = sums.entry(*place).or_default();
                    *well += each.well;
                    *ill += each.ill;
                }
            }
            let entries = sums.into_iter();
            figures.said = WorkerSaid {
                methods: entries
                    .map(|(place, (well, ill))| (place, well, ill))
                    .collect(),
                nothing: said.nothing,
                permits: worker.gate.permits,
            };
        }
        self.live.failures.told();
    }
}
