//! A thin client over `ureq`: one request with its redirects, and its body in bounded time and memory.
//!
//! **Invariant:** text from a server is shown without the token and without control characters, and shortened.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::anyhow;
use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, StatusCode, Uri, header},
    tls::TlsConfig,
};

use crate::{
    supervise::interrupted,
    token::{Token, environment},
};

use super::{
    endpoint::{Endpoint, printable},
    fault::{Fault, Patience},
    proxy, trust,
};

const REDIRECTS_MAX: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Below this many bytes a second over a whole stall window, a body counts as stalled.
const RATE_BYTES_MIN: u64 = 1024;
/// Longest text of a server in a message.
const SERVER_TEXT_CHARS_MAX: usize = 300;
const BUFFER_BYTES: usize = 256 << 10;

/// A server, and how it is spoken to.
pub(crate) struct Client {
    agent: Agent,
    pub(crate) endpoint: Endpoint,
    token: Option<Token>,
    pub(crate) patience: Patience,
    site: Box<dyn Site>,
    done: Arc<AtomicBool>,
}

/// What the answers of a kind of server mean.
pub(crate) trait Site: Send + Sync {
    /// Refuses an answer that is about something else than was asked for; says why.
    fn check(&self, headers: &HeaderMap) -> Result<(), String>;
    /// What 401 and 403 of the endpoint itself mean.
    fn no_access(&self, refused: Refused<'_>) -> Fault;
    /// What 404 means.
    fn missing(&self, refused: Refused<'_>) -> Fault;
}

/// An answer that brings nothing.
pub(crate) struct Refused<'a> {
    pub(crate) error: anyhow::Error,
    pub(crate) status: StatusCode,
    /// The server's own code for the reason; may be empty.
    pub(crate) code: &'a str,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) token: Option<&'a Token>,
}

/// From where on a file is wanted, if it is still the one with this entity tag.
pub(crate) struct Resume<'a> {
    pub(crate) start: u64,
    pub(crate) etag: &'a str,
}

impl Client {
    pub(crate) fn new(
        endpoint: Endpoint,
        token: Option<Token>,
        patience: Patience,
        site: impl Site + 'static,
    ) -> anyhow::Result<Self> {
        let roots = trust::roots(&environment)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("proofmark/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            // Each request has the one of its own address.
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_send_request(Some(patience.stall))
            .timeout_recv_response(Some(patience.stall))
            .timeout_per_read(Some(patience.stall))
            .build();
        let (agent, done) = (Agent::new_with_config(config), Arc::new(AtomicBool::new(false)));
        // A read that waits for a silent server must not keep Ctrl-C waiting.
        let (shared, over) = (agent.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if interrupted() {
                    return shared.shutdown();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(Self { agent, endpoint, token, patience, site: Box::new(site), done })
    }

    /// Asks once, following redirects; the answer is 200, 206 or 416.
    pub(crate) fn get(&self, url: &Uri, resume: Option<&Resume<'_>>) -> Result<Response<Body>, Fault> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let reply = self.ask(&url, resume)?;
            let owned = self.endpoint.owns(&url);
            if owned {
                self.site
                    .check(reply.headers())
                    .map_err(|why| Fault::fatal(anyhow!("{}", self.tame(&why))))?;
            }
            match reply.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    return Ok(reply);
                }
                status if status.is_redirection() => {
                    let location = text(reply.headers(), "location").unwrap_or_default();
                    url = self.endpoint.follow(&url, location)?;
                }
                status => return Err(self.refusal(&url, status, reply.headers(), owned)),
            }
        }
        Err(Fault::fatal(anyhow!("{}: more than {REDIRECTS_MAX} redirects", printable(&url.to_string()))))
    }

