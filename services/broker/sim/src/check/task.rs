//! What a history told of one task so far.

use super::When;
use crate::history::{Digest, Told};

/// A lease that was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    /// When it was seen.
    pub(super) at: When,
    pub(super) token: u64,
    pub(super) attempt: u32,
}

/// An outcome that a worker told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) at: When,
    pub(super) token: u64,
    pub(super) code: u32,
    pub(super) digest: Option<Digest>,
    pub(super) stop: bool,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    /// The submission that made it.
    pub(super) submission: Option<u64>,
    /// When that was asked for, and first acknowledged.
    pub(super) wanted: Option<When>,
    pub(super) acked: Option<When>,
    /// The broker's clock when it was accepted.
    pub(super) created_at: Option<u64>,
    pub(super) leases: Vec<Granted>,
    /// Tokens whose handler started.
    pub(super) starts: Vec<u64>,
    pub(super) sent: Vec<Sent>,
    /// Tokens whose outcome was accepted.
    pub(super) accepted: Vec<u64>,
    /// The outcome of success that was accepted.
    pub(super) succeeded: Option<(When, Option<Digest>)>,
    pub(super) cancel_wanted: bool,
    /// When it was first told that it is final.
    pub(super) ended: Option<When>,
    /// The first final thing that was told of it.
    pub(super) told: Option<&'a Told>,
    /// Since when another task holds its ordering line, and which.
    pub(super) overtaken: Option<(When, u64)>,
}
