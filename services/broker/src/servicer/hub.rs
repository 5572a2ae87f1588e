//! What the scheduler sees: workers attached, contracts that wait, and who the scheduler is.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plait::pb::control::v1::observe_response::Event;
use plait::pb::control::v1::{ContractAnnounced, ObserveResponse, WorkerAttached, WorkerDetached};
use plait::pb::v1::MethodInfo;
use plait_broker_core::ids::ConnId;
use tokio::sync::{mpsc, oneshot};

use crate::status::Refused;

/// Events that may wait for the scheduler; beyond them it is cut and comes again.
const EVENTS_MAX: usize = 4096;

/// Contracts that may wait for a decision.
const ANNOUNCEMENTS_MAX: usize = 1024;

/// What an announcement led to.
pub(super) type Verdict = Result<Vec<MethodInfo>, Refused>;

/// The scheduler's side of the broker. Nothing here survives a restart, and nothing has to: workers attach again, and
/// contracts that waited are announced again.
#[derive(Debug, Default)]
pub struct Hub {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    observer: Option<Observer>,
    workers: BTreeMap<String, (ConnId, WorkerAttached)>,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Observer {
    number: u64,
    events: mpsc::Sender<ObserveResponse>,
}

/// A contract that waits for a decision.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) announced: ContractAnnounced,
    pub(super) callers: Vec<oneshot::Sender<Verdict>>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn emit(&mut self, event: Event) {
        let Some(observer) = &self.observer else {
            return;
        };
        let sent = observer
            .events
            .try_send(ObserveResponse { event: Some(event) });
        if sent.is_err() {
            tracing::warn!("the scheduler does not read: its stream is ended");
            self.observer = None;
        }
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the caller the scheduler: the state as it is, then what happens. An older stream ends.
    pub(super) fn observe(&self) -> (u64, mpsc::Receiver<ObserveResponse>) {
        let mut state = self.lock();
        let number = state.number();
        let (events, receiver) = mpsc::channel(EVENTS_MAX + state.workers.len());
        state.observer = Some(Observer { number, events });
        let workers: Vec<_> = state.workers.values().map(|(_, w)| w.clone()).collect();
        let waiting: Vec<_> = state
            .waiting
            .values()
            .map(|w| w.announced.clone())
            .collect();
        workers
            .into_iter()
            .for_each(|worker| state.emit(Event::WorkerAttached(worker)));
        waiting
            .into_iter()
            .for_each(|contract| state.emit(Event::ContractAnnounced(contract)));
        (number, receiver)
    }

    /// The scheduler of this number is gone.
    pub(super) fn observer_gone(&self, number: u64) {
        let mut state = self.lock();
        if state
            .observer
            .as_ref()
            .is_some_and(|observer| observer.number == number)
        {
            state.observer = None;
        }
    }

    /// Whether a scheduler is there.
    pub(super) fn is_observed(&self) -> bool {
        self.lock().observer.is_some()
    }

    pub(super) fn worker_attached(&self, conn: ConnId, attached: WorkerAttached) {
        let mut state = self.lock();
        state
            .workers
            .insert(attached.worker.clone(), (conn, attached.clone()));
        state.emit(Event::WorkerAttached(attached));
    }

    /// A worker takes no more: who calls it directly is to look elsewhere, before it stops to listen.
    pub(super) fn worker_draining(&self, conn: ConnId) {
        let mut state = self.lock();
        let found = state.workers.values_mut().find(|(of, _)| *of == conn);
        let told = found.and_then(|(_, attached)| {
            let listened = !std::mem::take(&mut attached.endpoint).is_empty();
            listened.then(|| attached.clone())
        });
        if let Some(attached) = told {
            state.emit(Event::WorkerAttached(attached));
        }
    }

    /// A worker's stream is gone. Told only if no newer stream of the worker is there.
    pub(super) fn worker_detached(&self, worker: &str, conn: ConnId, reason: &str) {
        let mut state = self.lock();
        if state
            .workers
            .get(worker)
            .is_some_and(|(current, _)| *current == conn)
        {
            state.workers.remove(worker);
            let (worker, reason) = (worker.to_owned(), reason.to_owned());
            state.emit(Event::WorkerDetached(WorkerDetached { worker, reason }));
        }
    }

    /// Announces a contract to the scheduler. The same contract announced twice is decided once. None: too many wait.
    pub(super) fn announce(
        &self,
        mut announced: ContractAnnounced,
    ) -> Option<oneshot::Receiver<Verdict>> {
        let (caller, verdict) = oneshot::channel();
        let mut state = self.lock();
        let same = state.waiting.values_mut().find(|waiting| {
            announced.announcement = waiting.announced.announcement;
            waiting.announced == announced
        });
        if let Some(waiting) = same {
            waiting.callers.retain(|caller| !caller.is_closed());
            waiting.callers.push(caller);
            return Some(verdict);
        }
        if state.waiting.len() >= ANNOUNCEMENTS_MAX {
            state
                .waiting
                .retain(|_, w| w.callers.iter().any(|caller| !caller.is_closed()));
            if state.waiting.len() >= ANNOUNCEMENTS_MAX {
                return None;
            }
        }
        let announcement = state.number();
        announced.announcement = announcement;
        let waiting = Waiting {
            announced: announced.clone(),
            callers: vec![caller],
        };
        state.waiting.insert(announcement, waiting);
        state.emit(Event::ContractAnnounced(announced));
        Some(verdict)
    }

    /// The contract of an announcement that is being decided.
    pub(super) fn announced(&self, announcement: u64) -> Option<ContractAnnounced> {
        self.lock()
            .waiting
            .get(&announcement)
            .map(|waiting| waiting.announced.clone())
    }

    /// Tells those who wait for it.
    pub(super) fn decided(&self, announcement: u64, verdict: &Verdict) {
        let Some(waiting) = self.lock().waiting.remove(&announcement) else {
            return;
        };
        for caller in waiting.callers {
            // A caller that gave up asks again and is answered from the record.
            let _ = caller.send(verdict.clone());
        }
    }
}
