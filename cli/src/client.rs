//! Asks the control plane, and says what it said when it refuses.

use super::again::{self, GivenUp, SystemTime, Time};
use super::arguments::ControlPlane;
use super::{CliError, output};
use keyward_core::key::secret::Secret;
use keyward_server::auth::tokens::file::Audience;
use keyward_server::random;
use serde_json::Value;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::request::Builder;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Body, SendBody};

/// A control plane that can be asked.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    token: Secret,
}

/// The control plane was not asked, did not answer, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL cannot be used.
    #[error("{0}")]
    Url(&'static str),
    /// There is no token to show.
    #[error("no token: KEYWARD_ADMIN_TOKEN is not set, and {}: {source}", path.display())]
    NoToken {
        /// The file that was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// There was no answer.
    #[error("no answer from {url}: {source}")]
    Unreachable {
        /// The server.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The answer is not one of a control plane.
    #[error("{url} answered {status} with something that is not of this API")]
    NotTheApi {
        /// The server.
        url: String,
        /// The status.
        status: u16,
    },
    /// The control plane refused.
    #[error("{url} refused ({status}): {refusal}")]
    Refused {
        /// The server.
        url: String,
        /// The status.
        status: u16,
        /// What it said.
        refusal: Refusal,
    },
}

/// A problem document (RFC 9457), as far as it is shown.
#[derive(Debug)]
pub struct Refusal {
    kind: String,
    detail: String,
    errors: Vec<(String, String)>,
}

/// What the types of problems begin with.
const PROBLEMS: &str = "urn:keyward:problem:";
/// 190 bits.
const IDEMPOTENCY_KEY_LENGTH: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: u64 = 64 << 20;

impl Client {
    /// A client that shows the token of the environment, or of the data directory.
    pub(super) fn new(server: &ControlPlane) -> Result<Self, ClientError> {
        Self::with_patience(server, Some(TIMEOUT))
    }

    /// The same, for what takes as long as there is to send or to receive.
    pub(super) fn patient(server: &ControlPlane) -> Result<Self, ClientError> {
        Self::with_patience(server, None)
    }

    fn with_patience(server: &ControlPlane, timeout: Option<Duration>) -> Result<Self, ClientError> {
        let config = ureq::Agent::config_builder()
            .timeout_global(timeout)
            .timeout_connect(Some(TIMEOUT))
            .http_status_as_error(false)
            // The token is for this server, not for one that it points to, nor for a proxy.
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")));
        let url = server.url().map_err(ClientError::Url)?;
        Ok(Self { agent: config.build().new_agent(), url, token: token(server)? })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, path, None, None)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::DELETE, path, None, None)
    }

    pub(super) fn post(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, Some(document), None)
    }

    /// Posts what must happen once, under an Idempotency-Key, so that it can be asked for again where the answer was lost.
    /// The remedy is for whoever does not get to know whether it was done.
    pub(super) fn post_once(&self, path: &str, document: &Value, remedy: String) -> Result<Value, CliError> {
        self.post_once_in(&mut SystemTime, path, document, remedy)
    }

    fn post_once_in(
        &self,
        time: &mut impl Time,
        path: &str,
        document: &Value,
        remedy: String,
    ) -> Result<Value, CliError> {
        let idempotency_key = Secret::new(random::base62(IDEMPOTENCY_KEY_LENGTH)?);
        let answer = again::ask(time, || self.ask(Method::POST, path, Some(document), Some(&idempotency_key)));
        answer.map_err(
            |GivenUp { error, may_be_done }| {
                if may_be_done { CliError::MayBeDone { source: error.into(), remedy } } else { error.into() }
            },
        )
    }

    pub(super) fn put(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.ask(Method::PUT, path, Some(document), None)
    }

    pub(super) fn patch(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.ask(Method::PATCH, path, Some(document), None)
    }

    /// Sends what can be read, however much it is.
    pub(super) fn upload(
        &self,
        path: &str,
        media_type: &str,
        body: impl io::Read + 'static,
    ) -> Result<Value, ClientError> {
        let request = self.request(Method::POST, path).header("content-type", media_type);
        let request =
            request.body(SendBody::from_owned_reader(body)).map_err(|error| self.unreachable(error.into()))?;
        self.read(self.agent.run(request))
    }

    /// Copies what the server says, however much it is; how much it was.
    pub(super) fn download(&self, path: &str, out: &mut impl io::Write) -> Result<u64, DownloadError> {
        let request = self.request(Method::GET, path).body(()).map_err(|error| self.unreachable(error.into()))?;
        let answer = self.agent.run(request).map_err(|error| self.unreachable(error))?;
        if !answer.status().is_success() {
            let status = answer.status().as_u16();
            let not_the_api = || ClientError::NotTheApi { url: self.url.clone(), status };
            return Err(self.read(Ok(answer)).err().unwrap_or_else(not_the_api).into());
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        let mut copied = 0;
        loop {
            let read = body.read(&mut buffer).map_err(|error| self.unreachable(error.into()))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            out.write_all(piece).map_err(DownloadError::Write)?;
            copied += piece.len() as u64;
        }
        out.flush().map_err(DownloadError::Write)?;
        Ok(copied)
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        document: Option<&Value>,
        idempotency_key: Option<&Secret>,
    ) -> Result<Value, ClientError> {
        let mut request = self.request(method, path);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", format!("\"{}\"", key.expose()));
        }
        let answer = match document {
            Some(document) => {
                let request = request.header("content-type", "application/json").body(document.to_string());
                self.agent.run(request.map_err(|error| self.unreachable(error.into()))?)
            }
            None => self.agent.run(request.body(()).map_err(|error| self.unreachable(error.into()))?),
        };
        self.read(answer)
    }

    fn request(&self, method: Method, path: &str) -> Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token.expose()))
    }

    fn unreachable(&self, source: ureq::Error) -> ClientError {
        ClientError::Unreachable { url: self.url.clone(), source: Box::new(source) }
    }

    /// The document of an answer, or what the control plane said against it.
    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Value, ClientError> {
        let unreachable = |source| self.unreachable(source);
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string().map_err(unreachable)?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let not_the_api = || ClientError::NotTheApi { url: self.url.clone(), status: status.as_u16() };
        let document: Value = serde_json::from_str(&body).map_err(|_| not_the_api())?;
        if status.is_success() {
            return Ok(document);
        }
        let refusal = Refusal::read(&document).ok_or_else(not_the_api)?;
        Err(ClientError::Refused { url: self.url.clone(), status: status.as_u16(), refusal })
    }
}

