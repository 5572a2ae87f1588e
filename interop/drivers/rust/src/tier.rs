//! A worker in the middle of a chain: it serves one method of testing.v1.EchoService by calling another one, and
//! answers with the milliseconds that were left to it and to those below.

use crate::contract::testing::v1 as pb;
use crate::contract::testing::v1::echo_service_client::EchoServiceClient;
use crate::contract::testing::v1::echo_service_server::{EchoService, EchoServiceServer};
use anyhow::{Context, bail};
use clap::Args;
use plait::{Channel, DirectChannel, Plait, breaker, deadline, limiter};
use serde_json::Value;
use std::time::Duration;
use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::{Request, Response, Status};

/// Where Inspect answers with what was left below.
const LEFTS: &str = "lefts";

/// What a tier does.
#[derive(Debug, Args)]
pub(crate) struct Tier {
    /// The method that the tier serves: Echo, Scalars or Inspect.
    #[arg(long)]
    pub(crate) serve: Option<String>,
    /// The method that it calls: Scalars, Inspect or Fail.
    #[arg(long, default_value = "Fail")]
    call: String,
    /// It calls by a task. Echo does so as well where its payload says "durable".
    #[arg(long)]
    durable: bool,
    /// Of the direct channel, in JSON.
    #[arg(long, default_value = "{}")]
    options: String,
}

impl Tier {
    /// Serves until the process is told to stop.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let served = self.serve.context("no method is to be served")?;
        let mesh = Plait::connect().await?;
        let middle = Middle {
            direct: EchoServiceClient::new(channel(mesh.direct(), &self.options)?),
            durable: EchoServiceClient::new(mesh.channel()),
            call: self.call,
            by_task: self.durable,
        };
        let mut worker = mesh
            .worker()
            .name(format!("tier-{served}"))
            .version("tier")
            .listen("127.0.0.1:0")
            .descriptors(crate::contract::FILE_DESCRIPTOR_SET)
            .methods([served])
            .serve(EchoServiceServer::new(middle))
            .start()?;
        if worker.attached().await.is_ok() {
            println!("{{\"event\":\"ready\"}}");
        }
        Ok(worker.ended().await?)
    }
}

/// A channel with options. A breaker or limiter that is null is turned off.
fn channel(mut channel: DirectChannel, options: &str) -> anyhow::Result<DirectChannel> {
    let said: serde_json::Map<String, Value> = serde_json::from_str(options)?;
    for (name, value) in said {
        let number = || {
            value
                .as_u64()
                .with_context(|| format!("{name} is no number"))
        };
        let flag = || {
            value
                .as_bool()
                .with_context(|| format!("{name} is no flag"))
        };
        channel = match name.as_str() {
            "max_attempts" => channel.max_attempts(u32::try_from(number()?)?),
            "idempotent" => channel.idempotent(flag()?),
            "hedge" => channel.hedge(flag()?),
            "hedge_delay_ms" => channel.hedge_delay(Duration::from_millis(number()?)),
            "budget_tokens" => channel.budget_tokens(number()?),
            "breaker" => channel.breaker(breaker(&value)?),
            "limiter" => channel.limiter(limiter(&value)?),
            _ => bail!("no option {name:?}"),
        };
    }
    Ok(channel)
}

fn breaker(said: &Value) -> anyhow::Result<Option<breaker::Config>> {
    let Some(said) = said.as_object() else {
        return Ok(None);
    };
    let mut config = breaker::Config::default();
    for (name, value) in said {
        let value = value
            .as_u64()
            .with_context(|| format!("{name} is no number"))?;
        match name.as_str() {
            "min_calls" => config.min_calls = value,
            "open_ms" => config.open_ms = value,
            _ => bail!("no option {name:?} of a breaker"),
        }
    }
    Ok(Some(config))
}

