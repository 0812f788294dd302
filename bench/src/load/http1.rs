//! The part of HTTP/1.1 that the load needs: one response at a time, with a `content-length`.

use crate::load::Get;
use keyward_harness::{Failure, Result};

/// The responses of one connection.
#[derive(Default)]
pub(super) struct Http1 {
    /// The beginning of an incomplete response.
    rest: Vec<u8>,
}

impl Http1 {
    /// The bytes of a request.
    pub(super) fn request(request: &Get, authority: &str) -> Vec<u8> {
        let Get { path, authorization } = request;
        format!(
            "GET {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: bench\r\naccept: */*\r\n\
             authorization: {authorization}\r\n\r\n"
        )
        .into_bytes()
    }

    /// Processes received bytes; returns the number of completed responses.
    pub(super) fn receive(&mut self, bytes: &[u8], expected: u16) -> Result<usize> {
        if self.rest.is_empty() {
            let (ended, used) = answers(bytes, expected)?;
            self.rest.extend_from_slice(&bytes[used..]);
            return Ok(ended);
        }
        self.rest.extend_from_slice(bytes);
        let (ended, used) = answers(&self.rest, expected)?;
        self.rest.drain(..used);
        Ok(ended)
    }
}

/// The complete responses at the beginning: their number, and their length.
fn answers(bytes: &[u8], expected: u16) -> Result<(usize, usize)> {
    let (mut count, mut used) = (0, 0);
    while used < bytes.len() {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut fields);
        let head = answer.parse(&bytes[used..]).map_err(|error| Failure::new(format!("a response: {error}")))?;
        let httparse::Status::Complete(head) = head else { break };
        if answer.code != Some(expected) {
            let shown = String::from_utf8_lossy(&bytes[used..]).chars().take(600).collect::<String>();
            return Err(Failure::new(format!("expected status {expected}, got: {shown}")));
        }
        let length = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok());
        let body = length.ok_or_else(|| Failure::new("expected a content-length in the response"))?;
        if bytes.len() - used < head + body {
            break;
        }
        used += head + body;
        count += 1;
    }
    Ok((count, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[test]
    fn responses_are_counted_wherever_they_are_split() {
        let two = [ANSWER, ANSWER].concat();
        for cut in 0..two.len() {
            let mut http1 = Http1::default();
            let ended = http1.receive(&two[..cut], 200).unwrap() + http1.receive(&two[cut..], 200).unwrap();
            assert_eq!((ended, http1.rest.len()), (2, 0), "{cut}");
        }
    }

    #[test]
    fn unexpected_status_is_an_error_with_the_response() {
        let error = Http1::default().receive(ANSWER, 401).unwrap_err().to_string();
        assert!(error.contains("expected status 401, got: HTTP/1.1 200 OK"), "{error}");
    }
}
