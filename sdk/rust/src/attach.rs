//! The one stream of a worker: attempts in, outcomes out, over reconnects, until it is drained.

use crate::attempt::{Attempt, Facts, Lease};
use crate::client::Client;
use crate::clock;
use crate::codec::SharedCodec;
use crate::contracts::{Method, is_unknown, pause};
use crate::descriptors::Descriptors;
use crate::errors::{self, ErrorReason};
use crate::flags::Board;
use crate::invoke::Handler;
use crate::pb::v1::attach_response::Message as Response;
use crate::pb::v1::{
    AttachRequest, AttachResponse, AttemptFrame, HeldLease, SettledFrame, StopFrame, WorkerHello,
    WorkerWelcome,
};
use crate::session::{CLIENT, MESSAGE_MAX};
use http::Uri;
use http::uri::PathAndQuery;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tonic::codec::Streaming;
use tonic::{Request, Status};

mod desk;
mod outbox;
mod pulse;
mod start;

pub(crate) use desk::Desk;
use desk::Received;
use pulse::Pulse;
use start::Starter;

/// Until the broker's welcome says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long the broker may take to answer a hello.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);

/// What the owner of a worker wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// Work.
    Run,
    /// Take no more, finish, end.
    Drain,
    /// End.
    Stop,
}

/// One method that this worker serves.
pub(crate) struct Served {
    pub(crate) method: Arc<Method>,
    pub(crate) uri: Uri,
    pub(crate) handler: Arc<dyn Handler>,
}

/// What a worker is made of.
pub(crate) struct Plan {
    pub(crate) client: Arc<Client>,
    pub(crate) descriptors: Descriptors,
    /// Full names of the services.
    pub(crate) services: Vec<String>,
    /// Their methods and who serves each.
    pub(crate) methods: Vec<(String, Arc<dyn Handler>)>,
    pub(crate) worker: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) slots: u32,
    pub(crate) grace: Duration,
    /// Where its methods are called directly, if it listens.
    pub(crate) endpoint: Option<String>,
    /// The feature flags that it is told of.
    pub(crate) flags: Board,
}

/// A worker at work.
pub(crate) struct Attachment {
    plan: Plan,
    desk: Desk,
    starter: Starter,
    wish: watch::Receiver<Wish>,
    attached: watch::Sender<bool>,
    /// What it serves, as the broker wants it named.
    routes: Vec<String>,
    /// Digests of what it announced.
    contracts: Vec<String>,
    /// When a drain that was asked for is over, finished or not.
    give_up: Option<Instant>,
}

impl Attachment {
    pub(crate) fn new(
        plan: Plan,
        wish: watch::Receiver<Wish>,
        attached: watch::Sender<bool>,
    ) -> Self {
        let desk = Desk::new();
        let starter = Starter::new(&plan, desk.clone());
        Self {
            plan,
            desk,
            starter,
            wish,
            attached,
            routes: Vec::new(),
            contracts: Vec::new(),
            give_up: None,
        }
    }

    /// Works until the owner wishes it to end.
    pub(crate) async fn run(mut self) -> Result<(), Status> {
        let ended = self.work().await;
        self.desk.close();
        ended
    }

    async fn work(&mut self) -> Result<(), Status> {
        if !self.announce().await? {
            return Ok(());
        }
        let mut attempt = 1;
        loop {
            let status = match self.stream(&mut attempt).await {
                Ok(()) => return Ok(()),
                Err(status) => status,
            };
            self.attached.send_replace(false);
            if is_unknown(&status) {
                // The broker was wiped since.
                if !self.announce().await? {
                    return Ok(());
                }
            } else if !errors::is_transient(&status) {
                return Err(status);
            }
            tracing::info!(%status, attempt, worker = self.plan.worker, "detached; attaching again");
            attempt += 1;
            if !self.rest(attempt).await {
                return Ok(());
            }
        }
    }

