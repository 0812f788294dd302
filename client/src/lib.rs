//! The client of Keyward's API: requests with a token, lists over all their pages, and retries with an Idempotency-Key.
//!
//! It reads neither arguments nor environment variables. It follows no redirect and uses no proxy, as the token is for the
//! server of the URL alone.

mod error;
mod retry;

pub use error::{ClientError, DownloadError, Problem};
pub use retry::RetryError;

use keyward_core::key::secret::Secret;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use retry::{Clock, SystemClock};
use serde_json::Value;
use std::fmt::Display;
use std::io::{Read, Write};
use std::time::Duration;
use ureq::http::request::Builder;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{AsSendBody, Body, SendBody};

/// A client of one server.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    token: Secret,
}

/// 192 bits.
const IDEMPOTENCY_KEY_BYTES: usize = 24;
/// How long a request may take; uploads and downloads take as long as their data does.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// A part of a path or query, percent-encoded.
pub fn escape(part: &str) -> impl Display + '_ {
    utf8_percent_encode(part, NON_ALPHANUMERIC)
}

impl Client {
    /// A client of the server with that root URL, which has no slash at its end.
    pub fn new(url: String, token: Secret) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("keyward/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().new_agent(), url, token }
    }

    /// Reads a resource.
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::GET, path, None, None)
    }

    /// Deletes or revokes a resource.
    pub fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::DELETE, path, None, None)
    }

    /// Creates or replaces a resource.
    pub fn put(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.send(Method::PUT, path, Some(document), None)
    }

    /// Changes a resource by a merge patch.
    pub fn patch(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.send(Method::PATCH, path, Some(document), None)
    }

    /// Posts a document, once.
    pub fn post(&self, path: &str, document: &Value) -> Result<Value, ClientError> {
        self.send(Method::POST, path, Some(document), None)
    }

    /// Posts a document with an Idempotency-Key, and repeats the request if its response is lost.
    pub fn post_with_retry(&self, path: &str, document: &Value) -> Result<Value, RetryError> {
        self.post_by_clock(SystemClock, path, document)
    }

    fn post_by_clock(&self, clock: impl Clock, path: &str, document: &Value) -> Result<Value, RetryError> {
        let mut random = [0; IDEMPOTENCY_KEY_BYTES];
        let filled = getrandom::fill(&mut random);
        filled.map_err(|error| RetryError { error: error.into(), outcome_unknown: false })?;
        let key = Secret::new(hex::encode(random));
        retry::retry(clock, || self.send(Method::POST, path, Some(document), Some(&key)))
    }

    /// Every element of a list, from all its pages. `name` is the field with the elements; filters without a value are
    /// left out.
    pub fn list(&self, path: &str, name: &str, filters: &[(&str, Option<String>)]) -> Result<Vec<Value>, ClientError> {
        let path = with_query(format!("{path}?limit=100"), filters);
        let mut elements = Vec::new();
        let mut page = self.get(&path)?;
        loop {
            if let Some(Value::Array(more)) = page.get_mut(name).map(Value::take) {
                elements.extend(more);
            }
            let Some(next) = page.get("next").and_then(Value::as_str) else { return Ok(elements) };
            page = self.get(&format!("{path}&after={}", escape(next)))?;
        }
    }

    /// Posts what the reader gives, for as long as that takes.
    pub fn upload(&self, path: &str, media_type: &str, body: impl Read + 'static) -> Result<Value, ClientError> {
        let request = self.request(Method::POST, path).header("content-type", media_type);
        let response = self.run(request.body(SendBody::from_owned_reader(body)), None)?;
        self.read(response)
    }

    /// Copies a response to the writer, for as long as that takes; returns its length in bytes.
    pub fn download(&self, path: &str, out: &mut impl Write) -> Result<u64, DownloadError> {
        let response = self.run(self.request(Method::GET, path).body(()), None)?;
        if !response.status().is_success() {
            let unexpected = self.unexpected(response.status());
            return Err(self.read(response).err().unwrap_or(unexpected).into());
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        let mut copied = 0;
        loop {
            let read = body.read(&mut buffer).map_err(|error| self.no_response(error.into()))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            out.write_all(piece).map_err(DownloadError::Write)?;
            copied += piece.len() as u64;
        }
        out.flush().map_err(DownloadError::Write)?;
        Ok(copied)
    }

    fn send(
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
        let response = match document {
            Some(document) => {
                let request = request.header("content-type", "application/json");
                self.run(request.body(document.to_string()), Some(TIMEOUT))
            }
            None => self.run(request.body(()), Some(TIMEOUT)),
        };
        self.read(response?)
    }

    fn request(&self, method: Method, path: &str) -> Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token.expose()))
    }

    fn run(
        &self,
        request: Result<Request<impl AsSendBody>, ureq::http::Error>,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, ClientError> {
        let request = request.map_err(|error| self.no_response(error.into()))?;
        let request = self.agent.configure_request(request).timeout_global(timeout).build();
        self.agent.run(request).map_err(|error| self.no_response(error))
    }

    /// The document of a response, or the problem that it reports.
    fn read(&self, mut response: Response<Body>) -> Result<Value, ClientError> {
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_RESPONSE_BYTES).read_to_string();
        let body = body.map_err(|error| self.no_response(error))?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let document: Value = serde_json::from_str(&body).map_err(|_| self.unexpected(status))?;
        if status.is_success() {
            return Ok(document);
        }
        let problem = Problem::read(&document).ok_or_else(|| self.unexpected(status))?;
        Err(ClientError::Refused { url: self.url.clone(), status: status.as_u16(), problem })
    }

    fn no_response(&self, source: ureq::Error) -> ClientError {
        ClientError::NoResponse { url: self.url.clone(), source: Box::new(source) }
    }

    fn unexpected(&self, status: StatusCode) -> ClientError {
        ClientError::UnexpectedResponse { url: self.url.clone(), status: status.as_u16() }
    }
}

