//! Counts of the servers over HTTP, in the text form that monitoring systems read, and whether they live.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use postern_authority::Authority;
use postern_relay::RelayHandle;
use postern_runtime::metrics::{CONTENT_TYPE, Exposition};
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
        let (sources, supervisor_too) = (sources.clone(), supervisor.clone());
        supervisor.spawn("metrics", async move {
            let service = service_fn(|request| answer(request, &sources, &supervisor_too));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(accepted.stream), service);
            // A client that breaks off is its own business.
            let _ = supervisor_too.stopping().run_until_cancelled(connection).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    sources: &Sources,
    supervisor: &Supervisor,
) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let mut content_type = "text/plain; charset=utf-8";
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "alive\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match ready(sources).await {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        (&Method::GET | &Method::HEAD, "/metrics") => {
            content_type = CONTENT_TYPE;
            (StatusCode::OK, metrics(sources, supervisor).await)
        }
        (_, "/livez" | "/readyz" | "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    Response::builder()
        .status(status)
        .header("content-type", content_type)
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

/// An authority that cannot be asked is left out: whoever watches sees that it is missing.
async fn metrics(sources: &Sources, supervisor: &Supervisor) -> String {
    let mut out = Exposition::of_process(env!("CARGO_PKG_VERSION"), supervisor);
    if let Some(authority) = &sources.authority
        && let Err(error) = authority.expose(&mut out).await
    {
        tracing::warn!(%error, "the authority's counts could not be read");
    }
    if let Some(relay) = &sources.relay {
        relay.expose(&mut out);
    }
    out.into_text()
}
