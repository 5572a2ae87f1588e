//! One direct call under way: its attempts, and which of them it is.

use super::attempts::{HEDGED_ATTEMPTS, Hedge, Move, Next, Retry};
use super::balance::{choose, service_of};
use super::exchange::{Outcome, exchange};
use super::guards::{Entry, Guard};
use super::marks::{PUSHBACK, stop_above};
use super::peer::Peer;
use super::rules::Rules;
use super::{Directory, Outgoing, too_late};
use crate::trace::rpc::Rpc;
use crate::{clock, errors};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::Response;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::body::Body;
use tonic::{Code, Status};

/// Choices of a worker that had not seen an attempt.
const UNSENT_MAX: u32 = 16;

/// An attempt that is over.
#[derive(Debug)]
struct Ended {
    /// What the worker sent, or what became of it otherwise.
    answer: Result<Response<Body>, Status>,
    code: Code,
    /// What the worker said of trying again.
    pushback_ms: Option<i64>,
    now_ms: u64,
}

/// The attempts of a call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) directory: &'a Directory,
    pub(super) guard: Arc<Guard>,
    pub(super) rules: Rules,
    pub(super) outgoing: Outgoing,
    pub(super) end: Instant,
    pub(super) span: &'a Rpc,
    /// Workers that were sent to.
    pub(super) tried: Mutex<Vec<Arc<Peer>>>,
}

impl Call<'_> {
    /// The answer: the last attempt's, or a refusal by us.
    pub(super) async fn perform(&self) -> Result<Response<Body>, Status> {
        // Nobody above is to try what would be refused again.
        let entry = self
            .guard
            .enter(self.end)
            .await
            .inspect_err(|_| stop_above())?;
        let rules = &self.rules;
        let delay_ms = rules.hedge_delay_ms.or_else(|| self.guard.hedge_delay_ms());
        let hedged = rules.hedge && rules.idempotent && rules.max_attempts > 1;
        match delay_ms.filter(|_| hedged) {
            Some(delay_ms) => self.beside_each_other(entry, delay_ms).await,
            None => self.one_by_one(entry).await.answer,
        }
    }

    async fn one_by_one(&self, entry: Entry) -> Ended {
        let Rules {
            max_attempts,
            idempotent,
            never,
            ..
        } = self.rules;
        let mut retry = Retry::new(max_attempts, clock::ms_of(self.end), idempotent, never);
        let mut ended = self.attempt(entry, 1).await;
        loop {
            let drawn = (ended.now_ms, clock::random_ppm());
            let next = {
                let mut budget = self.guard.budget();
                retry.status(&mut budget, drawn, ended.code, ended.pushback_ms)
            };
            let (attempt, at_ms) = match next {
                Next::Send { attempt, at_ms } => (attempt, at_ms),
                Next::End { stop_above: stop } => {
                    if stop {
                        stop_above();
                    }
                    return ended;
                }
            };
            let wait = at_ms.saturating_sub(clock::now_ms());
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let Ok(entry) = self.guard.enter(self.end).await else {
                // It was not sent, so what the worker said last stands.
                stop_above();
                return ended;
            };
            ended = self.attempt(entry, attempt).await;
        }
    }

    async fn beside_each_other(
        &self,
        entry: Entry,
        delay_ms: u64,
    ) -> Result<Response<Body>, Status> {
        let end_ms = clock::ms_of(self.end);
        let mut hedge = Hedge::new(HEDGED_ATTEMPTS, delay_ms, end_ms, self.rules.never);
        let mut running = FuturesUnordered::new();
        let mut over = HashMap::new();
        let mut moved = hedge.start(clock::now_ms());
        running.push(self.numbered(entry, 1));
        // Dropping `running` cancels what is still under way.
        while moved.end.is_none() {
            moved = self.next(&mut hedge, &moved, &mut running, &mut over).await;
            if let Some(number) = moved.send {
                match self.guard.enter_now() {
                    Some(entry) => running.push(self.numbered(entry, number)),
                    None => moved = hedge.refused(number),
                }
            }
        }
        let end = moved.end.filter(|end| end.stop_above);
        if end.is_some() {
            stop_above();
        }
        let found = moved.end.and_then(|end| over.remove(&end.attempt));
        found.unwrap_or_else(|| Err(too_late()))
    }

    /// What the machine says when an attempt has ended, or it is late enough.
    async fn next<'b>(
        &self,
        hedge: &mut Hedge,
        moved: &Move,
        running: &mut FuturesUnordered<BoxFuture<'b, (u32, Ended)>>,
        over: &mut HashMap<u32, Result<Response<Body>, Status>>,
    ) -> Move {
        let now_ms = clock::now_ms();
        let wait = moved.wake_ms.unwrap_or(now_ms).saturating_sub(now_ms);
        let late = tokio::time::sleep(Duration::from_millis(wait));
        tokio::select! {
            biased;
            Some((number, ended)) = running.next() => {
                over.insert(number, ended.answer);
                let mut budget = self.guard.budget();
                let about = (ended.now_ms, number);
                hedge.status(&mut budget, about, ended.code, ended.pushback_ms)
            }
            () = late => {
                let budget = self.guard.budget();
                hedge.wake(&budget, clock::now_ms())
            }
        }
    }

    fn numbered(&self, entry: Entry, number: u32) -> BoxFuture<'_, (u32, Ended)> {
        Box::pin(async move { (number, self.attempt(entry, number).await) })
    }

    /// Sends one and waits for its end.
    async fn attempt(&self, entry: Entry, number: u32) -> Ended {
        if number > 1 {
            self.span.attempt(number);
        }
        let sent = tokio::time::timeout_at(self.end.into(), self.send(number)).await;
        let outcome = sent.unwrap_or_else(|_| Outcome::Broken(too_late()));
        let ended = ended(outcome);
        entry.end(ended.code);
        ended
    }

    /// What an operator's fault does to an attempt: it is late, or fails.
    async fn suffer(&self) -> Option<Status> {
        let path = &self.outgoing.path;
        // Where the service is not known, choosing a worker says why.
        let view = self.directory.view(service_of(path)).await.ok()?;
        let fault = view.service.route(path)?.fault.as_ref()?;
        if let Some(delay) = fault.delay(clock::random_ppm()) {
            tokio::time::sleep(delay).await;
        }
        fault.abort(clock::random_ppm())
    }

    fn tried(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, number: u32) -> Outcome {
        if let Some(status) = self.suffer().await {
            return Outcome::Broken(status);
        }
        let mut unsent = 0;
        loop {
            let before = self.tried().clone();
            let mut chosen = match choose(self.directory, &self.outgoing.path, &before).await {
                Ok(chosen) => chosen,
                Err(status) => return Outcome::Broken(status),
            };
            self.tried().push(Arc::clone(&chosen.peer));
            let left = self.end.saturating_duration_since(clock::now());
            if left.as_millis() == 0 {
                return Outcome::Broken(too_late());
            }
            let about = (left, number - 1);
            let address = chosen.peer.address;
            let sent = exchange(&mut chosen.sender, address, &self.outgoing, about);
            // Here, for a worker that does not answer is to be known as one.
            let sent = tokio::time::timeout_at(self.end.into(), sent).await;
            let outcome = sent.unwrap_or_else(|_| Outcome::Broken(too_late()));
            if let Some(code) = outcome.code() {
                chosen.ended(code);
            }
            unsent += 1;
            if !matches!(outcome, Outcome::Unsent(_)) || unsent >= UNSENT_MAX {
                return outcome;
            }
        }
    }
}

