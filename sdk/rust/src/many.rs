//! Submitting a stream of calls with bounded memory.

use crate::channel::Channel;
use crate::client::Plait;
use crate::task::Task;
use futures_util::{Stream, StreamExt, stream};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::{Response, Status};

/// Submissions under way at once; with frames of 256, enough for the round trip of a network.
const UNDER_WAY: usize = 4_096;

type Handles<R> = Pin<Box<dyn Stream<Item = Result<Task<R>, Status>> + Send>>;

/// The handles of [`Plait::submit_many`], in the order of the requests. An error is that of one submission; the others
/// go on. Nothing is submitted unless this is polled.
#[must_use = "nothing is submitted unless this is polled"]
pub struct Submissions<R>(Handles<R>);

impl<R> std::fmt::Debug for Submissions<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submissions").finish_non_exhaustive()
    }
}

impl<R> Stream for Submissions<R> {
    type Item = Result<Task<R>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

pub(crate) fn submit<Q, R, S, F, Fut>(plait: Plait, requests: S, mut call: F) -> Submissions<R>
where
    S: Stream<Item = Q> + Send + 'static,
    F: FnMut(Channel, Q) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    R: 'static,
    Q: Send + 'static,
{
    let mut start = move |request| {
        let (channel, slot) = plait.submitting();
        // The call is made here and not when it is polled, so calls are made in the order of the requests.
        let call = call(channel, request);
        let plait = plait.clone();
        async move { plait.submitted(&slot, call).await }
    };
    let submissions = async move {
        let mut requests = Box::pin(requests);
        // The first one alone: it may have to ask for its method, and those behind it must not overtake it.
        let first = match requests.next().await {
            Some(request) => Some(start(request).await),
            None => None,
        };
        stream::iter(first).chain(requests.map(start).buffered(UNDER_WAY))
    };
    Submissions(Box::pin(stream::once(submissions).flatten()))
}
