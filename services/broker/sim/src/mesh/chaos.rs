//! What is done to a world from outside: time goes on, processes die and come back, links fail.

use std::cell::Cell;
use std::collections::BTreeMap;

use plait_broker_log::sim::Faults;
use turmoil::Sim;

use super::broker::{self, Machine};
use super::desk::Desk;
use super::net::BROKER;
use super::operator::Operator;
use super::story::Story;
use super::submitter::Submitter;
use super::worker::Worker;
use super::{REST_MS, network, panics};
use crate::check::Invariant;
use crate::dice::Dice;
use crate::history::Event;
use crate::world::policies::{METHODS, ONCE, PLAIN, POISON};

pub(super) const KILLS: &str = "broker killed";
pub(super) const POWER_LOSSES: &str = "power lost";
pub(super) const PEER_CRASHES: &str = "client or worker killed";

/// Starts that fail by faults in a row, after which the disk is healed.
const BOOTS_MAX: u64 = 4;

/// Something that is due.
#[derive(Debug, Clone)]
enum Act {
    Fault,
    Boot,
    Return(usize),
    Mend(usize),
    DiskHeals,
    Heal,
}

/// How a link is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// What is sent is lost, both ways.
    Both,
    /// What the peer sends is lost.
    Up,
    /// What the broker sends is lost.
    Down,
    /// What is sent waits.
    Held,
}

/// A host beside the broker.
#[derive(Debug)]
struct Peer {
    name: String,
    up: bool,
    link: Option<Broken>,
}

/// A world and what is done to it.
pub(super) struct Chaos {
    machine: Machine,
    sim: Sim<'static>,
    dice: Dice,
    due: BTreeMap<(u64, u64), Act>,
    numbers: u64,
    peers: Vec<Peer>,
    up: bool,
    boots: u64,
}

impl Chaos {
    pub(super) fn new(machine: &Machine) -> Self {
        let sim = network(machine.seed, &machine.plan);
        let mut chaos = Self {
            machine: machine.clone(),
            sim,
            dice: Dice::new(machine.seed, 12),
            due: BTreeMap::new(),
            numbers: 0,
            peers: Vec::new(),
            up: true,
            boots: 0,
        };
        chaos.add_hosts();
        let plan = &machine.plan;
        if let Some(every) = plan.fault_every {
            let first = chaos.dice.span(every);
            chaos.after(first, Act::Fault);
        }
        chaos.after(plan.chaos, Act::Heal);
        chaos
    }

    fn add_hosts(&mut self) {
        let (machine, next) = (self.machine.clone(), lives());
        self.sim
            .host(BROKER, move || broker::run(machine.clone(), next()));
        let plan = self.machine.plan.clone();
        for number in 0..plan.clients {
            let (machine, next) = (self.machine.clone(), lives());
            let name = format!("c{number}");
            self.peers.push(Peer::new(&name));
            self.sim.host(name.clone(), move || {
                let life = next();
                let dice = Dice::new(machine.seed, 1_000 * (number as u64 + 1) + life);
                let (story, plan) = (machine.story.clone(), machine.plan.clone());
                Submitter::new(story, plan, dice, format!("c{number}.{life}").into()).run()
            });
        }
        for number in 0..plan.workers {
            let (machine, next) = (self.machine.clone(), lives());
            let name = format!("w{number}");
            self.peers.push(Peer::new(&name));
            self.sim
                .host(name.clone(), move || worker(&machine, number, next()).run());
        }
        let machine = self.machine.clone();
        self.peers.push(Peer::new("operator"));
        self.sim.host("operator", move || {
            Operator {
                story: machine.story.clone(),
                plan: machine.plan.clone(),
                dice: Dice::new(machine.seed, 13),
            }
            .run()
        });
    }

