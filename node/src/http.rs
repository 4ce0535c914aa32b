//! The node's local HTTP server, where one was asked for: whether it lives, whether it is ready, and how it is.
//!
//! It listens on 127.0.0.1 and only answers questions. Requests that name another host are refused, because they come from a web
//! page that had its own name resolved to this address.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use postern_proto::address::HostPort;
use postern_runtime::net::bind;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::control::document::NodeStatusDocument;
use crate::control::fault::Fault;
use crate::engine::{EngineStatus, InletStatus, RelayState, RelayStatus};
use crate::keeper::Keeper;

/// For so long an answer of `/readyz` is given again: a probe is a stream to every target, and anybody on this machine may ask.
const READY_KEPT: Duration = Duration::from_secs(2);

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
        let listener = bind(&HostPort::from(SocketAddr::from(([127, 0, 0, 1], port)))).await?;
        let address = listener.local_addr().map_err(|error| Fault::from(crate::engine::EngineError::Address(error)))?;
        Ok(Self { listener, address })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `closed`.
    ///
    /// # Errors
    /// Where the system takes the listener away.
    pub async fn serve(self, keeper: Arc<Keeper>, closed: CancellationToken) -> io::Result<()> {
        let served = Served { keeper, ready: Arc::default() };
        let router = Router::new()
            .route("/", get(async || "Postern\n"))
            .route("/livez", get(async || "alive\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(async |State(Served { keeper, .. }): State<Served>| metrics(&keeper.engine().status())))
            .route("/show", get(async |State(Served { keeper, .. }): State<Served>| Json(keeper.show())))
            .layer(from_fn(only_local_names))
            .with_state(served);
        axum::serve(self.listener, router).with_graceful_shutdown(closed.cancelled_owned()).await
    }
}

#[derive(Clone)]
struct Served {
    keeper: Arc<Keeper>,
    /// The last answer of `/readyz`. Held while the next one is found, so that questions at once cost one answer.
    ready: Arc<tokio::sync::Mutex<Option<(Instant, NodeStatusDocument)>>>,
}

/// Whether bytes can really pass: every relay name is claimed, and a probe came through every portal.
async fn ready(State(Served { keeper, ready }): State<Served>) -> Response {
    let mut last = ready.lock().await;
    if last.as_ref().is_none_or(|(at, _)| at.elapsed() > READY_KEPT) {
        *last = Some((Instant::now(), keeper.status().await));
    }
    let Some((_, status)) = last.as_ref() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let is_ready = status.waiting.is_empty() && status.portals.iter().all(|portal| portal.ok);
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(status.clone())).into_response()
}

/// Counts in the text form that monitoring systems read. Names need no escapes: they have none of its special characters.
fn metrics(status: &EngineStatus) -> impl IntoResponse + use<> {
    let mut text = String::new();
    let mut gauge = |name: &str, values: &[(Option<(&str, String)>, u64)]| {
        // Writing to memory does not fail.
        let _ = writeln!(text, "# TYPE postern_node_{name} gauge");
        for (label, value) in values {
            let label = label.as_ref().map(|(key, value)| format!("{{{key}=\"{value}\"}}")).unwrap_or_default();
            let _ = writeln!(text, "postern_node_{name}{label} {value}");
        }
    };
    gauge("streams", &[(None, status.streams as u64)]);
    gauge("outlets", &[(None, status.outlets.len() as u64)]);
    let inlet = |inlet: &InletStatus| Some(("inlet", inlet.spec.alias.to_string()));
    let up: Vec<_> = status.inlets.iter().map(|each| (inlet(each), u64::from(each.failure.is_none()))).collect();
    let streams: Vec<_> = status.inlets.iter().map(|each| (inlet(each), each.streams as u64)).collect();
    gauge("inlet_up", &up);
    gauge("inlet_streams", &streams);
    let relay = |relay: &RelayStatus| Some(("relay", relay.spec.name.to_string()));
    let up: Vec<_> = status.relays.iter().map(|each| (relay(each), u64::from(each.state == RelayState::Up))).collect();
    gauge("relay_up", &up);
    if let Some(expires) = status.credential_expires {
        gauge("credential_expires_seconds", &[(None, expires.as_unix())]);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4"), (header::CACHE_CONTROL, "no-store")], text)
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
