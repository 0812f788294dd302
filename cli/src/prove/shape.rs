//! Whether a response is a dialect's refusal. What is expected is rendered by the dialect itself, with two sets of facts:
//! where both agree, the response has to say the same, and where they differ, something of that type.

use crate::gateway::Answer;
use keyward_core::dialect::error_shape::{ErrorShape, Facts};
use keyward_core::refusal::Refusal;
use keyward_core::refusal::malformation::Malformation;
use serde_json::Value;

/// Two sets of facts that agree in nothing.
const FACTS: [Facts<'static>; 2] = [
    Facts {
        resource_metadata: "",
        header: "Authorization",
        request_id: "1",
        key_id: "key_1",
        expired_at_ms: 0,
        scope: "one",
        retry_after_s: 1,
        limit: 1,
        window_s: 1,
        windows: &[],
        malformation: Some(Malformation::WrongLength),
    },
    Facts {
        resource_metadata: "",
        header: "X-Api-Key",
        request_id: "2",
        key_id: "2",
        expired_at_ms: 2_000_000_000_000,
        scope: "two",
        retry_after_s: 2,
        limit: 2,
        window_s: 2,
        windows: &[],
        malformation: Some(Malformation::TwoCredentials),
    },
];

/// What differs between a response and the refusal; nothing if it is that refusal.
pub(super) fn differences(shape: &ErrorShape, refusal: Refusal, answer: &Answer) -> Vec<String> {
    let [one, other] = FACTS.map(|facts| shape.render(refusal, &facts));
    let mut differences = Vec::new();
    if answer.status != one.status {
        differences.push(format!("status: expected {}, got {}", one.status, answer.status));
    }
    for (name, value) in &one.headers {
        let got = answer.header(name);
        let second = other.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value);
        let fits = match (got, second) {
            (None, _) => false,
            (Some(got), Some(second)) => fits(value, second, got),
            (Some(_), None) => true,
        };
        if !fits {
            let got = got.map_or_else(|| "none".to_owned(), |got| format!("{got:?}"));
            differences.push(format!("header {name}: expected one such as {value:?}, got {got}"));
        }
    }
    let documents = [&one.body, &other.body].map(|body| serde_json::from_str::<Value>(body).ok());
    match (documents, serde_json::from_str::<Value>(&answer.body)) {
        ([Some(one), Some(other)], Ok(got)) => {
            compare(&one, &other, &got, "body", refusal == Refusal::Malformed, &mut differences);
        }
        ([Some(_), Some(_)], Err(_)) => differences.push("body: expected JSON, got something else".to_owned()),
        _ if fits(&one.body, &other.body, &answer.body) => {}
        _ => differences.push("body: expected another text".to_owned()),
    }
    differences
}

/// The refusal that a response is, if it is one of this shape.
pub(super) fn refusal_of(shape: &ErrorShape, answer: &Answer) -> Option<Refusal> {
    Refusal::ALL.into_iter().find(|refusal| differences(shape, *refusal, answer).is_empty())
}

fn compare(one: &Value, other: &Value, got: &Value, at: &str, is_loose: bool, differences: &mut Vec<String>) {
    match (one, other, got) {
        (Value::Object(first), Value::Object(second), Value::Object(fields)) => {
            for (name, value) in first {
                match (second.get(name), fields.get(name)) {
                    (Some(second), Some(got)) => {
                        compare(value, second, got, &format!("{at}.{name}"), is_loose, differences);
                    }
                    (_, None) => differences.push(format!("{at}.{name}: missing")),
                    (None, Some(_)) => {}
                }
            }
            let unknown = fields.keys().filter(|name| !first.contains_key(*name));
            differences.extend(unknown.map(|name| format!("{at}.{name}: not expected")));
        }
        (Value::Array(first), Value::Array(second), Value::Array(elements))
            if first.len() == second.len() && first.len() == elements.len() =>
        {
            for (n, ((first, second), got)) in first.iter().zip(second).zip(elements).enumerate() {
                compare(first, second, got, &format!("{at}[{n}]"), is_loose, differences);
            }
        }
        (Value::String(first), Value::String(second), Value::String(got)) => {
            // The words for what is wrong with a credential are several, and may share a beginning by chance.
            if !(fits(first, second, got) || (is_loose && first != second)) {
                differences.push(format!("{at}: expected {first:?}, got another text"));
            }
        }
        (Value::Number(first), Value::Number(second), Value::Number(got)) => {
            if first == second && first != got {
                differences.push(format!("{at}: expected {first}, got {got}"));
            }
        }
        _ if one == other && one == got => {}
        _ => differences.push(format!("{at}: expected another type or length")),
    }
}

