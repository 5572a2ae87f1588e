//! Which worker a call goes to: a version by the route's shares, then of two of its workers the one with fewer calls.
//! Those that are left out for a while get calls only where nobody else is there.

use super::directory::{Cluster, Directory, View};
use super::health::Health;
use super::peer::{Counted, Peer, Sender, State};
use crate::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tonic::{Code, Status};

/// A worker that was chosen for one attempt.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) peer: Arc<Peer>,
    pub(super) sender: Sender,
    health: Option<Arc<Health>>,
    _at_peer: Counted,
    _at_cluster: Counting,
}

impl Chosen {
    /// The attempt ended, as far as the worker is concerned.
    pub(super) fn ended(&self, code: Code) {
        if let Some(health) = &self.health {
            health.report(self.peer.address, code);
        }
    }
}

/// A call under way to a version.
#[derive(Debug)]
struct Counting(Arc<AtomicU32>);

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a look at a cluster finds.
enum Found {
    Ready(Box<Chosen>),
    /// Connections are being made.
    Wait,
    /// Why nobody can be called.
    Nobody(Status),
}

/// Chooses a worker for a call of a method, if possible none of those in `tried`. Waits for connections that are being
/// made. UNAVAILABLE where nobody serves the method, or nobody of them can be reached.
pub(super) async fn choose(
    directory: &Directory,
    path: &str,
    tried: &[Arc<Peer>],
) -> Result<Chosen, Status> {
    let service = service_of(path);
    // Drawn once, so that who waits does not wander between versions.
    let drawn = clock::random_ppm();
    loop {
        let mut changes = directory.changes();
        let view = directory.view(service).await?;
        match look(&view, path, tried, drawn) {
            Found::Ready(chosen) => return Ok(*chosen),
            Found::Nobody(status) => return Err(status),
            Found::Wait => {}
        }
        if changes.changed().await.is_err() {
            return Err(Status::cancelled("the client is closed"));
        }
    }
}

/// "package.Service" of "/package.Service/Method".
pub(super) fn service_of(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').map_or(path, |(service, _)| service)
}

fn look(view: &View, path: &str, tried: &[Arc<Peer>], drawn: u32) -> Found {
    let Some(route) = view.service.route(path) else {
        return Found::Nobody(Status::unavailable(format!(
            "nobody serves {path}: no worker of it listens for direct calls"
        )));
    };
    let name = share(&route.weights, drawn);
    let Some(cluster) = view.clusters.get(name) else {
        return Found::Nobody(Status::unavailable(format!("nobody serves {name}")));
    };
    let mut ready = Vec::new();
    let mut waits = false;
    let mut why = None;
    for peer in &cluster.peers {
        match peer.state() {
            State::Ready(sender) => ready.push((peer, sender)),
            State::Connecting => waits = true,
            State::Failing(error) => why = Some((peer.address, error)),
        }
    }
    let out = cluster.health.as_ref().map(|health| health.out());
    let out = out.unwrap_or_default();
    let well = |each: &(&Arc<Peer>, Sender)| !out.contains(&each.0.address);
    if !out.is_empty() && ready.iter().any(well) {
        ready.retain(well);
    }
    let fresh = |each: &(&Arc<Peer>, Sender)| !tried.iter().any(|peer| Arc::ptr_eq(peer, each.0));
    if ready.iter().any(fresh) {
        ready.retain(fresh);
    }
    match (two(ready, drawn), why) {
        (Some((peer, sender)), _) => count(cluster, name, Arc::clone(peer), sender),
        (None, _) if waits => Found::Wait,
        (None, Some((address, error))) => Found::Nobody(Status::unavailable(format!(
            "no worker of {name} can be reached; {address}: {error}"
        ))),
        (None, None) => Found::Nobody(Status::unavailable(format!("{name} has no worker"))),
    }
}

/// The cluster whose share a number of millionths falls into.
fn share(weights: &[(String, u32)], drawn: u32) -> &str {
    let sum: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut point = sum * u64::from(drawn) / 1_000_000;
    for (name, weight) in weights {
        match point.checked_sub(u64::from(*weight)) {
            Some(rest) => point = rest,
            None => return name,
        }
    }
    // There is always one: the weights are more than 0 in all, and the number is below one million.
    weights.last().map_or("", |(name, _)| name)
}

/// Of two drawn ones the one with fewer calls under way.
fn two<T>(mut ready: Vec<(&Arc<Peer>, T)>, drawn: u32) -> Option<(&Arc<Peer>, T)> {
    if ready.len() < 2 {
        return ready.pop();
    }
    let number = clock::random_ppm() as usize ^ drawn as usize;
    let first = ready.swap_remove(number % ready.len());
    let second = ready.swap_remove((number / 1_021) % ready.len());
    let calls = |peer: &Arc<Peer>| peer.calls.load(Ordering::Relaxed);
    Some(if calls(second.0) < calls(first.0) {
        second
    } else {
        first
    })
}

/// Takes a place among the calls under way, unless there are as many as may be.
fn count(cluster: &Cluster, name: &str, peer: Arc<Peer>, sender: Sender) -> Found {
    let before = cluster.calls.fetch_add(1, Ordering::Relaxed);
    let counting = Counting(Arc::clone(&cluster.calls));
    if before >= cluster.requests_max {
        return Found::Nobody(Status::unavailable(format!(
            "{before} calls to {name} are under way, which is all that its policy allows"
        )));
    }
    Found::Ready(Box::new(Chosen {
        health: cluster.health.clone(),
        _at_peer: peer.call(),
        peer,
        sender,
        _at_cluster: counting,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_weights() {
        let weights = [
            ("a".to_owned(), 1),
            ("b".to_owned(), 0),
            ("c".to_owned(), 3),
        ];
        for (drawn, want) in [(0, "a"), (249_999, "a"), (250_000, "c"), (999_999, "c")] {
            assert_eq!(share(&weights, drawn), want, "{drawn}");
        }
    }

    #[test]
    fn the_service_of_a_path() {
        assert_eq!(service_of("/shop.v1.Orders/Charge"), "shop.v1.Orders");
        assert_eq!(service_of("odd"), "odd");
    }
}
