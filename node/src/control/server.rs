//! The control server of a node: a Unix socket in its directory, for its user and for root alone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use postern_proto::name::{Alias, OutletName, RelayName};
use postern_proto::spec::{InletSpec, PolicySpec};
use postern_runtime::home::{NodeHome, node};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::api::{self, OutletRequest, RelayRequest};
use super::code;
use super::document::ProcessDocument;
use super::explain::ExplainRequest;
use super::fault::{Class, Fault};
use crate::config::resource;
use crate::keeper::Keeper;

/// How long accepting pauses where the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A bound control socket.
pub struct Socket {
    listener: UnixListener,
}

impl Socket {
    /// Binds the socket in the node's directory. Whoever holds the node's lock may: an older socket is left from a process that died.
    ///
    /// # Errors
    /// Where it cannot be bound.
    pub fn bind(home: &NodeHome) -> Result<Self, Fault> {
        let listener = home.dir().listen(node::CONTROL_SOCKET)?;
        let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener)).map_err(|error| {
            let what = format!("cannot bind the control socket in `{}`", home.dir().path().display());
            Fault::new(code::LISTEN, what).because(error.to_string())
        })?;
        Ok(Self { listener })
    }
}

/// Connections of permitted users only.
impl axum::serve::Listener for Socket {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match permitted(&stream) {
                    Ok(()) => return (stream, ()),
                    Err(uid) => tracing::warn!(?uid, "refused a user at the control socket"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept at the control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the process at the other end runs as our user or as root. The mode of the socket says so already; this also holds for a
/// descriptor that was handed on.
fn permitted(stream: &UnixStream) -> Result<(), Option<u32>> {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => Ok(()),
        Ok(peer) => Err(Some(peer.uid())),
        Err(_) => Err(None),
    }
}

/// What handlers share.
#[derive(Clone)]
struct Served {
    keeper: Arc<Keeper>,
    /// Cancelled to stop the node.
    stop: CancellationToken,
}

/// Serves until `closed`; then the requests that run are answered. `POST /v1/stop` cancels `stop`.
///
/// # Errors
/// Where the system takes the socket away.
pub async fn serve(socket: Socket, keeper: Arc<Keeper>, stop: CancellationToken, closed: CancellationToken) -> io::Result<()> {
    let router = router(Served { keeper, stop });
    axum::serve(socket, router).with_graceful_shutdown(closed.cancelled_owned()).await
}

fn router(served: Served) -> Router {
    Router::new()
        .route(api::NODE, get(async |State(Served { keeper, .. }): State<Served>| answer(Ok(keeper.show()))))
        .route(api::STATUS, get(async |State(Served { keeper, .. }): State<Served>| answer(Ok(keeper.status().await))))
        .route(api::STOP, post(stop))
        .route(api::RELOAD, post(reload))
        .route(
            api::OUTLETS,
            get(async |State(Served { keeper, .. }): State<Served>| answer(Ok(keeper.outlets()))).post(create_outlet),
        )
        .route(
            api::INLETS,
            get(async |State(Served { keeper, .. }): State<Served>| answer(Ok(keeper.inlets()))).post(create_inlet),
        )
        .route(
            api::RELAYS,
            get(async |State(Served { keeper, .. }): State<Served>| answer(Ok(keeper.relays()))).post(create_relay),
        )
        .route(
            api::POLICIES,
            get(async |State(Served { keeper, .. }): State<Served>| answer(Ok(keeper.policies()))).post(create_policy),
        )
        .route(&named(api::OUTLETS), get(show_outlet).delete(delete_outlet))
        .route(&named(api::INLETS), get(show_inlet).delete(delete_inlet))
        .route(&named(api::RELAYS), get(show_relay).delete(delete_relay))
        .route(&named(api::POLICIES), get(show_policy).delete(delete_policy))
        .route(api::REFUSALS, get(async |State(Served { keeper, .. }): State<Served>| answer(Ok(keeper.refusals()))))
        .route(&named(api::REFUSALS), get(show_refusal))
        .route(api::EXPLAIN, post(explain))
        .fallback(async || refuse(&Fault::new(code::USAGE, "the node does not know this request")))
        .method_not_allowed_fallback(async || refuse(&Fault::new(code::USAGE, "the node does not know this method")))
        .layer(DefaultBodyLimit::max(api::MAX_REQUEST))
        .with_state(served)
}

fn named(collection: &str) -> String {
    format!("{collection}/{{name}}")
}

async fn stop(State(Served { stop, .. }): State<Served>) -> Response {
    tracing::info!("told to stop");
    stop.cancel();
    answer(Ok(ProcessDocument::this_process()))
}

async fn reload(State(Served { keeper, .. }): State<Served>) -> Response {
    keeper.request_reload();
    answer(Ok(ProcessDocument::this_process()))
}

async fn create_outlet(State(Served { keeper, .. }): State<Served>, body: Bytes) -> Response {
    edit(async move { keeper.create_outlet(read::<OutletRequest>(&body)?).await }).await
}

async fn create_inlet(State(Served { keeper, .. }): State<Served>, body: Bytes) -> Response {
    edit(async move { keeper.create_inlet(read::<InletSpec>(&body)?).await }).await
}

async fn create_relay(State(Served { keeper, .. }): State<Served>, body: Bytes) -> Response {
    edit(async move {
        let RelayRequest { relay, wait_ms } = read(&body)?;
        keeper.create_relay(relay, Duration::from_millis(wait_ms).min(api::MAX_WAIT)).await
    })
    .await
}

async fn create_policy(State(Served { keeper, .. }): State<Served>, body: Bytes) -> Response {
    edit(async move { keeper.create_policy(read::<PolicySpec>(&body)?).await }).await
}

async fn show_outlet(State(served): State<Served>, Path(name): Path<String>) -> Response {
    let found = served.keeper.outlets().into_iter().find(|outlet| outlet.name == name);
    answer(found.ok_or_else(|| Fault::not_found("outlet", &name)))
}

async fn show_inlet(State(served): State<Served>, Path(name): Path<String>) -> Response {
    answer(parse::<Alias>("inlet", &name).and_then(|alias| served.keeper.inlet(&alias)))
}

async fn show_relay(State(served): State<Served>, Path(name): Path<String>) -> Response {
    answer(parse::<RelayName>("relay", &name).and_then(|name| served.keeper.relay(&name)))
}

async fn show_policy(State(served): State<Served>, Path(name): Path<String>) -> Response {
    let target = resource::policy_target(&name).map_err(|_| Fault::not_found("resource", &name));
    answer(target.and_then(|target| served.keeper.policy(&target)))
}

async fn show_refusal(State(served): State<Served>, Path(id): Path<String>) -> Response {
    let id = id.parse().map_err(|_| Fault::not_found("refusal", id.chars().take(80).collect::<String>()));
    answer(id.and_then(|id| served.keeper.refusal(id)))
}

async fn explain(State(Served { keeper, .. }): State<Served>, body: Bytes) -> Response {
    match read::<ExplainRequest>(&body) {
        Ok(request) => answer(keeper.explain(&request).await),
        Err(fault) => refuse(&fault),
    }
}

async fn delete_outlet(State(Served { keeper, .. }): State<Served>, Path(name): Path<String>) -> Response {
    edit(async move { keeper.delete_outlet(&parse::<OutletName>("outlet", &name)?).await }).await
}

async fn delete_inlet(State(Served { keeper, .. }): State<Served>, Path(name): Path<String>) -> Response {
    edit(async move { keeper.delete_inlet(&parse::<Alias>("inlet", &name)?).await }).await
}

async fn delete_relay(State(Served { keeper, .. }): State<Served>, Path(name): Path<String>) -> Response {
    edit(async move { keeper.delete_relay(&parse::<RelayName>("relay", &name)?).await }).await
}

async fn delete_policy(State(Served { keeper, .. }): State<Served>, Path(name): Path<String>) -> Response {
    let target = resource::policy_target(&name).map_err(|_| Fault::not_found("policy", &name));
    edit(async move { keeper.delete_policy(&target?).await }).await
}

/// Runs an edit to its end, also where the one who asked for it goes away.
async fn edit<T: Serialize + Send + 'static>(edit: impl Future<Output = Result<T, Fault>> + Send + 'static) -> Response {
    match tokio::spawn(edit).await {
        Ok(result) => answer(result),
        Err(_) => refuse(&Fault::new(code::INTERNAL, "the node failed while it made this change; its log says more")),
    }
}

/// A request's body.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| Fault::new(code::USAGE, "the node cannot read the request").because(error.to_string()))
}

fn answer<T: Serialize>(result: Result<T, Fault>) -> Response {
    match result {
        Ok(document) => axum::Json(document).into_response(),
        Err(fault) => refuse(&fault),
    }
}

fn refuse(fault: &Fault) -> Response {
    let status = match fault.class {
        Class::Failure if fault.code == code::NOT_FOUND => StatusCode::NOT_FOUND,
        Class::Failure => StatusCode::CONFLICT,
        Class::Usage => StatusCode::BAD_REQUEST,
        Class::Unreachable => StatusCode::BAD_GATEWAY,
        Class::TryLater => StatusCode::TOO_MANY_REQUESTS,
        Class::Denied => StatusCode::FORBIDDEN,
        Class::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
    };
    (status, axum::Json(fault)).into_response()
}

/// What cannot be a name of a resource is the name of none.
fn parse<T: std::str::FromStr>(kind: &str, name: &str) -> Result<T, Fault> {
    name.parse().map_err(|_| Fault::not_found(kind, name.chars().take(80).collect::<String>()))
}
