//! The client of a node's control socket.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use postern_proto::name::{Alias, NodeName, OutletName, RelayName};
use postern_proto::spec::{InletSpec, PolicySpec, RelaySpec};
use postern_runtime::files::FileError;
use postern_runtime::home::{NodeHome, node};
use rustix::fs::{AtFlags, FileType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::api::{self, OutletRequest, RelayRequest};
use super::code;
use super::document::{
    DeletedDocument, InletDocument, NodeDocument, NodeStatusDocument, OutletDocument, PolicyDocument, ProcessDocument,
    RelayDocument,
};
use super::explain::{ExplainDocument, ExplainRequest, RefusalDocument};
use super::fault::Fault;

/// How long a node may take to answer what needs no network.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// How long probing every portal may take: the deadline of a target, twice.
const STATUS_DEADLINE: Duration = Duration::from_secs(45);

/// Speaks to one running node.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    node: &'a NodeHome,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("node `{0}` is not running")]
    NotRunning(NodeName),
    #[error("the control socket of node `{node}` belongs to user {owner}: nothing was sent to it")]
    Foreign { node: NodeName, owner: u32 },
    #[error("node `{node}` cannot be reached at its control socket: {source}")]
    Io { node: NodeName, source: io::Error },
    #[error("node `{0}` did not answer in time")]
    Timeout(NodeName),
    #[error("node `{0}` answered something that this command does not understand")]
    Protocol(NodeName),
    #[error(transparent)]
    File(#[from] FileError),
    /// What the node said.
    #[error(transparent)]
    Fault(Box<Fault>),
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        let what = error.to_string();
        match error {
            ClientError::Fault(fault) => *fault,
            ClientError::File(error) => error.into(),
            ClientError::NotRunning(node) => Self::new(code::NOT_RUNNING, what).try_this(format!("postern node start {node}")),
            ClientError::Foreign { .. } => Self::new(code::HOME_UNSAFE, what),
            ClientError::Timeout(node) => Self::new(code::TIMEOUT, what).try_this(format!("look at `postern node logs {node}`")),
            ClientError::Io { .. } => Self::new(code::CONTROL, what),
            ClientError::Protocol(node) => Self::new(code::CONTROL_VERSION, what)
                .try_this(format!("it may run another version: postern node stop {node} && postern node start {node}")),
        }
    }
}

impl<'a> Client<'a> {
    #[must_use]
    pub const fn new(node: &'a NodeHome) -> Self {
        Self { node }
    }

    /// # Errors
    /// [`ClientError`]; so of every request.
    pub async fn show(&self) -> Result<NodeDocument, ClientError> {
        self.get(api::NODE).await
    }

    /// Whether bytes can pass now, by a probe through every portal.
    pub async fn status(&self) -> Result<NodeStatusDocument, ClientError> {
        self.send(Method::GET, api::STATUS, None::<&()>, STATUS_DEADLINE).await
    }

    /// Returns as soon as the node begins to stop.
    pub async fn stop(&self) -> Result<ProcessDocument, ClientError> {
        self.post(api::STOP, &serde_json::Value::Null).await
    }

    /// Makes the node read again what is stored of it, and its identity's membership; returns before it has.
    pub async fn reload(&self) -> Result<ProcessDocument, ClientError> {
        self.post(api::RELOAD, &serde_json::Value::Null).await
    }

    pub async fn outlets(&self) -> Result<Vec<OutletDocument>, ClientError> {
        self.get(api::OUTLETS).await
    }

    pub async fn outlet(&self, name: &OutletName) -> Result<OutletDocument, ClientError> {
        self.get(&format!("{}/{name}", api::OUTLETS)).await
    }

    pub async fn create_outlet(&self, request: &OutletRequest) -> Result<OutletDocument, ClientError> {
        self.post(api::OUTLETS, request).await
    }

    pub async fn delete_outlet(&self, name: &OutletName) -> Result<DeletedDocument, ClientError> {
        self.delete(&format!("{}/{name}", api::OUTLETS)).await
    }

    pub async fn inlets(&self) -> Result<Vec<InletDocument>, ClientError> {
        self.get(api::INLETS).await
    }

    pub async fn inlet(&self, alias: &Alias) -> Result<InletDocument, ClientError> {
        self.get(&format!("{}/{alias}", api::INLETS)).await
    }

    pub async fn create_inlet(&self, spec: &InletSpec) -> Result<InletDocument, ClientError> {
        self.post(api::INLETS, spec).await
    }

