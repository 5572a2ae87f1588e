//! Attached workers: their streams, windows and what they hold. All of it ends with the process.

use super::classes::Classes;
use super::reserve::Offer;
use super::worker_gate::{Sayings, WorkerGate};
use crate::effect::Attempt;
use crate::ids::ConnId;
use crate::policy::Latency;
use crate::record::Start;
use crate::state::slab::{NONE, Slab};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Requests that a worker was sent and has not received may have so many bytes before it gets no more: its stream
/// is cut where far more than that waits on it.
const UNREAD_BYTES_MAX: u64 = 8 << 20;

/// The load of workers without a free slot is this or more.
pub(crate) const FULL: u32 = 1 << 31;

/// One attached worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) conn: ConnId,
    pub(crate) id: Arc<str>,
    /// The workers that serve the same methods.
    pub(crate) class: u32,
    /// For each method of the class its index in the worker's own list.
    pub(crate) positions: Vec<u32>,
    pub(crate) slots: u32,
    /// As the scheduler set it.
    pub(crate) window: Option<u32>,
    pub(crate) draining: bool,
    pub(crate) gate: WorkerGate,
    pub(crate) said: Sayings,
    /// Unfinished attempts by latency class, suspended flows not counted.
    in_flight: [u32; Latency::ALL.len()],
    pub(crate) suspended: u32,
    /// Number of the last frame of attempts.
    pub(crate) sent: u64,
    /// Number of the last frame it received.
    pub(crate) accepted: u64,
    /// Bytes of what it was sent since it had last received everything.
    unread_bytes: u64,
    /// The first of its leases.
    pub(crate) first_lease: u32,
    /// What its class knows of it.
    offer: Offer,
    /// Its place among the hungry ones of its class.
    pub(crate) hungry: Option<(u32, u64)>,
    /// Its room changed since it was given its place.
    stale: bool,
    /// When it was served last, as a counter.
    pub(crate) served: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) busy_ms: u64,
    /// What this step gives it.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) starts: Vec<Start>,
    /// Of its program.
    pub(crate) version: Arc<str>,
    /// Numbers of the methods that it announced, in its order.
    pub(crate) routes: Vec<u32>,
    /// It is counted among those who take tasks.
    pub(crate) taking: bool,
}

/// A worker that just attached.
pub(crate) fn attached(conn: ConnId, id: Arc<str>, class: u32, positions: Vec<u32>) -> Worker {
    Worker {
        conn,
        id,
        class,
        positions,
        slots: 1,
        window: None,
        draining: false,
        gate: WorkerGate::default(),
        said: Sayings::default(),
        in_flight: [0; Latency::ALL.len()],
        suspended: 0,
        sent: 0,
        accepted: 0,
        unread_bytes: 0,
        first_lease: NONE,
        offer: Offer::default(),
        hungry: None,
        stale: false,
        served: 0,
        succeeded: 0,
        failed: 0,
        busy_ms: 0,
        attempts: Vec::new(),
        starts: Vec::new(),
        version: "".into(),
        routes: Vec::new(),
        taking: false,
    }
}

impl Worker {
    /// Unfinished attempts it may hold: twice its slots, so that a slot never waits for a round trip, or less.
    pub(crate) fn window(&self) -> u32 {
        let most = self.slots.saturating_mul(2);
        self.window.unwrap_or(most).clamp(1, most.max(1))
    }

    /// Unfinished attempts, suspended flows not counted.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.iter().sum()
    }

    /// What counts an attempt: one of a flow that waits, or one of a latency class.
    pub(crate) fn counter(&mut self, waiting: bool, latency: Latency) -> &mut u32 {
        if waiting {
            &mut self.suspended
        } else {
            &mut self.in_flight[latency as usize]
        }
    }

    /// Attempts it runs at once.
    fn effective_slots(&self) -> u32 {
        self.slots.min(self.window())
    }

    /// Attempts it may be given that begin at once.
    pub(crate) fn free_slots(&self) -> u32 {
        let free = self.effective_slots().saturating_sub(self.in_flight());
        self.gate.permits.map_or(free, |permits| free.min(permits))
    }

    /// What it brings to its class. One that drains is none of it any more, and one with a gate is not for now: what is
    /// critical would not find a slot there.
    fn offered(&self) -> Offer {
        if self.draining || self.gate.permits.is_some() {
            return Offer::default();
        }
        Offer {
            slots: self.effective_slots(),
            in_flight: self.in_flight,
        }
    }

    /// Attempts it may be given now.
    pub(crate) fn room(&self) -> u32 {
        if self.draining || self.unread_bytes >= UNREAD_BYTES_MAX {
            0
        } else {
            let room = self.window().saturating_sub(self.in_flight());
            self.gate.permits.map_or(room, |permits| room.min(permits))
        }
    }

    /// Counts an attempt that it is about to be sent.
    pub(crate) fn sends(&mut self, bytes: u64) {
        self.unread_bytes += bytes;
    }

    /// It received what it was sent up to this frame. Whether it has room again that it did not have.
    pub(crate) fn receives(&mut self, sequence: u64) -> bool {
        self.accepted = self.accepted.max(sequence.min(self.sent));
        if self.accepted < self.sent {
            return false;
        }
        std::mem::take(&mut self.unread_bytes) >= UNREAD_BYTES_MAX
    }

    /// Those with a free slot come before those that are given work ahead.
    fn load(&self) -> u32 {
        let load = u64::from(self.in_flight()) * 1_000_000 / u64::from(self.window());
        let full = if self.free_slots() == 0 { FULL } else { 0 };
        full | u32::try_from(load).unwrap_or(u32::MAX).min(FULL - 1)
    }
}