fn limiter(said: &Value) -> anyhow::Result<Option<limiter::Config>> {
    let Some(said) = said.as_object() else {
        return Ok(None);
    };
    let mut config = limiter::Config::default();
    for (name, value) in said {
        let value = value
            .as_u64()
            .with_context(|| format!("{name} is no number"))?;
        let value = u32::try_from(value)?;
        match name.as_str() {
            "initial" => config.initial = value,
            "max" => config.max = value,
            "waiting_max" => config.waiting_max = value,
            _ => bail!("no option {name:?} of a limiter"),
        }
    }
    Ok(Some(config))
}

/// Serves by calling.
#[derive(Debug)]
struct Middle {
    direct: EchoServiceClient<DirectChannel>,
    durable: EchoServiceClient<Channel>,
    call: String,
    by_task: bool,
}

impl Middle {
    /// What was left to this one and to those below, in JSON. A failure of the next tier is this one's.
    async fn lefts(&self, by_task: bool) -> Result<String, Status> {
        let left = deadline::remaining().unwrap_or_default();
        let mut lefts = vec![u64::try_from(left.as_millis()).unwrap_or(u64::MAX)];
        lefts.extend(match by_task {
            true => below(self.durable.clone(), &self.call).await?,
            false => below(self.direct.clone(), &self.call).await?,
        });
        Ok(serde_json::json!(lefts).to_string())
    }
}

async fn below<T>(mut stub: EchoServiceClient<T>, call: &str) -> Result<Vec<u64>, Status>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    match call {
        "Scalars" => {
            let answer = stub.scalars(pb::ScalarsRequest::default()).await?;
            numbers(&answer.into_inner().values.unwrap_or_default().string_value)
        }
        "Inspect" => {
            let found = stub
                .inspect(pb::InspectRequest::default())
                .await?
                .into_inner();
            let left = found.time_remaining.unwrap_or_default();
            let left = u64::try_from(left.seconds * 1_000 + i64::from(left.nanos / 1_000_000));
            match found.metadata.get(LEFTS) {
                Some(lefts) => numbers(lefts),
                None => Ok(left.into_iter().collect()),
            }
        }
        _ => {
            stub.fail(pb::FailRequest::default()).await?;
            Ok(Vec::new())
        }
    }
}

fn numbers(text: &str) -> Result<Vec<u64>, Status> {
    serde_json::from_str(text).map_err(|error| Status::internal(error.to_string()))
}

/// The methods of a tier, and those that are left to others.
macro_rules! service {
    ($($call:ident: $request:ident -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl EchoService for Middle {
            async fn echo(
                &self,
                request: Request<pb::EchoRequest>,
            ) -> Result<Response<pb::EchoResponse>, Status> {
                let by_task = request.get_ref().payload == "durable";
                let payload = self.lefts(by_task || self.by_task).await?.into();
                Ok(Response::new(pb::EchoResponse { payload }))
            }

            async fn scalars(
                &self,
                _: Request<pb::ScalarsRequest>,
            ) -> Result<Response<pb::ScalarsResponse>, Status> {
                let values = pb::Scalars {
                    string_value: self.lefts(self.by_task).await?,
                    ..pb::Scalars::default()
                };
                Ok(Response::new(pb::ScalarsResponse { values: Some(values) }))
            }

            async fn inspect(
                &self,
                _: Request<pb::InspectRequest>,
            ) -> Result<Response<pb::InspectResponse>, Status> {
                let lefts = self.lefts(self.by_task).await?;
                Ok(Response::new(pb::InspectResponse {
                    metadata: [(LEFTS.to_owned(), lefts)].into(),
                    ..pb::InspectResponse::default()
                }))
            }

            $(
                async fn $call(
                    &self,
                    _: Request<pb::$request>,
                ) -> Result<Response<pb::$response>, Status> {
                    Err(Status::unimplemented("a tier serves one method"))
                }
            )*
        }
    };
}

service! {
    fail: FailRequest -> FailResponse;
    sleep: SleepRequest -> SleepResponse;
    flow: FlowRequest -> FlowResponse;
    append: AppendRequest -> AppendResponse;
    once: OnceRequest -> OnceResponse;
}
