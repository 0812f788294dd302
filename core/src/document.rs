//! Reading a JSON document so that all its mistakes are told at once, each with its path.
//!
//! Serde's derive stops at the first mistake; an operator who writes a configuration wants the whole list. A reader
//! returns `None` for what it could not use and has then written down why, so that reading goes on.

use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

/// One mistake in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a path such as `rules[2].path.prefix`, empty for the document itself.
    pub path: String,
    /// What is wrong, without repeating the value where it could be a secret.
    pub message: String,
}

/// Everything that is wrong with a document; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            let path = if problem.path.is_empty() { "(document)" } else { &problem.path };
            write!(f, "{separator}{path}: {}", problem.message)?;
        }
        Ok(())
    }
}

/// Parses the text, reads the document with `read`, and returns what it made unless anything was wrong.
///
/// # Errors
/// Every problem that was found.
pub fn parse<T>(text: &[u8], read: impl FnOnce(Node<'_>) -> Option<T>) -> Result<T, Problems> {
    read_value(&from_json(text)?, read)
}

/// The document as it stands.
///
/// # Errors
/// If it is not JSON; the message says where, and shows nothing of the document.
pub fn from_json(text: &[u8]) -> Result<Value, Problems> {
    serde_json::from_slice(text)
        .map_err(|error| Problems(vec![Problem { path: String::new(), message: format!("not JSON: {error}") }]))
}

/// The same for a document that is already parsed.
///
/// # Errors
/// Every problem that was found.
pub fn read_value<T>(value: &Value, read: impl FnOnce(Node<'_>) -> Option<T>) -> Result<T, Problems> {
    let problems = RefCell::new(Vec::new());
    let made = read(Node { value, path: String::new(), problems: &problems });
    let problems = problems.into_inner();
    match made {
        Some(made) if problems.is_empty() => Ok(made),
        _ if problems.is_empty() => {
            Err(Problems(vec![Problem { path: String::new(), message: "cannot be used".to_owned() }]))
        }
        _ => Err(Problems(problems)),
    }
}

/// A value in the document, and where it stands.
#[derive(Clone)]
pub struct Node<'a> {
    value: &'a Value,
    path: String,
    problems: &'a RefCell<Vec<Problem>>,
}

impl<'a> Node<'a> {
    /// Writes down that something is wrong here.
    pub fn problem(&self, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { path: self.path.clone(), message: message.into() });
    }

    /// The value as it stands.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// The fields of an object; unknown ones are told when the reader is [finished](Fields::finish).
    pub fn fields(&self) -> Option<Fields<'a>> {
        match self.value {
            Value::Object(map) => Some(Fields { node: self.clone(), map, known: BTreeSet::new() }),
            _ => self.wrong("an object"),
        }
    }

    /// The elements of a list.
    pub fn list(&self) -> Option<Vec<Node<'a>>> {
        match self.value {
            Value::Array(elements) => Some(
                elements
                    .iter()
                    .enumerate()
                    .map(|(n, value)| self.child(format!("{}[{n}]", self.path), value))
                    .collect(),
            ),
            _ => self.wrong("a list"),
        }
    }

    /// A list, each element read in the same way; every one is read, so that every mistake is told.
    pub fn each<T>(&self, read: impl Fn(&Node<'a>) -> Option<T>) -> Option<Vec<T>> {
        let read: Vec<_> = self.list()?.iter().map(read).collect();
        read.into_iter().collect()
    }

    /// A list of strings.
    pub fn strings(&self) -> Option<Vec<&'a str>> {
        self.each(Node::string)
    }

    /// A string.
    pub fn string(&self) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            _ => self.wrong("a string"),
        }
    }

    /// A string that is not empty.
    pub fn nonempty(&self) -> Option<&'a str> {
        let text = self.string()?;
        if text.is_empty() {
            return self.wrong("a string that is not empty");
        }
        Some(text)
    }

    /// A whole number in a range. Protobuf's Struct has only floating point, so `20.0` counts as 20.
    pub fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let number = self.value.as_u64().or_else(|| {
            let float = self.value.as_f64()?;
            (float.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&float)).then_some(float as u64)
        });
        match number {
            Some(number) if range.contains(&number) => Some(number),
            _ => self.wrong(format!("a whole number from {} to {}", range.start(), range.end())),
        }
    }

    /// True or false.
    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(*value),
            _ => self.wrong("true or false"),
        }
    }

    /// One of a few words, each with its meaning.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.value.as_str().unwrap_or_default();
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.wrong(format!("one of {}", known.join(", ")))
    }

    fn wrong<T>(&self, expected: impl fmt::Display) -> Option<T> {
        self.problem(format!("expected {expected}"));
        None
    }

    fn child(&self, path: String, value: &'a Value) -> Node<'a> {
        Node { value, path, problems: self.problems }
    }
}