/// All attached workers.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    pub(crate) slab: Slab<Worker>,
    pub(crate) by_conn: BTreeMap<ConnId, u32>,
    pub(crate) by_id: BTreeMap<Arc<str>, u32>,
    pub(crate) classes: Classes,
    /// Workers with something to send in this step.
    pub(crate) touched: Vec<u32>,
    /// Workers whose room changed.
    stale: Vec<u32>,
}

impl Workers {
    /// Takes a worker in that has no lease yet.
    pub(crate) fn insert(&mut self, worker: Worker) -> u32 {
        let (conn, id) = (worker.conn, Arc::clone(&worker.id));
        let class = worker.class;
        let number = self.slab.insert(worker);
        self.by_conn.insert(conn, number);
        self.by_id.insert(id, number);
        self.classes.joined(class);
        self.refresh(number);
        number
    }

    /// Lets a worker go whose leases have ended.
    pub(crate) fn remove(&mut self, number: u32) {
        self.unlist(number);
        let Some(worker) = self.slab.remove(number) else {
            return;
        };
        let nothing = Offer::default();
        self.classes.replace(worker.class, &worker.offer, &nothing);
        debug_assert_eq!(worker.first_lease, NONE, "leases end before their worker");
        self.by_conn.remove(&worker.conn);
        if self.by_id.get(&worker.id) == Some(&number) {
            self.by_id.remove(&worker.id);
        }
        self.classes.left(worker.class);
    }

    fn unlist(&mut self, number: u32) {
        let worker = &mut self.slab[number];
        if let Some((load, served)) = worker.hungry.take() {
            self.classes.unlist(worker.class, (load, served, number));
        }
    }

    /// The worker, whose room is about to change; it finds its place again before the next dispatch.
    pub(crate) fn changing(&mut self, number: u32) -> &mut Worker {
        let worker = &mut self.slab[number];
        if !worker.stale {
            worker.stale = true;
            self.stale.push(number);
        }
        worker
    }

    /// Finds every worker its place whose room changed.
    pub(crate) fn refresh_stale(&mut self) {
        while let Some(number) = self.stale.pop() {
            if self.slab.get(number).is_some() {
                self.refresh(number);
            }
        }
    }

    /// Tells a worker's class what it brings.
    pub(crate) fn tell(&mut self, number: u32) {
        let worker = &mut self.slab[number];
        let now = worker.offered();
        if now != worker.offer {
            let before = std::mem::replace(&mut worker.offer, now);
            self.classes.replace(worker.class, &before, &now);
        }
    }

    /// Finds a worker its place.
    pub(crate) fn refresh(&mut self, number: u32) {
        self.tell(number);
        let worker = &mut self.slab[number];
        worker.stale = false;
        let wanted = (worker.room() > 0).then(|| (worker.load(), worker.served));
        if worker.hungry == wanted {
            return;
        }
        self.unlist(number);
        let worker = &mut self.slab[number];
        if let Some((load, served)) = wanted {
            worker.hungry = wanted;
            self.classes.feed(worker.class, (load, served, number));
        }
    }

    /// A worker serves something else.
    pub(crate) fn reclass(&mut self, number: u32, class: u32, positions: Vec<u32>) {
        self.unlist(number);
        let worker = &mut self.slab[number];
        let old = std::mem::replace(&mut worker.class, class);
        let offer = std::mem::take(&mut worker.offer);
        worker.positions = positions;
        self.classes.replace(old, &offer, &Offer::default());
        self.classes.joined(class);
        self.classes.left(old);
        self.refresh(number);
    }

    /// The worker of a stream.
    pub(crate) fn of(&self, conn: ConnId) -> Option<u32> {
        self.by_conn.get(&conn).copied()
    }
}
