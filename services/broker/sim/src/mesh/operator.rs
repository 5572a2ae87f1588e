//! The one who makes the methods known, pauses queues, and looks in the end whether all came to its end.

use std::collections::BTreeSet;
use std::time::Duration;

use plait::pb::control::v1 as control;
use plait::pb::control::v1::control_service_client::ControlServiceClient;
use plait::pb::control::v1::observe_response::Event as Observed;
use plait::pb::v1 as pb;
use plait::pb::v1::contract_service_client::ContractServiceClient;
use plait::pb::v1::task_service_client::TaskServiceClient;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::look;
use super::net::{self, in_time};
use super::plan::Plan;
use super::story::Shared;
use crate::dice::Dice;
use crate::history::{Event, Name};
use crate::world::policies::{self, QUEUES};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// The operator's process.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) story: Shared,
    pub(super) plan: Plan,
    pub(super) dice: Dice,
}

impl Operator {
    pub(super) async fn run(mut self) -> turmoil::Result {
        while self.declare().await.is_err() {
            sleep(LOOK).await;
        }
        self.story.with(|story| story.declared = true);
        loop {
            // A call that failed is made again on a new connection.
            let _ = self.work().await;
            sleep(LOOK).await;
        }
    }

    /// The way of a contract: announced by one, decided by the scheduler.
    async fn declare(&mut self) -> Result<(), Status> {
        let channel = net::connect().await?;
        let mut scheduler = ControlServiceClient::new(channel.clone());
        let observe = control::ObserveRequest {
            scheduler: "simulation".to_owned(),
            figures_interval: None,
            ..control::ObserveRequest::default()
        };
        let mut events = in_time(scheduler.observe(observe)).await?.into_inner();
        let mut contracts = ContractServiceClient::new(channel);
        let announce = contracts.announce_contract(pb::AnnounceContractRequest {
            descriptor_set: vec![1].into(),
            services: vec!["sim.v1.S".to_owned()],
            validate_only: false,
            ..pb::AnnounceContractRequest::default()
        });
        let deciding = async {
            while let Some(event) = in_time(events.message()).await? {
                let Some(Observed::ContractAnnounced(announced)) = event.event else {
                    continue;
                };
                let decision = control::DecideContractRequest {
                    announcement: announced.announcement,
                    policies: policies::sent(self.plan.brief, &self.plan.limits),
                    refusal: None,
                    ..control::DecideContractRequest::default()
                };
                in_time(scheduler.decide_contract(decision)).await?;
                return Ok(());
            }
            Err(Status::unavailable("the stream ended"))
        };
        tokio::pin!(announce, deciding);
        let mut decided = false;
        loop {
            tokio::select! {
                biased;
                announced = &mut announce => return announced.map(drop),
                done = &mut deciding, if !decided => {
                    done?;
                    decided = true;
                }
            }
        }
    }

    async fn work(&mut self) -> Result<(), Status> {
        let channel = net::connect().await?;
        while !self.story.is_healing() {
            let span = self.dice.span(self.plan.operator_every);
            sleep(Duration::from_millis(span)).await;
            let queue: Name = QUEUES[self.dice.below(2) as usize].into();
            self.pause(&channel, queue.clone()).await?;
            let span = self.dice.span(self.plan.operator_every);
            sleep(Duration::from_millis(span)).await;
            self.resume(&channel, queue).await?;
        }
        for queue in QUEUES {
            self.resume(&channel, queue.into()).await?;
        }
        self.look_around(channel).await
    }

    async fn pause(&self, channel: &Channel, queue: Name) -> Result<(), Status> {
        let name = queue.to_string();
        self.story.tell(Event::PauseInvoke {
            queue: queue.clone(),
        });
        let request = pb::PauseQueueRequest {
            name,
            reason: "simulation".to_owned(),
        };
        let mut client = TaskServiceClient::new(channel.clone());
        in_time(client.pause_queue(request)).await?;
        self.story.count("queues paused");
        self.story.tell(Event::PauseOk { queue });
        Ok(())
    }

    async fn resume(&self, channel: &Channel, queue: Name) -> Result<(), Status> {
        let name = queue.to_string();
        self.story.tell(Event::ResumeInvoke {
            queue: queue.clone(),
        });
        let mut client = TaskServiceClient::new(channel.clone());
        match in_time(client.resume_queue(pb::ResumeQueueRequest { name })).await {
            Ok(_) => self.story.tell(Event::ResumeOk { queue }),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status),
        }
        Ok(())
    }

    /// Waits until nothing is unfinished, then looks at every task that was acknowledged.
    async fn look_around(&self, channel: Channel) -> Result<(), Status> {
        let mut client = TaskServiceClient::new(channel.clone());
        loop {
            let queues = in_time(client.list_queues(pb::ListQueuesRequest::default())).await?;
            let queues = queues.into_inner().queues;
            let counts = queues.iter().flat_map(|queue| &queue.counts);
            let open = counts.filter(|count| !look::state(count.state).is_final());
            let open: i64 = open.map(|count| count.count).sum();
            let waiting = self.story.with(|story| story.waiting.len());
            if open == 0 && waiting == 0 {
                break;
            }
            sleep(LOOK).await;
        }
        let tasks: BTreeSet<u64> = self.story.with(|story| story.acknowledged.clone());
        let mut seen = Vec::with_capacity(tasks.len());
        for task in tasks {
            seen.push(look::seen(channel.clone(), task).await?);
        }
        self.story.with(|story| {
            seen.into_iter()
                .for_each(|told| story.tell(Event::Get(told)));
            story.rested = Some(story.now);
        });
        Ok(())
    }
}
