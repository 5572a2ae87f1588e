//! Submitting a stream of calls with bounded memory.
//!
//! A call is polled until its task is on its way, as a rule once, and its future is dropped then. What is under way
//! waits in the order of the requests, and only the oldest is waited for: a task that becomes final wakes nobody but
//! for that one.

use crate::channel::{Channel, Slot};
use crate::client::Plait;
use crate::errors;
use crate::placed::{Answer, Now, Placed};
use crate::task::Task;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_stream::Stream;
use tonic::{Response, Status};

/// Requests that are pulled ahead; with frames of 256, enough for the round trip of a network.
const UNDER_WAY: usize = 8_192;

/// Calls that are made before others of this thread have their turn.
const AT_ONCE: usize = 256;

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The handles of [`Plait::submit_many`], in the order of the requests. An error is that of one submission; the others
/// go on. Nothing is submitted unless this is polled.
#[must_use = "nothing is submitted unless this is polled"]
pub struct Submissions<R>(Pin<Box<dyn Stream<Item = Result<Task<R>, Status>> + Send>>);

/// The responses of [`Plait::call_many`], in the order of the requests. An error is that of one task; the others go on.
/// Nothing is submitted unless this is polled.
#[must_use = "nothing is submitted unless this is polled"]
pub struct Responses<R>(Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>);

impl<R> fmt::Debug for Submissions<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submissions").finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for Responses<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responses").finish_non_exhaustive()
    }
}

impl<R> Stream for Submissions<R> {
    type Item = Result<Task<R>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl<R> Stream for Responses<R> {
    type Item = Result<R, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

pub(crate) fn submit<Q, R, S, F, Fut>(plait: Plait, requests: S, call: F) -> Submissions<R>
where
    S: Stream<Item = Q> + Send + 'static,
    F: FnMut(Channel, Q) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    R: 'static,
    Q: Send + 'static,
{
    Submissions(Box::pin(Many::new(
        plait,
        Box::pin(requests),
        call,
        Accepting(PhantomData),
    )))
}

pub(crate) fn call<Q, R, S, F, Fut>(plait: Plait, requests: S, call: F) -> Responses<R>
where
    S: Stream<Item = Q> + Send + 'static,
    F: FnMut(Channel, Q) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    R: prost::Message + Default + 'static,
    Q: Send + 'static,
{
    Responses(Box::pin(Many::new(
        plait,
        Box::pin(requests),
        call,
        Answering(PhantomData),
    )))
}

/// What is waited for of each task.
trait Want {
    type Item;
    const RESULT: bool;

    /// What is there already; else the task again.
    fn now(placed: Placed) -> Now<Result<Self::Item, Status>>;

    fn wait(placed: Placed) -> Waiting<Result<Self::Item, Status>>;
}

/// That it is accepted.
struct Accepting<R>(PhantomData<fn() -> R>);

impl<R: 'static> Want for Accepting<R> {
    type Item = Task<R>;
    const RESULT: bool = false;

    fn now(placed: Placed) -> Now<Result<Task<R>, Status>> {
        placed.accepted_now().map(Ok)
    }

    fn wait(placed: Placed) -> Waiting<Result<Task<R>, Status>> {
        Box::pin(placed.accepted())
    }
}

/// Its response.
struct Answering<R>(PhantomData<fn() -> R>);

impl<R: prost::Message + Default + 'static> Want for Answering<R> {
    type Item = R;
    const RESULT: bool = true;

    fn now(placed: Placed) -> Now<Result<R, Status>> {
        placed.done_now().map(decode)
    }

    fn wait(placed: Placed) -> Waiting<Result<R, Status>> {
        Box::pin(async move { decode(placed.done().await) })
    }
}

fn decode<R: prost::Message + Default>((task, outcome): Answer) -> Result<R, Status> {
    let payload = outcome.map_err(|mut status| {
        if let Some(task) = task {
            errors::name_task(&mut status, task);
        }
        status
    })?;
    R::decode(payload)
        .map_err(|error| Status::internal(format!("the response is not as declared: {error}")))
}

/// The stream behind both. `call` is being made while `calling` holds its future.
struct Many<S, F, Fut, W: Want> {
    plait: Plait,
    requests: S,
    call: F,
    slot: Arc<Slot>,
    calling: Pin<Box<Option<Fut>>>,
    ended: bool,
    under_way: VecDeque<Result<Placed, Status>>,
    /// The oldest, once it had to be waited for.
    oldest: Option<Waiting<Result<W::Item, Status>>>,
}

/// Nothing in it is pinned but what has a box of its own.
impl<S, F, Fut, W: Want> Unpin for Many<S, F, Fut, W> {}

impl<S, F, Fut, W: Want> Many<S, F, Fut, W> {
    fn new(plait: Plait, requests: S, call: F, _: W) -> Self {
        Self {
            plait,
            requests,
            call,
            slot: Arc::new(Slot::new(W::RESULT)),
            calling: Box::pin(None),
            ended: false,
            under_way: VecDeque::new(),
            oldest: None,
        }
    }
}

impl<Q, R, S, F, Fut, W> Many<S, F, Fut, W>
where
    S: Stream<Item = Q> + Unpin,
    F: FnMut(Channel, Q) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
    W: Want,
{
    /// Makes calls, one after the other, until no more may be under way or there is something to wait for.
    fn advance(&mut self, cx: &mut Context<'_>) {
        let most = self.under_way.len() + AT_ONCE;
        while self.under_way.len() < UNDER_WAY {
            if self.under_way.len() >= most {
                return cx.waker().wake_by_ref();
            }
            if let Some(calling) = self.calling.as_mut().as_pin_mut() {
                let Poll::Ready(placed) = self.slot.poll(calling, cx) else {
                    return;
                };
                self.calling.set(None);
                self.under_way.push_back(placed);
            }
            if self.ended {
                return;
            }
            match Pin::new(&mut self.requests).poll_next(cx) {
                Poll::Ready(Some(request)) => {
                    let channel = self.plait.placing(&self.slot);
                    self.calling.set(Some((self.call)(channel, request)));
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return,
            }
        }
    }

    /// What came of the oldest. `Ready(None)`: nothing is under way.
    fn poll_oldest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<W::Item, Status>>> {
        let mut oldest = match self.oldest.take() {
            Some(oldest) => oldest,
            None => match self.under_way.pop_front() {
                None => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                Some(Ok(placed)) => match W::now(placed) {
                    Now::There(answer) => return Poll::Ready(Some(answer)),
                    Now::NotYet(placed) => W::wait(placed),
                },
            },
        };
        let polled = oldest.as_mut().poll(cx);
        if polled.is_pending() {
            self.oldest = Some(oldest);
        }
        polled.map(Some)
    }
}

impl<Q, R, S, F, Fut, W> Stream for Many<S, F, Fut, W>
where
    S: Stream<Item = Q> + Unpin,
    F: FnMut(Channel, Q) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
    W: Want,
{
    type Item = Result<W::Item, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let many = self.get_mut();
        many.advance(cx);
        match many.poll_oldest(cx) {
            // Nothing is under way: either all is done, or a request or a call is still waited for.
            Poll::Ready(None) if !many.ended || many.calling.is_some() => Poll::Pending,
            polled => polled,
        }
    }
}
