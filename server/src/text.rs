//! Splits text files into lines, in chunks of any size, for imports and leak reports.
//!
//! A line ends with LF, CRLF or CR. A byte order mark is removed, and UTF-16 is decoded, with or without a mark. Other encodings
//! cannot be detected reliably, so a line that is not UTF-8 is passed on, and the caller reports its number.

use encoding_rs::{Decoder, UTF_16BE, UTF_16LE};
use std::collections::VecDeque;
use std::fmt;

/// Finds lines.
pub struct Lines {
    max_bytes: usize,
    source: Source,
    /// How many lines have ended.
    ended: u64,
    /// The current line so far, unless it is too long.
    current: Vec<u8>,
    is_too_long: bool,
    /// Whether the current line has ended with a CR, to which an LF may belong.
    has_return: bool,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// The bytes without what ends the line; UTF-8 unless the file is in another encoding that cannot be recognised.
    pub text: Result<Vec<u8>, Unusable>,
    /// What ends it.
    pub ending: &'static str,
}

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// More bytes than the reader may hold.
    #[error("expected at most {0} bytes")]
    TooLong(usize),
    /// UTF-32, which nothing after it can be read from.
    #[error("expected UTF-8, got UTF-32: save the file as UTF-8")]
    Utf32,
}

/// How the bytes of a file stand for text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, or another superset of ASCII that cannot be told from it.
    Utf8,
    /// UTF-16, the low byte first.
    Utf16Le,
    /// UTF-16, the high byte first.
    Utf16Be,
    /// UTF-32 of either order.
    Utf32,
}

enum Source {
    /// The first bytes, which are too few to recognise the encoding.
    Beginning(Vec<u8>),
    Utf8,
    Utf16(Encoding, Box<Decoder>),
    Utf32,
}

/// How many bytes say which encoding it is.
const BEGINNING: usize = 4;

impl Encoding {
    /// The encoding of a file that begins with these bytes, and how many of them are a byte order mark.
    pub fn of(beginning: &[u8]) -> (Self, usize) {
        match *beginning {
            [0xef, 0xbb, 0xbf, ..] => (Self::Utf8, 3),
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => (Self::Utf32, 4),
            [0xff, 0xfe, ..] => (Self::Utf16Le, 2),
            [0xfe, 0xff, ..] => (Self::Utf16Be, 2),
            // No text has a NUL, and every file that is read here begins with ASCII.
            [first, 0, second, ..] if first != 0 && second != 0 => (Self::Utf16Le, 0),
            [first, 0] if first != 0 => (Self::Utf16Le, 0),
            [0, first, 0, ..] if first != 0 => (Self::Utf16Be, 0),
            [0, first] if first != 0 => (Self::Utf16Be, 0),
            _ => (Self::Utf8, 0),
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16Le => "UTF-16LE",
            Self::Utf16Be => "UTF-16BE",
            Self::Utf32 => "UTF-32",
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What has come of a line may be a key.
        f.debug_struct("Lines").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Lines {
    /// A reader of lines of at most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            source: Source::Beginning(Vec::new()),
            ended: 0,
            current: Vec::new(),
            is_too_long: false,
            has_return: false,
        }
    }

    /// The encoding, once it is known.
    pub fn encoding(&self) -> Encoding {
        match &self.source {
            Source::Beginning(_) | Source::Utf8 => Encoding::Utf8,
            Source::Utf16(encoding, _) => *encoding,
            Source::Utf32 => Encoding::Utf32,
        }
    }

    /// Reads on, and appends the lines that are complete.
    pub fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Line>) {
        let Source::Beginning(first) = &mut self.source else { return self.decode(bytes, false, out) };
        first.extend_from_slice(bytes);
        if first.len() >= BEGINNING {
            self.recognize(out);
        }
    }

    /// Ends with what is left. A last line needs no ending.
    pub fn finish(&mut self, out: &mut VecDeque<Line>) {
        if matches!(self.source, Source::Beginning(_)) {
            self.recognize(out);
        }
        self.decode(&[], true, out);
        if self.has_return {
            self.end("\r", out);
        } else if !self.current.is_empty() || self.is_too_long {
            self.end("", out);
        }
    }

    fn recognize(&mut self, out: &mut VecDeque<Line>) {
        let Source::Beginning(first) = &mut self.source else { return };
        let first = std::mem::take(first);
        let (encoding, mark) = Encoding::of(&first);
        let decoder = |encoding: &'static encoding_rs::Encoding| Box::new(encoding.new_decoder_without_bom_handling());
        self.source = match encoding {
            Encoding::Utf8 => Source::Utf8,
            Encoding::Utf16Le => Source::Utf16(encoding, decoder(UTF_16LE)),
            Encoding::Utf16Be => Source::Utf16(encoding, decoder(UTF_16BE)),
            Encoding::Utf32 => {
                self.ended += 1;
                out.push_back(Line { number: self.ended, text: Err(Unusable::Utf32), ending: "" });
                Source::Utf32
            }
        };
        self.decode(first.get(mark..).unwrap_or_default(), false, out);
    }

    fn decode(&mut self, bytes: &[u8], is_last: bool, out: &mut VecDeque<Line>) {
        match &mut self.source {
            Source::Beginning(_) | Source::Utf32 => {}
            Source::Utf8 => self.split(bytes, out),
            Source::Utf16(_, decoder) => {
                let most = decoder.max_utf8_buffer_length(bytes.len()).unwrap_or_default();
                let mut text = String::with_capacity(most);
                let _ = decoder.decode_to_string(bytes, &mut text, is_last);
                self.split(text.as_bytes(), out);
            }
        }
    }

