//! Flows: a handler that makes durable calls is one, and its calls are memoised children.
//!
//! The running attempt is found by a task-local, so nothing has to be handed through. What a handler spawns loses it:
//! wrap that in [`scope`]. A call through [`Channel::detached`](crate::Channel::detached), through another client, or
//! outside a handler makes an ordinary task.

use crate::attempt::Attempt;
use crate::client::Client;
use opentelemetry::Context;
use std::future::poll_fn;
use std::pin::pin;

tokio::task_local! {
    static ATTEMPT: Attempt;
}

/// The attempt that runs here; `None` outside a handler of a Plait worker, and in tasks that a handler spawned without
/// [`scope`].
#[must_use]
pub fn attempt() -> Option<Attempt> {
    ATTEMPT.try_with(Attempt::clone).ok()
}

/// Runs a future as part of an attempt; see [`Attempt::scope`].
pub async fn scope<F: Future>(attempt: Attempt, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(move |cx| enter(&attempt, || future.as_mut().poll(cx))).await
}

/// Runs code as part of an attempt, under its trace context.
pub(crate) fn enter<T>(attempt: &Attempt, code: impl FnOnce() -> T) -> T {
    let _context = attempt.trace().map(Context::attach);
    ATTEMPT.sync_scope(attempt.clone(), code)
}

/// The attempt whose children a durable call of this client makes.
pub(crate) fn of(client: &Client) -> Option<Attempt> {
    attempt().filter(|attempt| attempt.client() == client.id())
}