    fn now(&self) -> u64 {
        u64::try_from(self.sim.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn after(&mut self, delay: u64, act: Act) {
        self.numbers += 1;
        self.due.insert((self.now() + delay, self.numbers), act);
    }

    fn story<T>(&self, act: impl FnOnce(&mut Story) -> T) -> T {
        self.machine.story.with(act)
    }

    /// Lets the world live until it rests, or something is wrong.
    pub(super) fn live(&mut self) {
        while !self.is_over() {
            if let Err(error) = self.sim.step() {
                let text = format!("a process failed: {error}");
                return self.story(|story| story.wrong(Invariant::Assertion, text));
            }
            let now = self.now();
            self.story(|story| story.now = now);
            self.look_at_broker();
            while let Some(entry) = self.due.first_entry()
                && entry.key().0 <= now
            {
                let act = entry.remove();
                self.act(act);
            }
        }
    }

    fn is_over(&mut self) -> bool {
        for panic in panics() {
            self.story(|story| story.wrong(Invariant::Assertion, panic));
        }
        let now = self.now();
        self.story(|story| {
            let late = story.healing.is_some_and(|since| now > since + REST_MS);
            if late && story.rested.is_none() {
                let waiting: Vec<_> = story.waiting.iter().collect();
                let text = format!("no rest {REST_MS} ms after the last fault; {waiting:?} wait");
                story.wrong(Invariant::EverythingEnds, text);
            }
            story.rested.is_some() || !story.found.is_empty()
        })
    }

    /// A broker whose power went, or whose log failed, is gone.
    fn look_at_broker(&mut self) {
        let ended = self.story(|story| story.ended.take());
        if self.up && (ended.is_some() || self.machine.disk.is_off()) {
            if ended.is_some() {
                self.boots += 1;
                self.machine
                    .story
                    .count("broker stopped by a fault of its disk");
            }
            if self.boots >= BOOTS_MAX {
                self.machine.disk.set_faults(Faults::default());
            }
            self.crash(false);
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Fault => self.fault(),
            Act::Boot => self.boot(),
            Act::Return(peer) => {
                if !self.peers[peer].up {
                    self.peers[peer].up = true;
                    self.sim.bounce(self.peers[peer].name.as_str());
                }
            }
            Act::Mend(peer) => self.mend(peer),
            Act::DiskHeals => self.machine.disk.set_faults(Faults::default()),
            Act::Heal => self.heal(),
        }
    }

    /// One fault, of a kind that this seed knows.
    fn fault(&mut self) {
        let (Some(every), false) = (
            self.machine.plan.fault_every,
            self.story(|story| story.healing.is_some()),
        ) else {
            return;
        };
        let next = self.dice.span(every);
        self.after(next, Act::Fault);
        let plan = &self.machine.plan;
        let weights = [
            plan.crash,
            plan.power,
            plan.power / 2,
            plan.link,
            plan.peer,
            plan.disk_fault,
        ];
        let mut drawn = self.dice.below(weights.iter().sum());
        let kind = weights.iter().position(|weight| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        match kind {
            Some(0) => self.crash(false),
            Some(1) => self.crash(true),
            // The power goes in the midst of one of the next changes of the disk.
            Some(2) => self.machine.disk.cut_power_at(self.dice.below(12)),
            Some(3) => self.break_link(),
            Some(4) => self.kill_peer(),
            Some(5) => {
                self.machine.disk.set_faults(self.machine.plan.disk);
                let span = self.dice.span(500);
                self.after(span, Act::DiskHeals);
            }
            _ => {}
        }
    }

    /// The broker dies, in the midst of whatever it does.
    fn crash(&mut self, power: bool) {
        if !self.up {
            return;
        }
        self.up = false;
        let power = power || self.machine.disk.is_off();
        // Without power nobody says goodbye.
        let silent = power && self.dice.permille(600);
        if silent {
            for peer in 0..self.peers.len() {
                self.break_as(peer, Broken::Both);
            }
        }
        self.sim.crash(BROKER);
        if power {
            self.machine.disk.crash();
        } else {
            self.machine.disk.kill();
        }
        self.machine.seen.take();
        self.story(|story| {
            story.ended = None;
            story.count(if power { POWER_LOSSES } else { KILLS });
            story.tell(Event::Crash {
                what: "broker".into(),
            });
        });
        let down = if self.dice.permille(50) { 5_000 } else { 150 };
        let down = self.dice.span(down);
        self.after(down, Act::Boot);
    }

    fn boot(&mut self) {
        if self.up {
            return;
        }
        self.up = true;
        for peer in 0..self.peers.len() {
            self.mend(peer);
        }
        let healing = self.story(|story| story.healing.is_some());
        if !healing && self.dice.permille(60) {
            self.machine.disk.cut_power_at(self.dice.below(25));
        }
        self.sim.bounce(BROKER);
    }

    fn break_link(&mut self) {
        let Some(peer) = self.dice.index(self.peers.len()) else {
            return;
        };
        let how = [Broken::Both, Broken::Up, Broken::Down, Broken::Held];
        let how = how[self.dice.below(4) as usize];
        self.break_as(peer, how);
        let long = self.dice.permille(200);
        let span = self.dice.span(if long { 12_000 } else { 1_500 });
        self.after(span, Act::Mend(peer));
    }

    fn break_as(&mut self, number: usize, how: Broken) {
        let peer = &mut self.peers[number];
        if peer.link.is_some() {
            return;
        }
        peer.link = Some(how);
        let name = peer.name.as_str();
        let what = match how {
            Broken::Both => {
                self.sim.partition(name, BROKER);
                "links partitioned"
            }
            Broken::Up => {
                self.sim.partition_oneway(name, BROKER);
                "links partitioned one way"
            }
            Broken::Down => {
                self.sim.partition_oneway(BROKER, name);
                "links partitioned one way"
            }
            Broken::Held => {
                self.sim.hold(name, BROKER);
                "links held"
            }
        };
        self.machine.story.count(what);
    }

    fn mend(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        let name = peer.name.as_str();
        match peer.link.take() {
            Some(Broken::Held) => self.sim.release(name, BROKER),
            Some(Broken::Both) => self.sim.repair(name, BROKER),
            Some(Broken::Up) => self.sim.repair_oneway(name, BROKER),
            Some(Broken::Down) => self.sim.repair_oneway(BROKER, name),
            None => {}
        }
    }

    /// A client or a worker dies; the operator lives.
    fn kill_peer(&mut self) {
        let Some(number) = self.dice.index(self.peers.len() - 1) else {
            return;
        };
        if !self.peers[number].up {
            return;
        }
        self.peers[number].up = false;
        let name = self.peers[number].name.clone();
        self.machine.story.count(PEER_CRASHES);
        self.machine.story.tell(Event::Crash {
            what: name.as_str().into(),
        });
        self.sim.crash(name);
        let span = self.dice.span(400);
        self.after(span, Act::Return(number));
    }

    /// The faults are over.
    fn heal(&mut self) {
        let now = self.now();
        self.story(|story| story.healing = Some(now));
        self.machine.disk.set_faults(Faults::default());
        for peer in 0..self.peers.len() {
            self.mend(peer);
            self.act(Act::Return(peer));
        }
        self.boot();
    }
}

impl Peer {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            up: true,
            link: None,
        }
    }
}

/// Counts the lives of a host, from 1.
fn lives() -> impl Fn() -> u64 {
    let life = Cell::new(0);
    move || {
        life.set(life.get() + 1);
        life.get()
    }
}

fn worker(machine: &Machine, number: usize, life: u64) -> Worker {
    let mut dice = Dice::new(machine.seed, 100_000 * (number as u64 + 1) + life);
    let sets: [&[&'static str]; 3] = [&METHODS, &[PLAIN, POISON], &[ONCE, PLAIN]];
    // The first can do everything, so that all comes to its end.
    let set = if number == 0 {
        0
    } else {
        dice.below(3) as usize
    };
    let methods = sets[set].to_vec();
    let name: crate::history::Name = format!("w{number}.{life}").into();
    let slots = dice.range(1, 8) as u32;
    let (story, plan) = (machine.story.clone(), machine.plan.clone());
    let desk = Desk::new(story.clone(), plan, dice, name.clone(), methods.clone());
    Worker {
        story,
        name,
        methods,
        slots,
        desk,
    }
}
