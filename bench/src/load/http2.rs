//! The part of HTTP/2 (RFC 9113) that the load needs: requests of one frame, and the statuses of responses.
//!
//! Not the `h2` crate, which costs several times as much per request: the load generator shares its processor with the
//! upstream, and must be much cheaper than Envoy. The client announces that it has no dynamic table, so responses are
//! decoded without one, and its own fields are not indexed either; that costs Envoy the same in each scenario.

use crate::load::Get;
use keyward_harness::{Failure, Result};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// `END_STREAM`, or `ACK` of SETTINGS and PING.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const FRAME_HEAD: usize = 9;

/// One connection.
pub(super) struct Http2 {
    next_stream: u32,
    /// The beginning of an incomplete frame.
    rest: Vec<u8>,
}

impl Default for Http2 {
    fn default() -> Self {
        Self { next_stream: 1, rest: Vec::new() }
    }
}

impl Http2 {
    /// The client's preface: the settings, and windows that no run exhausts.
    pub(super) fn preface() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let setting = |id: u16, value: u32| [id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat();
        let header_table_size = setting(1, 0);
        let enable_push = setting(2, 0);
        bytes.extend(frame(SETTINGS, 0, 0, &[header_table_size, enable_push].concat()));
        // WINDOW_UPDATE of the connection, to 2^31 - 1.
        bytes.extend(frame(8, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes()));
        bytes
    }

    /// A HEADERS frame without a stream id.
    pub(super) fn request(request: &Get, authority: &str) -> Vec<u8> {
        // From the static table (RFC 7541, appendix A): `:method: GET` and `:scheme: http` complete, names only of the
        // others.
        let mut block = vec![0x82, 0x86];
        for (name, value) in
            [(4, request.path), (1, authority), (58, "bench"), (19, "*/*"), (23, request.authorization.as_str())]
        {
            literal(&mut block, name, value);
        }
        frame(HEADERS, END_STREAM | END_HEADERS, 0, &block)
    }

    /// Sets the stream id in a copy of a request.
    pub(super) fn begin(&mut self, request: &mut [u8]) {
        request[5..FRAME_HEAD].copy_from_slice(&self.next_stream.to_be_bytes());
        self.next_stream += 2;
    }

    /// Processes received bytes, and appends pending replies to `unsent`; returns the number of completed responses.
    pub(super) fn receive(&mut self, bytes: &[u8], expected: u16, unsent: &mut Vec<u8>) -> Result<usize> {
        if self.rest.is_empty() {
            let (ended, used) = frames(bytes, expected, unsent)?;
            self.rest.extend_from_slice(&bytes[used..]);
            return Ok(ended);
        }
        self.rest.extend_from_slice(bytes);
        let (ended, used) = frames(&self.rest, expected, unsent)?;
        self.rest.drain(..used);
        Ok(ended)
    }
}

/// The complete frames at the beginning: how many responses end in them, and their length.
fn frames(bytes: &[u8], expected: u16, unsent: &mut Vec<u8>) -> Result<(usize, usize)> {
    let (mut count, mut used) = (0, 0);
    while let Some(&[a, b, c, kind, flags, ..]) = bytes.get(used..) {
        let end = used + FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(payload) = bytes.get(used + FRAME_HEAD..end) else { break };
        match kind {
            HEADERS => {
                let found = status(payload);
                if flags & END_HEADERS == 0 || found != Some(expected) {
                    return Err(Failure::new(format!("expected status {expected}, got {found:?}")));
                }
            }
            SETTINGS if flags & END_STREAM == 0 => unsent.extend(frame(SETTINGS, 1, 0, &[])),
            PING if flags & END_STREAM == 0 => unsent.extend(frame(PING, 1, 0, payload)),
            RST_STREAM | GOAWAY | CONTINUATION => {
                return Err(Failure::new(format!("a frame of type {kind}: {payload:?}")));
            }
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            count += 1;
        }
        used = end;
    }
    Ok((count, used))
}

/// The status of a response: its first field, from the static table or as a literal with an indexed name.
fn status(mut block: &[u8]) -> Option<u16> {
    // A change of the dynamic table's size.
    while let [0x20..=0x3f, rest @ ..] = block {
        block = rest;
    }
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500].get(usize::from(indexed - 0x88)).copied(),
        // The value in plain text, or in Huffman coding, where digits are 5 bits (0 to 2) or 6 bits long.
        [0x08 | 0x18 | 0x48, 3, digits @ ..] => std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok(),
        [0x08 | 0x18 | 0x48, length @ 0x82..=0x83, coded @ ..] => {
            let coded = coded.get(..usize::from(length & 0x7f))?;
            let mut bits =
                coded.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (32 - 8 * coded.len());
            let mut status = 0;
            for _ in 0..3 {
                let (digit, length) =
                    if bits >> 27 < 3 { (bits >> 27, 5) } else { ((bits >> 26).wrapping_sub(0x19 - 3), 6) };
                status = status * 10 + u16::try_from(digit).ok().filter(|&digit| digit < 10)?;
                bits <<= length;
            }
            Some(status)
        }
        _ => None,
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field without indexing (RFC 7541, 6.2.2), with a name from the static table.
fn literal(block: &mut Vec<u8>, name: u8, value: &str) {
    integer(block, 4, name);
    integer(block, 7, u8::try_from(value.len()).expect("a short value"));
    block.extend_from_slice(value.as_bytes());
}

/// An integer (RFC 7541, 5.1) after a prefix of zeros.
fn integer(block: &mut Vec<u8>, bits: u8, value: u8) {
    let most = (1 << bits) - 1;
    if value < most {
        block.push(value);
    } else {
        block.extend([most, value - most]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_decoded_in_each_encoding() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8d]), Some(404));
        assert_eq!(status(b"\x08\x03401"), Some(401));
        // RFC 7541, appendix C.6.1 and C.6.2.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
        // 4 = 011010, 0 = 00000, 1 = 00001
        assert_eq!(status(&[0x08, 0x82, 0b0110_1000, 0b0000_0001]), Some(401));
        assert_eq!(status(&[0x40]), None);
    }

    #[test]
    fn integer_longer_than_its_prefix_continues_after_it() {
        let mut block = Vec::new();
        literal(&mut block, 23, "x");
        assert_eq!(block, [0x0f, 23 - 15, 1, b'x']);
    }

    #[test]
    fn responses_are_counted_wherever_they_are_split() {
        let answer = [frame(HEADERS, END_HEADERS, 1, &[0x88]), frame(DATA, END_STREAM, 1, b"ok")].concat();
        let all = [frame(SETTINGS, 0, 0, &[]), answer.clone(), answer].concat();
        for cut in 0..all.len() {
            let (mut http2, mut unsent) = (Http2::default(), Vec::new());
            let ended = http2.receive(&all[..cut], 200, &mut unsent).unwrap()
                + http2.receive(&all[cut..], 200, &mut unsent).unwrap();
            assert_eq!((ended, http2.rest.len(), unsent), (2, 0, frame(SETTINGS, 1, 0, &[])), "{cut}");
        }
    }

    #[test]
    fn unexpected_status_is_an_error() {
        let answer = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
        assert!(Http2::default().receive(&answer, 401, &mut Vec::new()).is_err());
    }
}