/// The path with those parameters that have a value.
pub fn with_query(mut path: String, parameters: &[(&str, Option<String>)]) -> String {
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        path.push(if path.contains('?') { '&' } else { '?' });
        path += &format!("{name}={}", escape(value));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use socket2::{Domain, Socket, Type};
    use std::io::{BufRead, BufReader};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::{Arc, Mutex};
    use std::thread::JoinHandle;
    use std::time::Instant;

    /// A network whose state changes in the pauses between two requests.
    #[derive(Clone)]
    struct Network(Arc<Mutex<State>>);

    struct State {
        address: SocketAddr,
        /// Bound, and not listening.
        reserved: Option<Socket>,
        serving: Option<JoinHandle<String>>,
        idempotency_keys: Vec<String>,
        /// The outcomes of the requests that are still to come, the last one first.
        outcomes: Vec<Outcome>,
        now: Instant,
    }

    #[derive(Clone, Copy)]
    enum Outcome {
        ResponseLost,
        ConnectionRefused,
        Answered,
    }

    impl Network {
        fn new(outcomes: &[Outcome]) -> Self {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let outcomes = outcomes.iter().rev().copied().collect();
            let (reserved, serving, idempotency_keys, now) = (None, None, Vec::new(), Instant::now());
            let mut state = State { address, reserved, serving, idempotency_keys, outcomes, now };
            state.next();
            Self(Arc::new(Mutex::new(state)))
        }
    }

    impl State {
        /// Prepares the outcome of the next request.
        fn next(&mut self) {
            self.idempotency_keys.extend(self.serving.take().map(|serving| serving.join().unwrap()));
            self.reserved = None;
            let Some(outcome) = self.outcomes.pop() else { return };
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&self.address.into()).unwrap();
            if matches!(outcome, Outcome::ConnectionRefused) {
                // No other process gets the port, and nothing listens.
                self.reserved = Some(socket);
                return;
            }
            socket.listen(1).unwrap();
            let listener = TcpListener::from(socket);
            self.serving = Some(std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(&stream);
                let head = reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty());
                let key = head.filter_map(|line| line.strip_prefix("idempotency-key: ").map(str::to_owned)).last();
                // If a part of the request were left unread, closing would reset the connection.
                reader.read_exact(&mut [0; 2]).unwrap();
                if matches!(outcome, Outcome::Answered) {
                    (&stream)
                        .write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 15\r\n\r\n{\"key\": \"made\"}")
                        .unwrap();
                }
                key.unwrap()
            }));
        }
    }

    impl Clock for Network {
        fn now(&self) -> Instant {
            self.0.lock().unwrap().now
        }

        fn sleep(&self, pause: Duration) {
            let mut state = self.0.lock().unwrap();
            state.now += pause;
            state.next();
        }
    }

    fn post(network: &Network) -> Result<Value, RetryError> {
        let url = format!("http://{}", network.0.lock().unwrap().address);
        let agent = ureq::Agent::config_builder().max_idle_connections(0).proxy(None).build().new_agent();
        let client = Client { agent, url, token: Secret::new("kwa_".to_owned()) };
        client.post_by_clock(network.clone(), "/v1/keys", &json!({}))
    }

    #[test]
    fn lost_responses_are_retried_with_one_idempotency_key() {
        use Outcome::{Answered, ConnectionRefused, ResponseLost};
        let network = Network::new(&[ResponseLost, ConnectionRefused, ResponseLost, Answered]);
        assert_eq!(post(&network).unwrap(), json!({"key": "made"}));
        let mut state = network.0.lock().unwrap();
        state.next();
        let keys = &state.idempotency_keys;
        assert_eq!(keys.len(), 3);
        assert!(keys.iter().all(|key| *key == keys[0] && key.len() > 30));
    }

    #[test]
    fn given_up_request_reports_the_last_error_and_an_unknown_outcome() {
        let outcomes: Vec<_> = [Outcome::ResponseLost].into_iter().chain([Outcome::ConnectionRefused; 20]).collect();
        let failed = post(&Network::new(&outcomes)).unwrap_err();
        assert!(failed.to_string().contains("refused") && failed.outcome_unknown, "{failed}");
        let failed = post(&Network::new(&[Outcome::ConnectionRefused])).unwrap_err();
        assert!(failed.to_string().contains("refused") && !failed.outcome_unknown, "{failed}");
    }

    #[test]
    fn query_has_only_parameters_with_a_value() {
        let parameters = [("a", None), ("b", Some("x y".to_owned())), ("c", Some("1".to_owned()))];
        assert_eq!(with_query("/v1/keys".to_owned(), &parameters), "/v1/keys?b=x%20y&c=1");
        assert_eq!(with_query("/v1/keys?limit=1".to_owned(), &[]), "/v1/keys?limit=1");
    }
}
