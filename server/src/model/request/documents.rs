//! What requests carry, in the words of JSON Schema, for the API's description. Each schema uses the bounds of its
//! reader, and `tools/schemathesis` holds the one against the other.
//!
//! Some things cannot be said there and are said in words: that a time is to lie in the future, that no two limits have
//! the same window, that all of a key has to fit into an entry of the feed.

use super::rotation::MAX_GRACE_S;
use crate::model::leak::{MAX_KEY_BYTES, MAX_SOURCE_LENGTH, MAX_URL_LENGTH};
use crate::model::reader::MAX_ID_LENGTH;
use crate::model::reader::schema::{
    credits, described, id, insert, lifetime, limits, line, list, name, number, object, one_of, or_null, scope, text,
    time,
};
use crate::model::{FieldSpec, KeyFields, MAX_REPORTED_KEYS, OwnerKind, Role, SelfService};
use keyward_core::dialect::Dialect;
use keyward_core::wire::usage::{MAX_COST, MAX_COUNT, MAX_ID_BYTES, MAX_KEYS, MAX_VERDICT_BYTES, MAX_VERDICTS};
use serde_json::{Map, Value, json};

/// The schemas of all documents that requests carry, each with its name, for a server of that dialect.
pub fn all(dialect: &Dialect) -> [(&'static str, Value); 12] {
    [
        ("KeyCreate", new_key(dialect)),
        ("KeyChange", key_change(dialect)),
        ("Rotation", rotation()),
        ("OwnerSettings", owner("All of what an owner is to be; what is absent is as in a new one.")),
        ("OwnerChange", owner("What is to become of an owner; what is absent stays.")),
        ("KeysToRevoke", keys_to_revoke()),
        ("PlanSettings", plan()),
        ("TokenCreate", new_token()),
        ("LeakReport", leak_report()),
        ("OwnKeyCreate", new_own_key(dialect)),
        ("UsageBatch", usage_batch()),
        ("UsageToUndo", usage_to_undo()),
    ]
}

fn new_key(dialect: &Dialect) -> Value {
    key("A new key.", dialect, |spec| Some(spec.schema(dialect)))
}

fn key_change(dialect: &Dialect) -> Value {
    let words =
        "What is to become of a key (a merge patch, RFC 7396); what is absent stays. A note that is null is removed.";
    let mut schema = key(words, dialect, |spec| spec.patch_schema(dialect));
    let spent = described("How many credits it has spent so far, to correct what edges reported.", credits());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("spent".to_owned(), spent);
    }
    if let Value::Object(schema) = &mut schema {
        schema.remove("required");
    }
    schema
}

fn new_own_key(dialect: &Dialect) -> Value {
    let words =
        "A key that a user is to have; what is absent is as in the key that asks, and nothing goes beyond that.";
    key(words, dialect, |spec| (spec.self_service == SelfService::Chosen).then(|| spec.schema(dialect)))
}

/// The properties that the settable fields of a key are in answers, for each schema that has them.
pub fn shown_fields() -> [(&'static str, Map<String, Value>); 2] {
    let properties = |is_shown: fn(&FieldSpec) -> bool| {
        let shown = KeyFields::SPECS.iter().filter(|spec| is_shown(spec));
        shown.map(|spec| (spec.name.to_owned(), described(spec.description.trim(), spec.answer_schema()))).collect()
    };
    [("Key", properties(|_| true)), ("OwnKey", properties(FieldSpec::is_shown_to_users))]
}

/// A document with the fields of a key that have a schema in it.
fn key(words: &str, dialect: &Dialect, schema: impl Fn(&FieldSpec) -> Option<Value>) -> Value {
    let specs = || KeyFields::SPECS.iter().filter_map(|spec| Some((spec, schema(spec)?)));
    let fields = specs().map(|(spec, schema)| (spec.name, described(spec.description.trim(), schema)));
    let expires_in_s = (
        "expires_in_s",
        described("In how many seconds the key expires, instead of `expires_at`.", or_null(lifetime())),
    );
    let required: Vec<_> = specs().filter(|(spec, _)| spec.is_required(dialect)).map(|(spec, _)| spec.name).collect();
    ending_once(object(words, fields.chain([expires_in_s]), &required))
}

/// One of the two, or none. Not by `anyOf`: generators of clients take that for a choice between types.
fn ending_once(mut schema: Value) -> Value {
    let has_time = json!({"required": ["expires_at"], "properties": {"expires_at": {"type": "string"}}});
    insert(&mut schema, "if", has_time);
    insert(&mut schema, "then", json!({"properties": {"expires_in_s": {"type": "null"}}}));
    schema
}

fn rotation() -> Value {
    let grace = or_null(number(0, MAX_GRACE_S));
    let fields =
        [("grace_s", described("How many seconds the secrets so far stay valid; a day unless it is said.", grace))];
    object("How a key is to be rotated.", fields, &[])
}

fn owner(words: &str) -> Value {
    let fields = [
        ("kind", described("What it is, where that is known.", or_null(one_of(OwnerKind::ALL.map(OwnerKind::name))))),
        ("disabled", described("Whether all its keys are refused.", json!({"type": "boolean"}))),
        ("permissions", described("The most that its keys may do; null does not bound them.", or_null(list(scope())))),
    ];
    object(words, fields, &[])
}

fn keys_to_revoke() -> Value {
    let fields = [("member", described("Only those of this member.", or_null(id())))];
    object("Which keys of an owner are to be revoked; all unless it is said.", fields, &[])
}

fn plan() -> Value {
    let fields = [
        ("limits", described("What its keys may use; absent: the dialect's.", or_null(limits()))),
        ("credits", described("What a key made from now on begins with; absent: unbounded.", or_null(credits()))),
    ];
    object("All of what a plan is to be.", fields, &[])
}

fn new_token() -> Value {
    let fields = [
        ("name", described("What its users call it.", name())),
        (
            "role",
            described(
                "What its holder may do; each role includes the ones before it, except `edge`.",
                one_of(Role::ALL.map(Role::name)),
            ),
        ),
        ("expires_in_s", described("After how many seconds it ends by itself; absent: never.", or_null(lifetime()))),
    ];
    object("A new token.", fields, &["name", "role"])
}

fn leak_report() -> Value {
    let key = json!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES});
    let mut keys = list(described("A key as it was found, in at most as many bytes as characters are allowed.", key));
    insert(&mut keys, "minItems", 1.into());
    insert(&mut keys, "maxItems", MAX_REPORTED_KEYS.into());
    let fields = [
        ("keys", described("What was found.", keys)),
        ("source", described("Who found it, or in what.", or_null(line(MAX_SOURCE_LENGTH)))),
        ("url", described("Where; what could be a secret in it is not noted.", or_null(line(MAX_URL_LENGTH)))),
    ];
    object("Keys that were found in public.", fields, &["keys"])
}

