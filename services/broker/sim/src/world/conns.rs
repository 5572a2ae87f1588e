//! Connections: each way in order, however long it takes; an old one may still deliver when a new one is up.

use super::{Action, World};
use plait_broker_core::command::Command;
use plait_broker_core::effect::Effect;
use plait_broker_core::ids::{ConnId, TaskId, Token};
use std::collections::BTreeMap;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Client(usize),
    Worker(usize),
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) peer: Peer,
    /// Which life of the broker it was made to.
    life: u64,
    /// Until when each way is busy.
    up: u64,
    down: u64,
    /// Whether each side still reads and writes.
    pub(super) peer_open: bool,
    pub(super) broker_open: bool,
    /// Attempts of each frame of outcomes, until it is settled.
    pub(super) outcomes: BTreeMap<u64, Vec<(TaskId, Token)>>,
    /// The submissions of each frame, until it is acknowledged.
    pub(super) frames: BTreeMap<u64, Vec<u64>>,
}

impl World {
    pub(super) fn connect(&mut self, peer: Peer) -> ConnId {
        self.conns.push(Conn {
            peer,
            life: self.life,
            up: self.now,
            down: self.now,
            peer_open: true,
            broker_open: true,
            outcomes: BTreeMap::new(),
            frames: BTreeMap::new(),
        });
        ConnId(self.conns.len() as u64)
    }

    pub(super) fn conn(&mut self, conn: ConnId) -> &mut Conn {
        &mut self.conns[conn.0 as usize - 1]
    }

    /// A peer sends.
    pub(super) fn send_up(&mut self, conn: ConnId, command: Command) {
        let way = self.way();
        let now = self.now;
        let entry = self.conn(conn);
        if !entry.peer_open {
            return;
        }
        entry.up = (entry.up + 1).max(now + way);
        let at = entry.up;
        self.at(at, Action::Up(conn, command));
    }

    /// The broker sends.
    pub(super) fn send_down(&mut self, conn: ConnId, effect: Effect) {
        let way = self.way();
        let now = self.now;
        let entry = self.conn(conn);
        if !entry.broker_open {
            return;
        }
        entry.down = (entry.down + 1).max(now + way);
        let at = entry.down;
        self.at(at, Action::Down(conn, effect));
    }

    /// The peer's side of a connection ends, after what is on its way to it.
    pub(super) fn end_peer(&mut self, conn: ConnId) {
        let way = self.way();
        let now = self.now;
        let entry = self.conn(conn);
        entry.down = (entry.down + 1).max(now + way);
        let at = entry.down;
        self.at(at, Action::PeerLost(conn));
    }

    /// The broker's side notices that the peer is gone, after what is on its way.
    pub(super) fn end_broker(&mut self, conn: ConnId, delay: u64) {
        let now = self.now;
        let entry = self.conn(conn);
        entry.up = (entry.up + 1).max(now + delay);
        let at = entry.up;
        self.at(at, Action::BrokerLost(conn));
    }

    /// Whether what comes over a connection reaches the broker that it was made to.
    pub(super) fn reaches(&self, conn: ConnId) -> bool {
        let entry = &self.conns[conn.0 as usize - 1];
        entry.broker_open && entry.life == self.life && self.broker.is_some()
    }

    pub(super) fn is_of_this_life(&self, conn: ConnId) -> bool {
        self.conns[conn.0 as usize - 1].life == self.life
    }

    /// Both sides lose a connection, each in its time.
    pub(super) fn cut(&mut self, conn: ConnId) {
        let delay = self.dice.span(100_000);
        let way = self.dice.span(20_000);
        self.end_broker(conn, delay);
        let at = self.now + way;
        self.at(at, Action::PeerLost(conn));
    }

    /// The broker is gone: nothing is read from any stream, and each peer learns it in its time.
    pub(super) fn end_all(&mut self) {
        let open: Vec<ConnId> = (1..=self.conns.len() as u64)
            .map(ConnId)
            .filter(|conn| self.conns[conn.0 as usize - 1].broker_open)
            .collect();
        for conn in open {
            self.conn(conn).broker_open = false;
            self.end_peer(conn);
        }
    }

    fn way(&mut self) -> u64 {
        self.dice.span(self.plan.way)
    }
}
