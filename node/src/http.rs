//! The node's local HTTP server, where one was asked for: whether it lives, whether it is ready, and how it is.
//!
//! It listens on 127.0.0.1 and only answers questions. Requests that name another host are refused, because they come from a web
//! page that had its own name resolved to this address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use postern_proto::address::HostPort;
use postern_runtime::metrics::CONTENT_TYPE;
use postern_runtime::net::{Acceptor, BindError, SocketKind, bind};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::code;
use crate::control::document::{AUDIT, AUTHORITY, NodeStatusDocument};
use crate::control::fault::Fault;
use crate::keeper::Keeper;

/// For so long an answer of `/readyz` is given again: a probe is a stream to every target, and anybody on this machine may ask.
const READY_KEPT: Duration = Duration::from_secs(2);

/// Connections at a time: monitoring systems are few. Further ones wait in the kernel's queue.
const CONNECTIONS: usize = 32;

/// How long a client may take over the head of its request, and how long it may be silent between two.
const HEAD: Duration = Duration::from_secs(5);

/// A bound local HTTP server.
pub struct Local {
    listener: TcpListener,
    address: SocketAddr,
}

impl Local {
    /// Listens on `port` of 127.0.0.1; 0 is a free one.
    ///
    /// # Errors
    /// Where it cannot be listened on.
    pub async fn bind(port: u16) -> Result<Self, Fault> {
        let listener = bind(&HostPort::from(SocketAddr::from(([127, 0, 0, 1], port)))).await.map_err(|error| match error {
            BindError::InUse { address } => {
                Fault::new(code::ADDRESS_IN_USE, format!("{address}, the `http-server-port`, is in use"))
                    .because("another program listens there")
                    .try_this("choose another port, or 0 for a free one")
            }
            other => other.into(),
        })?;
        let address = listener.local_addr().map_err(|error| Fault::from(crate::engine::EngineError::Address(error)))?;
        Ok(Self { listener, address })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `closed`, and what was asked before to its end.
    pub async fn serve(self, keeper: Arc<Keeper>, closed: CancellationToken) {
        let served = Served { keeper, ready: Arc::default() };
        let router = Router::new()
            .route("/", get(async || "Postern\n"))
            .route("/livez", get(async || "alive\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/show", get(async |State(Served { keeper, .. }): State<Served>| Json(keeper.show())))
            .layer(from_fn(only_local_names))
            .with_state(served);
        let mut acceptor = Acceptor::new(self.listener, SocketKind::Application, CONNECTIONS);
        let tasks = TaskTracker::new();
        while let Some(accepted) = closed.run_until_cancelled(acceptor.accept()).await {
            let (service, closed) = (TowerToHyperService::new(router.clone()), closed.clone());
            tasks.spawn(async move {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .serve_connection(TokioIo::new(accepted.stream), service);
                tokio::pin!(connection);
                // A client that breaks off is its own business.
                let ended = tokio::select! {
                    _ = connection.as_mut() => true,
                    () = closed.cancelled() => false,
                };
                if !ended {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
                drop(accepted.permit);
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

#[derive(Clone)]
struct Served {
    keeper: Arc<Keeper>,
    /// The last answer of `/readyz`. Held while the next one is found, so that questions at once cost one answer.
    ready: Arc<tokio::sync::Mutex<Option<(Instant, NodeStatusDocument)>>>,
}

/// Whether bytes can really pass: every relay name is registered, and a probe came through every portal. An authority that is away is told,
/// and so is an audit log that was changed: neither changes anything of that, what runs goes on.
async fn ready(State(Served { keeper, ready }): State<Served>) -> Response {
    let mut last = ready.lock().await;
    if last.as_ref().is_none_or(|(at, _)| at.elapsed() > READY_KEPT) {
        *last = Some((Instant::now(), keeper.status().await));
    }
    let Some((_, status)) = last.as_ref() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let only_told = |what: &str| what == AUTHORITY || what == AUDIT;
    let is_ready = status.waiting.iter().all(|waiting| only_told(&waiting.what)) && status.portals.iter().all(|portal| portal.ok);
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(status.clone())).into_response()
}

/// Counts in the text form that monitoring systems read.
async fn metrics(State(Served { keeper, .. }): State<Served>) -> impl IntoResponse {
    let text = keeper.engine().metrics().into_text();
    ([(header::CONTENT_TYPE, CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")], text)
}

async fn only_local_names(request: Request, next: Next) -> Response {
    if is_local(request.headers()) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "this server answers only to its own address\n").into_response()
    }
}

/// HTTP/1.0 has no host, and web browsers always send one.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_hosts() {
        let host = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, text.parse().unwrap());
            is_local(&headers)
        };
        for good in ["127.0.0.1", "127.0.0.1:80", "localhost:80", "LOCALHOST", "[::1]:80", "10.0.0.1:1"] {
            assert!(host(good), "{good}");
        }
        for bad in ["evil.com", "evil.com:80", "localhost.evil.com", "127.0.0.1.evil.com:80", ""] {
            assert!(!host(bad), "{bad}");
        }
        assert!(is_local(&HeaderMap::new()));
    }
}