/// What edges tell. Its reader is that of the contract: fields that it does not know are no mistake.
fn usage_batch() -> Value {
    let count = || number(0, MAX_COUNT);
    let names = json!({"pattern": format!("^[a-z_]{{1,{MAX_VERDICT_BYTES}}}$")});
    let verdicts = json!({"type": "object", "propertyNames": names, "additionalProperties": count(), "maxProperties": MAX_VERDICTS});
    let id = |least: u64| text(&format!("[!#-\\[\\]-~]{{{least},{MAX_ID_BYTES}}}"));
    let key = json!({
        "type": "object",
        "properties": {
            "key_id": id(1),
            "secret_id": id(0),
            "last_used_ms": or_null(count()),
            "verdicts": verdicts,
            "credits": described(
                &format!("What its allowed requests cost: at most {MAX_COST} for each of the verdict `allow`."),
                count(),
            ),
        },
        "required": ["key_id", "verdicts"],
    });
    let keys = json!({"type": "array", "items": key, "maxItems": MAX_KEYS});
    json!({
        "type": "object",
        "properties": {
            "batch": text("[0-9A-Fa-f]{32}"),
            "keys": keys,
            "others": verdicts,
            "dropped": count(),
        },
        "required": ["batch"],
    })
}

fn usage_to_undo() -> Value {
    let token = json!({"type": "string", "maxLength": MAX_ID_LENGTH, "pattern": "^(tok_[0-9A-Za-z]*|token-file)$"});
    let fields = [
        ("token", described("The id of the token with which it was reported; `token-file` for the file's.", token)),
        ("since", described("From when on; whole hours are undone, beginning with that of this time.", time())),
    ];
    object("Reported usage that is to be undone.", fields, &["token", "since"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::model::NewKey;
    use proptest::prelude::*;
    use regex::Regex;
    use std::sync::LazyLock;

    static DIALECT: LazyLock<Dialect> = LazyLock::new(|| Dialect::built_in("keyward").unwrap().unwrap());
    static LIMIT: LazyLock<Regex> = LazyLock::new(|| pattern("limits"));
    static NETWORK: LazyLock<Regex> = LazyLock::new(|| pattern("allow_ip"));

    fn pattern(field: &str) -> Regex {
        Regex::new(new_key(&DIALECT)["properties"][field]["items"]["pattern"].as_str().unwrap()).unwrap()
    }

    /// Whether the schema of the field, and its reader, take that text as an element of a list.
    fn taken(field: &str, text: &str) -> (bool, bool) {
        let described = if field == "limits" { &LIMIT } else { &NETWORK }.is_match(text);
        let mut document = json!({"name": "a"});
        document[field] = json!([text]);
        (described, NewKey::read(&document, &DIALECT, Timestamp::EXAMPLE).is_ok())
    }

    #[test]
    fn networks_are_described_as_they_are_read() {
        for (text, good) in [
            ("0.0.0.0/0", true),
            ("255.255.255.255", true),
            ("10.1.2.3/32", true),
            ("10.0.0.0/33", false),
            ("10.0.0.0/08", false),
            ("010.0.0.0/8", false),
            ("256.0.0.1", false),
            ("10.0.0/8", false),
            ("::", true),
            ("::/0", true),
            ("::1/128", true),
            ("::1/129", false),
            ("1::2:3:4:5:6:7:8", false),
            ("1:2:3:4:5:6:7:8", true),
            ("1:2:3:4:5:6:7::/64", true),
            ("::2:3:4:5:6:7:8", true),
            ("::ffff:10.1.2.3/104", true),
            ("1:2:3:4:5:6:10.1.2.3", true),
            ("1:2:3:4:5:6:7:10.1.2.3", false),
            ("1::2::3", false),
            ("fe80::1%eth0", false),
            ("2001:DB8::", true),
            ("12345::", false),
            (" ::", false),
            ("::\n", false),
        ] {
            assert_eq!(taken("allow_ip", text), (good, good), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_almost_a_limit_or_a_network_is_described_as_it_is_read(
            limit in "[0-4]{0,10}/[0-9]{0,7}(s|min|h|d|ms)?",
            v4 in "[0-2]?[0-9]{1,2}(\\.[0-2]?[0-9]{1,2}){3}(/[0-9]{1,2})?",
            v6 in "[0-9a-f]{0,4}(::?[0-9a-f]{0,5}){1,8}(/[0-9]{1,3})?",
        ) {
            for (field, text) in [("limits", limit), ("allow_ip", v4), ("allow_ip", v6)] {
                let (described, read) = taken(field, &text);
                prop_assert_eq!(described, read, "{}: {:?}", field, text);
            }
        }
    }
}
