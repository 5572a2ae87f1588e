//! The methods of the service by name, in bytes.

use crate::contract::testing::v1 as pb;
use crate::contract::testing::v1::echo_service_client::EchoServiceClient;
use futures_util::{StreamExt, TryStreamExt};
use plait::{Channel, Plait, TaskId};
use prost::Message;
use prost::bytes::Bytes;
use std::pin::Pin;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

type Stub = EchoServiceClient<Channel>;
type Answer<R> = Pin<Box<dyn Future<Output = Result<Response<R>, Status>> + Send>>;
/// A serialized request, its metadata, and gRPC's own deadline.
type Said = (Bytes, MetadataMap, Option<Duration>);

/// The serialized requests of a bulk call.
#[derive(Debug)]
pub(crate) struct Requests(pub(crate) Vec<Bytes>);

impl Requests {
    fn decoded<Q: Message + Default>(self) -> Result<Vec<Q>, Status> {
        self.0.into_iter().map(decoded).collect()
    }
}

/// A method as its generated client has it.
trait Method: Send + Sync + 'static {
    type Request: Message + Default + Send + 'static;
    type Response: Message + Default + 'static;

    fn invoke(stub: Stub, request: Request<Self::Request>) -> Answer<Self::Response>;
}

macro_rules! methods {
    ($($name:ident: $request:ident -> $response:ident by $call:ident;)*) => {
        $(
            struct $name;

            impl Method for $name {
                type Request = pb::$request;
                type Response = pb::$response;

                fn invoke(mut stub: Stub, request: Request<pb::$request>) -> Answer<pb::$response> {
                    Box::pin(async move { stub.$call(request).await })
                }
            }
        )*

        /// Does something with the method of a name.
        macro_rules! of_name {
            ($of:expr, $run:ident($arguments:tt)) => {
                match $of {
                    $(stringify!($name) => $run::<$name> $arguments.await,)*
                    _ => Err(Status::unimplemented("there is no such method")),
                }
            };
        }
    };
}

methods! {
    Echo: EchoRequest -> EchoResponse by echo;
    Fail: FailRequest -> FailResponse by fail;
    Sleep: SleepRequest -> SleepResponse by sleep;
    Flow: FlowRequest -> FlowResponse by flow;
    Append: AppendRequest -> AppendResponse by append;
    Once: OnceRequest -> OnceResponse by once;
    Inspect: InspectRequest -> InspectResponse by inspect;
    Scalars: ScalarsRequest -> ScalarsResponse by scalars;
}

/// Calls and waits for the result.
pub(crate) async fn call(name: &str, channel: Channel, said: Said) -> Result<Bytes, Status> {
    async fn run<M: Method>(channel: Channel, said: Said) -> Result<Bytes, Status> {
        let response = M::invoke(Stub::new(channel), request(said)?).await?;
        Ok(response.into_inner().encode_to_vec().into())
    }
    of_name!(name, run((channel, said)))
}

/// Submits and waits until it is accepted.
pub(crate) async fn submit(
    name: &str,
    mesh: &Plait,
    with: impl FnOnce(Channel) -> Channel,
    said: Said,
) -> Result<TaskId, Status> {
    async fn run<M: Method>(
        mesh: &Plait,
        with: impl FnOnce(Channel) -> Channel,
        said: Said,
    ) -> Result<TaskId, Status> {
        let request = request(said)?;
        let task = mesh
            .submit(|channel| M::invoke(Stub::new(with(channel)), request))
            .await?;
        Ok(task.id())
    }
    of_name!(name, run((mesh, with, said)))
}

/// The result of a task.
pub(crate) async fn result(name: &str, mesh: &Plait, id: TaskId) -> Result<Bytes, Status> {
    async fn run<M: Method>(mesh: &Plait, id: TaskId) -> Result<Bytes, Status> {
        Ok(mesh
            .task::<M::Response>(id)
            .result()
            .await?
            .encode_to_vec()
            .into())
    }
    of_name!(name, run((mesh, id)))
}

/// Calls with each request.
pub(crate) async fn call_many(
    name: &str,
    mesh: &Plait,
    requests: Requests,
) -> Result<Vec<Bytes>, Status> {
    async fn run<M: Method>(mesh: &Plait, requests: Requests) -> Result<Vec<Bytes>, Status> {
        let requests = futures_util::stream::iter(requests.decoded::<M::Request>()?);
        let responses = mesh.call_many(requests, |channel, request| {
            M::invoke(Stub::new(channel), Request::new(request))
        });
        let encoded = responses.map(|response| Ok(response?.encode_to_vec().into()));
        encoded.try_collect().await
    }
    of_name!(name, run((mesh, requests)))
}

/// Submits each request.
pub(crate) async fn submit_many(
    name: &str,
    mesh: &Plait,
    requests: Requests,
) -> Result<Vec<TaskId>, Status> {
    async fn run<M: Method>(mesh: &Plait, requests: Requests) -> Result<Vec<TaskId>, Status> {
        let requests = futures_util::stream::iter(requests.decoded::<M::Request>()?);
        let tasks = mesh.submit_many(requests, |channel, request| {
            M::invoke(Stub::new(channel), Request::new(request))
        });
        tasks.map(|task| Ok(task?.id())).try_collect().await
    }
    of_name!(name, run((mesh, requests)))
}

fn decoded<Q: Message + Default>(bytes: Bytes) -> Result<Q, Status> {
    Q::decode(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn request<Q: Message + Default>((bytes, metadata, timeout): Said) -> Result<Request<Q>, Status> {
    let mut request = Request::new(decoded(bytes)?);
    *request.metadata_mut() = metadata;
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    Ok(request)
}