    fn ask(&self, url: &Uri, resume: Option<&Resume<'_>>) -> Result<Response<Body>, Fault> {
        if interrupted() {
            return Err(Fault::Interrupted);
        }
        let proxy = proxy::of(url, &environment)
            .map_err(|error| Fault::Fatal { error, hint: Some(proxy::HINT.to_owned()) })?;
        let mut request = self.agent.get(url.clone()).config().proxy(proxy).build();
        if let Some(token) = self.token.as_ref().filter(|_| self.endpoint.owns(url)) {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        if let Some(Resume { start, etag }) = resume {
            request =
                request.header(header::RANGE, format!("bytes={start}-")).header(header::IF_RANGE, *etag);
        }
        request.call().map_err(|error| self.broken(url, &error))
    }

    /// A request that got no answer.
    fn broken(&self, url: &Uri, error: &ureq::Error) -> Fault {
        if interrupted() {
            return Fault::Interrupted;
        }
        let failure = anyhow!("{}: {}", printable(&url.to_string()), self.tame(&error.to_string()));
        if error.to_string().contains("certificate") {
            return Fault::Fatal { error: failure, hint: Some(trust::HINT.to_owned()) };
        }
        match error {
            ureq::Error::Rustls(_)
            | ureq::Error::Tls(_)
            | ureq::Error::BadUri(_)
            | ureq::Error::InvalidProxyUrl => Fault::fatal(failure),
            _ => Fault::passing(failure),
        }
    }

    /// What an answer that brings nothing means.
    fn refusal(&self, url: &Uri, status: StatusCode, headers: &HeaderMap, owned: bool) -> Fault {
        let code = text(headers, "x-error-code").unwrap_or_default();
        let message = text(headers, "x-error-message")
            .map(|message| format!(": {}", self.tame(message)))
            .unwrap_or_default();
        let error = anyhow!("{}: got status {}{message}", printable(&url.to_string()), status.as_u16());
        let refused =
            |error| Refused { error, status, code, endpoint: &self.endpoint, token: self.token.as_ref() };
        match status.as_u16() {
            401 | 403 if owned => self.site.no_access(refused(error)),
            // A signed address that has expired; the endpoint gives a new one.
            401 | 403 => Fault::passing(error),
            404 => self.site.missing(refused(error)),
            408 | 425 | 429 | 500..=599 => {
                let seconds = text(headers, "retry-after").and_then(|value| value.trim().parse().ok());
                Fault::Passing { error, wait: seconds.map(Duration::from_secs) }
            }
            _ => Fault::fatal(error),
        }
    }

    /// Reads a body to its end: at most `bytes_max`, never stalled, never past Ctrl-C.
    pub(crate) fn read(
        &self,
        body: &mut Body,
        bytes_max: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<u64, Fault> {
        let mut reader = body.with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        let (mut total, mut window) = (0_u64, (Instant::now(), 0_u64));
        let floor = (self.patience.stall.as_secs_f64() * RATE_BYTES_MIN as f64) as u64;
        loop {
            let result = reader.read(&mut buffer);
            if interrupted() {
                return Err(Fault::Interrupted);
            }
            let count = match result {
                Ok(0) => return Ok(total),
                Ok(count) => count,
                Err(error) => {
                    let why = self.tame(&error.to_string());
                    return Err(Fault::passing(anyhow!("broken off after {total} bytes: {why}")));
                }
            };
            total += count as u64;
            if total > bytes_max {
                return Err(Fault::fatal(anyhow!("got more than {bytes_max} bytes")));
            }
            sink(buffer.get(..count).unwrap_or_default())?;
            window.1 += count as u64;
            if window.0.elapsed() >= self.patience.stall {
                if window.1 < floor {
                    let seconds = self.patience.stall.as_secs_f32();
                    let error = anyhow!(
                        "stalled: got {} bytes in {seconds:.0} s, expected at least {floor}",
                        window.1
                    );
                    return Err(Fault::passing(error));
                }
                window = (Instant::now(), 0);
            }
        }
    }

    /// A server's text, fit to be shown.
    pub(crate) fn tame(&self, message: &str) -> String {
        let message = Token::redact(self.token.as_ref(), message);
        message.chars().filter(|c| !c.is_control()).take(SERVER_TEXT_CHARS_MAX).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// A header's text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