/// The fields of an object, taken by name.
pub struct Fields<'a> {
    node: Node<'a>,
    map: &'a Map<String, Value>,
    known: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    /// A field that must be there.
    pub fn required(&mut self, name: &'static str) -> Option<Node<'a>> {
        let field = self.optional(name);
        if field.is_none() {
            self.node.problem(format!("{name:?} is missing"));
        }
        field
    }

    /// A field that may be absent.
    pub fn optional(&mut self, name: &'static str) -> Option<Node<'a>> {
        self.known.insert(name);
        let value = self.map.get(name)?;
        Some(self.named(name, value))
    }

    /// A field that may be absent, read: `None` if it is there and wrong, `Some(None)` if it is absent.
    pub fn maybe<T>(&mut self, name: &'static str, read: impl FnOnce(&Node<'a>) -> Option<T>) -> Option<Option<T>> {
        match self.optional(name) {
            Some(node) => read(&node).map(Some),
            None => Some(None),
        }
    }

    /// Every field, for objects whose names are data; none is unknown then.
    pub fn all(self) -> Vec<(&'a str, Node<'a>)> {
        self.map.iter().map(|(name, value)| (name.as_str(), self.named(name, value))).collect()
    }

    /// Tells of every field that nobody asked for.
    pub fn finish(self) {
        for (name, value) in self.map {
            if !self.known.contains(name.as_str()) {
                let known: Vec<_> = self.known.iter().copied().collect();
                self.named(name, value).problem(format!("unknown field; known here: {}", known.join(", ")));
            }
        }
    }

    /// Writes down that something is wrong with a field, which may be absent.
    pub fn problem(&self, name: &str, message: impl Into<String>) {
        self.named(name, self.node.value).problem(message);
    }

    /// The object itself, to tell of a problem of the whole.
    pub fn node(&self) -> &Node<'a> {
        &self.node
    }

    fn named(&self, name: &str, value: &'a Value) -> Node<'a> {
        let path = if self.node.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.node.path) };
        self.node.child(path, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(u64, Vec<String>), String> {
        parse(text.as_bytes(), |node| {
            let mut fields = node.fields()?;
            let number = fields.required("number").and_then(|n| n.number(1..=9));
            let words = match fields.optional("words") {
                Some(words) => words.strings().map(|words| words.into_iter().map(str::to_owned).collect()),
                None => Some(Vec::new()),
            };
            fields.finish();
            Some((number?, words?))
        })
        .map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_document_without_mistakes_is_read() {
        assert_eq!(read(r#"{"number": 3.0, "words": ["a"]}"#), Ok((3, vec!["a".to_owned()])));
    }

    #[test]
    fn all_mistakes_are_told_with_their_paths() {
        assert_eq!(
            read(r#"{"number": 10, "words": ["a", 1], "x": {}}"#).unwrap_err(),
            "number: expected a whole number from 1 to 9; words[1]: expected a string; \
             x: unknown field; known here: number, words"
        );
        assert_eq!(read("{}").unwrap_err(), "(document): \"number\" is missing");
        assert_eq!(read("[]").unwrap_err(), "(document): expected an object");
        assert!(read("{").unwrap_err().starts_with("(document): not JSON"));
    }
}
