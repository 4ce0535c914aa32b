//! Fetching a configuration or a ticket over plain HTTP.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, LOCATION, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use postern_proto::address::HostPort;
use postern_runtime::net::{SocketKind, dial};

use crate::code;
use crate::error::CliError;

/// How long the whole of it may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a server may send us on.
const MAX_REDIRECTS: usize = 3;

/// The body of `url`, at most `limit` bytes of it.
pub async fn get(url: &str, limit: u64) -> Result<Vec<u8>, CliError> {
    let work = async {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            match get_once(&url, limit).await? {
                Got::Body(body) => return Ok(body),
                Got::Moved(to) => url = to,
            }
        }
        Err(CliError::new(code::HTTP_REDIRECTS, "the server sends us on and on"))
    };
    tokio::time::timeout(DEADLINE, work)
        .await
        .map_err(|_| CliError::new(code::HTTP_TIMEOUT, format!("`{url}` did not answer in time")))?
}

enum Got {
    Body(Vec<u8>),
    Moved(String),
}

async fn get_once(url: &str, limit: u64) -> Result<Got, CliError> {
    let bad = || CliError::new(code::INVALID_URL, format!("`{}` is not a URL", url.chars().take(200).collect::<String>()));
    let uri: Uri = url.parse().map_err(|_| bad())?;
    if uri.scheme_str() == Some("https") {
        return Err(CliError::new(code::NO_HTTPS, "https:// is not supported: this program has no TLS client")
            .try_this("fetch the file with another program, and give its path, or - for standard input"));
    }
    let authority = uri.authority().ok_or_else(bad)?;
    if uri.scheme_str() != Some("http") || authority.as_str().contains('@') {
        return Err(bad());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = HostPort::new(host, authority.port_u16().unwrap_or(80)).map_err(|_| bad())?;
    let unreachable = |error: &(dyn std::error::Error + 'static)| {
        CliError::from_error(code::HTTP_UNREACHABLE, error).why(format!("fetching `{url}`"))
    };
    let stream = dial(&address, SocketKind::Application, DEADLINE).await.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority.as_str())
        .header(USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| bad())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).ok_or_else(bad)?;
            return Ok(Got::Moved(if to.starts_with('/') { format!("http://{authority}{to}") } else { to.to_owned() }));
        }
        if status != StatusCode::OK {
            return Err(CliError::new(code::HTTP_STATUS, format!("`{url}` answered {status}")));
        }
        let body = Limited::new(response.into_body(), limit as usize).collect().await;
        let body = body.map_err(|error| CliError::new(code::HTTP_BODY, format!("`{url}` was not read: {error}")))?;
        Ok(Got::Body(body.to_bytes().to_vec()))
    };
    // The connection has to be driven while the exchange waits; what ends it early shows in the exchange.
    tokio::pin!(exchange);
    tokio::select! {
        got = &mut exchange => got,
        _ = connection => exchange.await,
    }
}