/// Whether a text begins and ends as two examples do that differ in between.
fn fits(one: &str, other: &str, got: &str) -> bool {
    if one == other {
        return got == one;
    }
    let common = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum::<usize>();
    let (head, rest) = one.split_at_checked(common).unwrap_or((one, ""));
    let other_rest = other.get(common..).unwrap_or_default();
    let tail: String = {
        let reversed = rest.chars().rev().zip(other_rest.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a);
        let reversed: Vec<_> = reversed.collect();
        reversed.into_iter().rev().collect()
    };
    got.strip_prefix(head).is_some_and(|rest| rest.ends_with(&tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderMap, HeaderName, HeaderValue};
    use keyward_core::dialect::Dialect;

    /// The response of a gateway with that dialect.
    fn answer(shape: &ErrorShape, refusal: Refusal) -> Answer {
        let facts = Facts {
            header: "X-Own",
            request_id: "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
            key_id: "key_0123456789abcdefghij",
            expired_at_ms: 1_800_000_000_000,
            scope: "files:write",
            retry_after_s: 17,
            limit: 20,
            window_s: 60,
            malformation: Some(Malformation::WrongChecksum),
            ..Facts::default()
        };
        let rendered = shape.render(refusal, &facts);
        let headers = rendered.headers.iter().map(|(name, value)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        });
        Answer { status: rendered.status, headers: headers.collect::<HeaderMap>(), body: rendered.body }
    }

    #[test]
    fn every_refusal_of_every_dialect_is_recognized() {
        for name in Dialect::built_in_names() {
            let shape = Dialect::built_in(name).unwrap().unwrap().errors;
            for refusal in Refusal::ALL {
                let found = differences(&shape, refusal, &answer(&shape, refusal));
                assert_eq!(found, Vec::<String>::new(), "{name}: {refusal:?}");
            }
        }
    }

    #[test]
    fn refusal_of_another_dialect_is_not_recognized() {
        let shape = |name: &str| Dialect::built_in(name).unwrap().unwrap().errors;
        let foreign = answer(&shape("exona"), Refusal::Missing);
        assert!(!differences(&shape("keyward"), Refusal::Missing, &foreign).is_empty());
        assert_eq!(refusal_of(&shape("keyward"), &foreign), None);
        assert_eq!(refusal_of(&shape("exona"), &foreign), Some(Refusal::Missing));
    }

    #[test]
    fn every_part_of_a_response_matters() {
        let shape = Dialect::built_in("keyward").unwrap().unwrap().errors;
        let good = answer(&shape, Refusal::Unknown);
        let with = |change: fn(&mut Answer)| {
            let mut changed = good.clone();
            change(&mut changed);
            differences(&shape, Refusal::Unknown, &changed).join("; ")
        };
        assert_eq!(with(|_| {}), "");
        assert!(with(|answer| answer.status = 403).contains("status"));
        assert!(with(|answer| drop(answer.headers.remove("www-authenticate"))).contains("www-authenticate"));
        assert!(
            with(|answer| drop(answer.headers.insert("content-type", HeaderValue::from_static("text/plain"))))
                .contains("content-type")
        );
        assert!(with(|answer| answer.body = "RBAC: access denied".to_owned()).contains("expected JSON"));
        assert!(with(|answer| answer.body = answer.body.replacen("\"code\"", "\"kode\"", 1)).contains("missing"));
        assert!(with(|answer| answer.body = answer.body.replacen('{', "{\"more\": 1,", 1)).contains("not expected"));
    }
}
