//! Counts of the servers over HTTP, in the text form that monitoring systems read, and whether they live.

use std::fmt::Write as _;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_authority::Authority;
use postern_relay::RelayHandle;
use postern_runtime::net::{Acceptor, SocketKind};
use postern_runtime::supervise::Supervisor;
use tokio::net::TcpListener;

/// Connections at a time: monitoring systems are few.
const CONNECTIONS: usize = 32;
/// How long a client may take over the head of its request.
const HEAD: std::time::Duration = std::time::Duration::from_secs(5);

/// What is counted.
#[derive(Clone)]
pub struct Sources {
    pub authority: Option<Authority>,
    pub relay: Option<RelayHandle>,
}

/// Serves `/metrics`, `/livez` and `/readyz` until `supervisor` stops.
pub async fn serve(listener: TcpListener, sources: Sources, supervisor: Supervisor) {
    let mut acceptor = Acceptor::new(listener, SocketKind::Application, CONNECTIONS);
    while let Some(accepted) = supervisor.stopping().run_until_cancelled(acceptor.accept()).await {
        let (sources, stopping) = (sources.clone(), supervisor.stopping().clone());
        supervisor.spawn("metrics", async move {
            let service = service_fn(|request| answer(request, &sources));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(accepted.stream), service);
            // A client that breaks off is its own business.
            let _ = stopping.run_until_cancelled(connection).await;
        });
    }
}

async fn answer(request: Request<Incoming>, sources: &Sources) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "alive\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match ready(sources).await {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, metrics(sources).await),
        (_, "/livez" | "/readyz" | "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    Response::builder()
        .status(status)
        .header("content-type", "text/plain; version=0.0.4")
        .header("cache-control", "no-store")
        .body(Full::new(Bytes::from(body)))
}

/// Whether requests could be answered now: the authority's database is read.
async fn ready(sources: &Sources) -> Result<(), String> {
    if let Some(authority) = &sources.authority {
        authority.status().await.map_err(|error| format!("the authority's database: {error}"))?;
    }
    match &sources.relay {
        Some(relay) if relay.status().draining => Err("the relay is draining".to_owned()),
        _ => Ok(()),
    }
}

async fn metrics(sources: &Sources) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, value: u64| {
        // Writing to memory does not fail.
        let _ = writeln!(text, "# TYPE postern_{name} gauge\npostern_{name} {value}");
    };
    if let Some(authority) = &sources.authority
        && let Ok(status) = authority.status().await
    {
        gauge("authority_members", status.members);
        gauge("authority_sessions", status.sessions as u64);
        gauge("authority_epoch", status.epoch);
    }
    if let Some(relay) = &sources.relay {
        let status = relay.status();
        gauge("relay_joins", status.joins as u64);
        gauge("relay_links", status.links as u64);
        gauge("relay_pipes", status.pipes as u64);
        gauge("relay_buffered_bytes", status.buffered as u64);
        gauge("relay_descriptor_limit", status.descriptors as u64);
        for (name, value) in [("forward", status.bytes_forward), ("backward", status.bytes_backward)] {
            let _ = writeln!(text, "# TYPE postern_relay_bytes_{name}_total counter\npostern_relay_bytes_{name}_total {value}");
        }
    }
    text
}