    fn split(&mut self, mut bytes: &[u8], out: &mut VecDeque<Line>) {
        if self.has_return && !bytes.is_empty() {
            let is_both = bytes.first() == Some(&b'\n');
            self.end(if is_both { "\r\n" } else { "\r" }, out);
            bytes = bytes.get(usize::from(is_both)..).unwrap_or_default();
        }
        while let Some(at) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, rest) = bytes.split_at(at);
            self.hold(text);
            let (ending, length) = match rest {
                [b'\n', ..] => ("\n", 1),
                [b'\r', b'\n', ..] => ("\r\n", 2),
                [b'\r', _, ..] => ("\r", 1),
                _ => {
                    self.has_return = true;
                    return;
                }
            };
            self.end(ending, out);
            bytes = rest.get(length..).unwrap_or_default();
        }
        self.hold(bytes);
    }

    fn hold(&mut self, text: &[u8]) {
        if self.is_too_long || self.current.len() + text.len() > self.max_bytes {
            self.is_too_long = true;
            self.current = Vec::new();
        } else {
            self.current.extend_from_slice(text);
        }
    }

    fn end(&mut self, ending: &'static str, out: &mut VecDeque<Line>) {
        self.ended += 1;
        self.has_return = false;
        let text = std::mem::take(&mut self.current);
        let is_too_long = std::mem::take(&mut self.is_too_long);
        let text = if is_too_long { Err(Unusable::TooLong(self.max_bytes)) } else { Ok(text) };
        out.push_back(Line { number: self.ended, text, ending });
    }
}

/// Whether a character shows nothing, or moves what stands beside it: control and format characters (categories Cc and Cf
/// of Unicode), separators of lines, and fillers without a width.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
            | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text for a terminal: what is invisible stands there by its number, such as `\u{202e}`.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_invisible(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    /// The number of a line, what stands in it, and how it ends.
    type ReadLine = (u64, Result<String, Unusable>, &'static str);

    fn read(bytes: &[u8]) -> (Vec<ReadLine>, Encoding) {
        let mut expected = None;
        for size in [bytes.len().max(1), 1, 2, 3, 5] {
            let (mut lines, mut out) = (Lines::new(20), VecDeque::new());
            bytes.chunks(size).for_each(|piece| lines.push(piece, &mut out));
            lines.finish(&mut out);
            let text = |line: Line| {
                (line.number, line.text.map(|text| String::from_utf8_lossy(&text).into_owned()), line.ending)
            };
            let read = (out.into_iter().map(text).collect::<Vec<_>>(), lines.encoding());
            assert_eq!(*expected.get_or_insert_with(|| read.clone()), read, "pieces of {size}");
        }
        expected.unwrap()
    }

    fn utf16(text: &str, bytes_of: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes_of).collect()
    }

    #[test]
    fn a_line_ends_with_lf_crlf_or_cr() {
        let ok = |number, text: &str, ending| (number, Ok(text.to_owned()), ending);
        assert_eq!(
            read(b"a\nb\r\nc\rd\r\r\n\ne").0,
            [
                ok(1, "a", "\n"),
                ok(2, "b", "\r\n"),
                ok(3, "c", "\r"),
                ok(4, "d", "\r"),
                ok(5, "", "\r\n"),
                ok(6, "", "\n"),
                ok(7, "e", "")
            ]
        );
        assert_eq!(read(b"").0, []);
        assert_eq!(read(b"a\r").0, [ok(1, "a", "\r")]);
    }

    #[test]
    fn every_encoding_is_recognised_with_and_without_its_mark() {
        let text = "né\r\n\u{1f511}";
        let (le, be) = (u16::to_le_bytes as fn(u16) -> [u8; 2], u16::to_be_bytes as fn(u16) -> [u8; 2]);
        for (bytes, encoding) in [
            (text.as_bytes().to_vec(), Encoding::Utf8),
            (format!("\u{feff}{text}").into_bytes(), Encoding::Utf8),
            (utf16(text, le), Encoding::Utf16Le),
            (utf16(&format!("\u{feff}{text}"), le), Encoding::Utf16Le),
            (utf16(text, be), Encoding::Utf16Be),
            (utf16(&format!("\u{feff}{text}"), be), Encoding::Utf16Be),
        ] {
            let lines = vec![(1, Ok("né".to_owned()), "\r\n"), (2, Ok("\u{1f511}".to_owned()), "")];
            let (read, recognised) = read(&bytes);
            assert_eq!(recognised, encoding);
            assert_eq!(read, lines, "{encoding:?}");
        }
        assert_eq!(read(b"a").1, Encoding::Utf8);
        assert_eq!(read(b"a\0").0, [(1, Ok("a".to_owned()), "")]);
        let utf32: Vec<u8> = "\u{feff}ab".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        assert_eq!(read(&utf32), (vec![(1, Err(Unusable::Utf32), "")], Encoding::Utf32));
    }

    #[test]
    fn a_line_that_is_too_long_costs_no_other() {
        let text = format!("{}\r\nb\n", "x".repeat(21));
        assert_eq!(read(text.as_bytes()).0, [(1, Err(Unusable::TooLong(20)), "\r\n"), (2, Ok("b".to_owned()), "\n")]);
    }

    #[test]
    fn every_control_and_format_character_of_unicode_is_invisible_and_letters_are_not() {
        let format = Regex::new(r"^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]$").unwrap();
        let invisible = |c: &char| format.is_match(&c.to_string());
        let missed: Vec<_> = ('\0'..=char::MAX).filter(invisible).filter(|c| !is_invisible(*c)).collect();
        assert!(missed.is_empty(), "{missed:?}");
        assert_eq!(visible("né 漢字 \u{1f511}"), "né 漢字 \u{1f511}");
        assert_eq!(visible("a\u{202e}b\u{200b}\u{1b}[2J"), "a\\u{202e}b\\u{200b}\\u{1b}[2J");
    }
}