    /// Makes the methods known. False: the worker is to end instead.
    async fn announce(&mut self) -> Result<bool, Status> {
        let Plan {
            client,
            descriptors,
            services,
            ..
        } = &self.plan;
        let methods = tokio::select! {
            methods = client.contracts().announce(descriptors, services) => methods?,
            () = wished(self.wish.clone(), Wish::Drain) => return Ok(false),
        };
        let (methods, digest) = methods;
        let mut served = Vec::new();
        self.routes.clear();
        self.contracts = vec![digest];
        for (path, handler) in &self.plan.methods {
            let method = methods.iter().find(|method| *method.path == **path);
            let method = method.ok_or_else(|| {
                Status::internal(format!(
                    "the broker's answer to the announcement lacks {path}"
                ))
            })?;
            let uri: Uri = path
                .parse()
                .map_err(|_| Status::internal("a method that is no path"))?;
            for route in &method.served_routes {
                self.routes.push(route.clone());
                served.push(Served {
                    method: Arc::clone(method),
                    uri: uri.clone(),
                    handler: Arc::clone(handler),
                });
            }
        }
        self.starter.serve(served);
        Ok(true)
    }

    /// Waits before attaching again. False: the worker is to end instead.
    async fn rest(&mut self, attempt: u32) -> bool {
        if self.give_up.is_some_and(|give_up| clock::now() >= give_up) {
            return false;
        }
        tokio::select! {
            () = pause(attempt) => {}
            () = wished(self.wish.clone(), Wish::Stop) => return false,
        }
        if let Some(gone) = self
            .wish
            .has_changed()
            .map_or(Some(true), |changed| changed.then_some(false))
        {
            self.heed(gone);
        }
        // What still runs, and what ran, is to be told to the broker; else there is nothing to attach for.
        *self.wish.borrow() == Wish::Run || !self.desk.is_drained()
    }

    /// One stream. Ok: the worker is to end.
    async fn stream(&mut self, attempt: &mut u32) -> Result<(), Status> {
        let connecting = tokio::time::timeout(ATTACH_TIMEOUT, self.open());
        let mut inbound = tokio::select! {
            opened = connecting => opened.map_err(|_| Status::unavailable("no answer"))??,
            () = wished(self.wish.clone(), Wish::Stop) => return Ok(()),
        };
        let mut pulse = Pulse::new(HEARTBEAT);
        loop {
            if self.is_over() {
                return Ok(());
            }
            let free = self.starter.start_waiting().await;
            tokio::select! {
                message = inbound.message() => {
                    let message = message?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                    pulse.silent = 0;
                    if let Some(Response::Welcome(welcome)) = &message.message {
                        *attempt = 1;
                        pulse = Pulse::new(pulse::interval(welcome));
                    }
                    self.receive(message);
                }
                () = self.desk.freed(), if !free || self.give_up.is_some() => {}
                tick = pulse.tick() => tick?,
                changed = self.wish.changed() => self.heed(changed.is_err()),
                () = until(self.give_up) => return Ok(()),
            }
        }
    }

    /// Connects and says hello.
    async fn open(&self) -> Result<Streaming<AttachResponse>, Status> {
        let connect = self.plan.client.endpoint().connect().await;
        let channel = connect.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/plait.v1.WorkerService/Attach");
        let codec = SharedCodec::<AttachRequest, AttachResponse>::default();
        let outbound = self.desk.reopen(|held| self.hello(held));
        Ok(client
            .streaming(Request::new(outbound), path, codec)
            .await?
            .into_inner())
    }

    fn hello(&self, held: Vec<Lease>) -> WorkerHello {
        let Plan {
            worker,
            name,
            version,
            slots,
            endpoint,
            ..
        } = &self.plan;
        // One that drains is not to be found any more.
        let endpoint = endpoint.clone().filter(|_| self.give_up.is_none());
        WorkerHello {
            worker: worker.clone(),
            name: name.clone(),
            version: version.clone(),
            client: CLIENT.to_owned(),
            methods: self.routes.clone(),
            slots: *slots,
            held: held
                .into_iter()
                .map(|Lease { task, token }| HeldLease { task, token })
                .collect(),
            contracts: self.contracts.clone(),
            endpoint: endpoint.unwrap_or_default(),
        }
    }