#[cfg(test)]
impl ClientError {
    /// A refusal with that problem.
    pub(super) fn refused_for_test(status: u16, problem: &str) -> Self {
        let kind = format!("{PROBLEMS}{problem}");
        Self::Refused {
            url: String::new(),
            status,
            refusal: Refusal { kind, detail: String::new(), errors: Vec::new() },
        }
    }
}

/// A download did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Write(io::Error),
}

impl Refusal {
    /// Whether what was refused may have been done.
    pub(super) fn leaves_open(&self) -> bool {
        self.kind.strip_prefix(PROBLEMS) == Some("outcome_unknown")
    }

    fn read(document: &Value) -> Option<Self> {
        let text = |value: &Value, field| value.get(field).and_then(Value::as_str).map(output::printable);
        let errors = document.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Some(Self {
            kind: text(document, "type").unwrap_or_default(),
            detail: text(document, "detail").or_else(|| text(document, "title"))?,
            errors: errors.iter().filter_map(|error| Some((text(error, "field")?, text(error, "message")?))).collect(),
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        for (field, message) in &self.errors {
            let separator = if field.is_empty() { "" } else { ": " };
            write!(f, "\n  {field}{separator}{message}")?;
        }
        Ok(())
    }
}

fn token(server: &ControlPlane) -> Result<Secret, ClientError> {
    // Set to nothing is as good as not set.
    if let Some(token) = std::env::var("KEYWARD_ADMIN_TOKEN").ok().as_deref().and_then(first_line) {
        return Ok(Secret::new(token));
    }
    let path = server.data_dir().join(Audience::Admin.file_name());
    let file = std::fs::read_to_string(&path).and_then(|file| {
        first_line(&file).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file is empty"))
    });
    file.map(Secret::new).map_err(|source| ClientError::NoToken { path, source })
}

/// The first token of a file, or of a variable into which a file was read.
fn first_line(text: &str) -> Option<String> {
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use socket2::{Domain, Socket, Type};
    use std::io::{BufRead, BufReader, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::thread::JoinHandle;
    use std::time::Instant;

    /// A network whose state changes in the pauses between two attempts.
    struct Network {
        address: SocketAddr,
        listener: Option<Socket>,
        serving: Option<JoinHandle<String>>,
        asked_under: Vec<String>,
        /// What happens to the attempts that are still to come, the last one first.
        to_come: Vec<Next>,
        now: Instant,
    }

    /// What becomes of an attempt.
    #[derive(Clone, Copy)]
    enum Next {
        Lost,
        Refused,
        Answered,
    }

    impl Network {
        fn new(next: &[Next]) -> Self {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let to_come = next.iter().rev().copied().collect();
            let (serving, asked_under, now) = (None, Vec::new(), Instant::now());
            let mut network = Self { address, listener: None, serving, asked_under, to_come, now };
            network.turn();
            network
        }

        /// Makes the next attempt meet what it is to meet.
        fn turn(&mut self) {
            self.asked_under.extend(self.serving.take().map(|serving| serving.join().unwrap()));
            self.listener = None;
            let Some(next) = self.to_come.pop() else { return };
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&self.address.into()).unwrap();
            if matches!(next, Next::Refused) {
                // Nobody else gets the port, and nobody listens.
                self.listener = Some(socket);
                return;
            }
            socket.listen(1).unwrap();
            let listener = TcpListener::from(socket);
            self.serving = Some(std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(&stream);
                let head = reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty());
                let key = head.filter_map(|line| line.strip_prefix("idempotency-key: ").map(str::to_owned)).last();
                // Where a part of the request is left, the answer is lost as the connection ends.
                reader.read_exact(&mut [0; 2]).unwrap();
                if matches!(next, Next::Answered) {
                    (&stream)
                        .write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 15\r\n\r\n{\"key\": \"made\"}")
                        .unwrap();
                }
                key.unwrap()
            }));
        }
    }

    impl Time for Network {
        fn now(&self) -> Instant {
            self.now
        }

        fn pass(&mut self, pause: Duration) {
            self.now += pause;
            self.turn();
        }
    }

    fn post_once(network: &mut Network) -> Result<Value, CliError> {
        let url = format!("http://{}", network.address);
        let agent = ureq::Agent::config_builder().max_idle_connections(0).proxy(None).build().new_agent();
        let client = Client { agent, url, token: Secret::new("kwa_".to_owned()) };
        client.post_once_in(network, "/v1/keys", &json!({}), "Look at it".to_owned())
    }

    #[test]
    fn answers_that_were_lost_and_a_server_that_was_away_meanwhile_are_outlasted_under_one_idempotency_key() {
        let mut network = Network::new(&[Next::Lost, Next::Refused, Next::Lost, Next::Answered]);
        assert_eq!(post_once(&mut network).unwrap(), json!({"key": "made"}));
        network.turn();
        assert_eq!(network.asked_under.len(), 3);
        assert!(network.asked_under.iter().all(|key| *key == network.asked_under[0] && key.len() > 30));
    }

    #[test]
    fn who_gives_up_says_what_came_last_and_that_it_may_be_done_and_how_to_go_on() {
        let nobody: Vec<_> = [Next::Lost].into_iter().chain([Next::Refused; 20]).collect();
        let told = post_once(&mut Network::new(&nobody)).unwrap_err().to_string();
        assert!(told.contains("refused") && told.contains("is not known") && told.ends_with("Look at it"), "{told}");
        let told = post_once(&mut Network::new(&[Next::Refused])).unwrap_err().to_string();
        assert!(told.contains("refused") && !told.contains("is not known"), "{told}");
    }

    #[test]
    fn a_refusal_is_shown_with_every_field_that_is_wrong() {
        let document = json!({"title": "T", "detail": "some fields cannot be used", "errors": [
            {"field": "name", "message": "is required"}, {"field": "", "message": "too long"},
        ]});
        let refusal = Refusal::read(&document).unwrap();
        assert_eq!(refusal.to_string(), "some fields cannot be used\n  name: is required\n  too long");
        assert!(Refusal::read(&json!("nonsense")).is_none());
    }

    #[test]
    fn a_control_character_of_a_refusal_does_not_reach_the_terminal() {
        let document = json!({"detail": "a\u{1b}[2J", "errors": [{"field": "\r", "message": "\u{7}"}]});
        assert_eq!(Refusal::read(&document).unwrap().to_string(), "a\\u{1b}[2J\n  \\u{d}: \\u{7}");
    }

    #[test]
    fn of_several_tokens_the_first_is_shown() {
        assert_eq!(first_line("\n kwa_first\r\nkwa_second\n").as_deref(), Some("kwa_first"));
        assert_eq!(first_line(" \n"), None);
    }
}