    pub async fn delete_inlet(&self, alias: &Alias) -> Result<DeletedDocument, ClientError> {
        self.delete(&format!("{}/{alias}", api::INLETS)).await
    }

    pub async fn relays(&self) -> Result<Vec<RelayDocument>, ClientError> {
        self.get(api::RELAYS).await
    }

    pub async fn relay(&self, name: &RelayName) -> Result<RelayDocument, ClientError> {
        self.get(&format!("{}/{name}", api::RELAYS)).await
    }

    /// Waits up to `wait` for the relays' answer; a name that is not claimed by then is answered as not up.
    pub async fn create_relay(&self, relay: &RelaySpec, wait: Duration) -> Result<RelayDocument, ClientError> {
        let wait = wait.min(api::MAX_WAIT);
        let request = RelayRequest { relay: relay.clone(), wait_ms: wait.as_millis() as u64 };
        self.send(Method::POST, api::RELAYS, Some(&request), wait + ANSWER_DEADLINE).await
    }

    pub async fn delete_relay(&self, name: &RelayName) -> Result<DeletedDocument, ClientError> {
        self.delete(&format!("{}/{name}", api::RELAYS)).await
    }

    pub async fn policies(&self) -> Result<Vec<PolicyDocument>, ClientError> {
        self.get(api::POLICIES).await
    }

    /// The policy in force for a resource or a type, by its name.
    pub async fn policy(&self, resource: &OutletName) -> Result<PolicyDocument, ClientError> {
        self.get(&format!("{}/{resource}", api::POLICIES)).await
    }

    pub async fn create_policy(&self, policy: &PolicySpec) -> Result<PolicyDocument, ClientError> {
        self.post(api::POLICIES, policy).await
    }

    pub async fn delete_policy(&self, resource: &OutletName) -> Result<DeletedDocument, ClientError> {
        self.delete(&format!("{}/{resource}", api::POLICIES)).await
    }

    /// The refusals that the node remembers, the newest first.
    pub async fn refusals(&self) -> Result<Vec<RefusalDocument>, ClientError> {
        self.get(api::REFUSALS).await
    }

    /// What the node can tell of a way to an outlet. It may have to make a channel and dial a target for it.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<ExplainDocument, ClientError> {
        self.send(Method::POST, api::EXPLAIN, Some(request), api::MAX_WAIT).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, None::<&()>, ANSWER_DEADLINE).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.send(Method::POST, path, Some(body), ANSWER_DEADLINE).await
    }

    async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::DELETE, path, None::<&()>, ANSWER_DEADLINE).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(deadline, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout(self.node.name().clone())),
        }
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let name = || self.node.name().clone();
        let protocol = || ClientError::Protocol(name());
        let broken = |error: hyper::Error| ClientError::Io { node: name(), source: io::Error::other(error) };
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|_| protocol())?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            // HTTP wants one; no name has a meaning on this socket.
            .header(header::HOST, "postern")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| protocol())?;

        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), api::MAX_ANSWER).collect().await.map_err(|_| protocol())?.to_bytes();
        connection.abort();
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|_| protocol());
        }
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            let what = format!("the request is longer than {} bytes", api::MAX_REQUEST);
            return Err(ClientError::Fault(Box::new(Fault::new(code::USAGE, what))));
        }
        let fault: Fault = serde_json::from_slice(&bytes).map_err(|_| protocol())?;
        Err(ClientError::Fault(Box::new(fault)))
    }

    /// Connects, where the socket is the node's own: whoever put another in its place would be sent what commands say.
    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let name = || self.node.name().clone();
        let user = rustix::process::geteuid().as_raw();
        let stat = match rustix::fs::statat(self.node.dir(), node::CONTROL_SOCKET, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Err(ClientError::NotRunning(name())),
            Err(errno) => return Err(ClientError::Io { node: name(), source: errno.into() }),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(ClientError::Protocol(name()));
        }
        if stat.st_uid != user && stat.st_uid != 0 {
            return Err(ClientError::Foreign { node: name(), owner: stat.st_uid });
        }
        let path = self.node.control_socket()?;
        let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            // Left from a process that was killed.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ClientError::NotRunning(name()),
            _ => ClientError::Io { node: name(), source },
        })?;
        let peer = stream.peer_cred().map_err(|source| ClientError::Io { node: name(), source })?;
        if peer.uid() != user && peer.uid() != 0 {
            return Err(ClientError::Foreign { node: name(), owner: peer.uid() });
        }
        Ok(stream)
    }
}