    fn receive(&mut self, message: AttachResponse) {
        match message.message {
            Some(Response::Welcome(welcome)) => self.welcome(welcome),
            Some(Response::Flags(frame)) => self.plan.flags.change(frame),
            Some(Response::Attempts(frame)) => self.receive_attempts(frame),
            Some(Response::Settled(settled)) => self.settle(&settled),
            Some(Response::Stop(stop)) => self.stop(&stop),
            // The broker's drain: go on until the stream ends, then attach again.
            Some(Response::Heartbeat(_) | Response::Drain(_)) | None => {}
        }
    }

    fn welcome(&self, mut welcome: WorkerWelcome) {
        self.plan.flags.replace(std::mem::take(&mut welcome.flags));
        let lost = welcome.lost.iter().map(|held| Lease {
            task: held.task,
            token: held.token,
        });
        self.desk
            .welcome(pulse::interval(&welcome), &lost.collect());
        if self.give_up.is_some() {
            self.desk.tell(|outbox| outbox.drain("draining"));
        }
        self.attached.send_replace(true);
    }

    fn receive_attempts(&self, frame: AttemptFrame) {
        let now = clock::now();
        let mut payloads = frame.payloads.into_iter();
        let mut extras = frame.extras.into_iter().peekable();
        let attempts = frame.tasks.iter().enumerate().map(|(index, task)| {
            let left = frame.timeout_ms.get(index).copied().unwrap_or_default();
            let extra = extras.next_if(|extra| extra.index as usize == index);
            Received {
                lease: Lease {
                    task: *task,
                    token: frame.tokens.get(index).copied().unwrap_or_default(),
                },
                method: frame.method_index.get(index).copied().unwrap_or_default(),
                payload: payloads.next().unwrap_or_default(),
                deadline: later(now, Duration::from_millis(left)),
                extra: extra.map(Box::new),
            }
        });
        self.desk.receive(frame.sequence, attempts);
        if self.give_up.is_some() {
            self.desk.hand_back();
        }
    }

    fn settle(&self, settled: &SettledFrame) {
        for refused in &settled.refused {
            let status = errors::from_rpc(refused.status.clone().unwrap_or_default());
            let reason =
                errors::reason(&status).map_or("", |reason: ErrorReason| reason.as_str_name());
            let task = crate::TaskId(refused.task);
            tracing::info!(%task, reason, message = status.message(), "an outcome was refused");
        }
        self.desk.tell(|outbox| outbox.settle(settled.sequence));
    }

    fn stop(&self, stop: &StopFrame) {
        let mut leases = HashSet::new();
        for entry in &stop.entries {
            let task = crate::TaskId(entry.task);
            tracing::debug!(%task, reason = entry.reason().as_str_name(), "an attempt is stopped");
            leases.insert(Lease {
                task: entry.task,
                token: entry.token,
            });
        }
        self.desk.stop(&leases);
    }

    /// Follows the owner's wish; `gone`: there is no owner any more.
    fn heed(&mut self, gone: bool) {
        let wish = if gone {
            Wish::Stop
        } else {
            *self.wish.borrow_and_update()
        };
        match wish {
            Wish::Run => {}
            Wish::Drain if self.give_up.is_some() => {}
            Wish::Drain => {
                self.give_up = Some(later(clock::now(), self.plan.grace));
                self.starter.close();
                self.desk.tell(|outbox| outbox.drain("draining"));
                self.desk.hand_back();
            }
            Wish::Stop => self.give_up = Some(clock::now()),
        }
    }

    /// Whether a drain was asked for and there is nothing left to do, or no time.
    fn is_over(&self) -> bool {
        self.give_up
            .is_some_and(|give_up| self.desk.is_drained() || clock::now() >= give_up)
    }
}

/// A time that is too far to be told is a year away.
fn later(now: Instant, after: Duration) -> Instant {
    now.checked_add(after)
        .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3_600))
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// Completes when the owner wishes at least this, or is gone. Leaves it to `heed` to see changes.
async fn wished(mut wish: watch::Receiver<Wish>, least: Wish) {
    let _ = wish.wait_for(|wish| *wish >= least).await;
}