fn ended(outcome: Outcome) -> Ended {
    let now_ms = clock::now_ms();
    let (answer, code, pushback_ms) = match outcome {
        Outcome::Answered(response, None) => (Ok(response), Code::Ok, None),
        Outcome::Answered(response, Some(status)) => {
            // An answer that had begun may have been acted on.
            let begun = !response.headers().contains_key(Status::GRPC_STATUS);
            let said = pushback_of(&status).or_else(|| begun.then_some(-1));
            (Ok(response), status.code(), said)
        }
        Outcome::Unsent(status) | Outcome::Broken(status) => {
            let code = status.code();
            (Err(status), code, None)
        }
    };
    Ended {
        answer,
        code,
        pushback_ms,
        now_ms,
    }
}

/// How long the worker says to wait, in milliseconds; negative: do not try again. The longer of a trailer and a
/// RetryInfo.
pub(super) fn pushback_of(status: &Status) -> Option<i64> {
    let said = status.metadata().get_all(PUSHBACK.as_str());
    let said = said.iter().map(|value| {
        let text = value
            .to_str()
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        text.and_then(|text| text.parse().ok()).unwrap_or(-1)
    });
    let said: Vec<i64> = said.collect();
    if said.iter().any(|each| *each < 0) {
        return Some(-1);
    }
    let info = errors::retry_after(status)
        .map(|after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
    said.into_iter().chain(info).max()
}
