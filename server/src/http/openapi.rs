//! The API described by itself: an OpenAPI document made of what stands beside the handlers (`#[utoipa::path]`), the
//! resources (`ToSchema`) and the readers of requests ([`documents`]). What many operations have in common is added
//! here, from what they are: who asks shows a token, who sends a document may send a bad one.
//!
//! [`documents`]: crate::model::documents

use super::extract::MERGE_PATCH;
use super::idempotency::IdempotencyKey;
use super::precondition::{IfMatch, Known};
use super::problem::Problem;
use axum::Extension;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use keyward_core::dialect::error_shape::Facts;
use keyward_core::dialect::{Dialect, Source};
use keyward_core::refusal::Refusal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::schema::{Object, Schema, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    Components, ContentBuilder, Info, License, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Server, Tag,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

pub(super) use crate::model::schema::{number, text};

/// A type that stands for a schema: `schema!(Name, "what it is", the schema as JSON)`.
macro_rules! schema {
    ($name:ident, $description:literal, $schema:expr) => {
        #[doc = $description]
        pub(super) struct $name;

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $crate::http::openapi::typed($description, $schema)
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}
pub(super) use schema;

/// The schema as utoipa has it.
pub(super) fn typed(description: &str, schema: Value) -> RefOr<Schema> {
    let is_any = schema.get("type").is_none();
    let mut schema: Schema = serde_json::from_value(schema).unwrap_or_default();
    if let Schema::Object(schema) = &mut schema {
        schema.description = Some(description.to_owned());
        if is_any {
            schema.schema_type = SchemaType::AnyValue;
        }
    }
    schema.into()
}

/// The description, as it is served.
#[derive(Clone)]
pub(super) struct Description(pub(super) Bytes);

/// Who may call an operation, as its security scheme is named.
#[derive(Clone, Copy)]
pub(super) enum Caller {
    /// Whoever has a token of operators.
    Operator,
    /// Whoever has a token of edges.
    Edge,
    /// Whoever has a key.
    User,
    /// Whoever signs as GitHub does.
    Github,
}

/// A refusal with that status, in the responses of an operation.
pub(super) struct Refused<const STATUS: u16>;

/// The API's description
///
/// This document: what each operation takes and answers, as OpenAPI 3.1 writes it.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    operation_id = "showDescription",
    tag = "service",
    responses((status = OK, description = "The document", body = Object))
)]
pub(super) async fn show(Extension(Description(text)): Extension<Description>) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Says of each operation of the router who may call it.
pub(super) fn called_by<S: Clone + Send + Sync + 'static>(
    caller: Caller,
    mut router: OpenApiRouter<S>,
) -> OpenApiRouter<S> {
    for (_, operation) in operations(router.get_openapi_mut()) {
        operation.security = Some(caller.requirement());
    }
    router
}

/// The document about those operations, for a server of that dialect.
pub(super) fn document(described: OpenApi, dialect: &Dialect) -> Value {
    let mut api = OpenApiBuilder::new().info(info()).servers(Some([Server::new("/")])).tags(Some(tags())).build();
    api.components = Some(components(dialect));
    api.merge(described);
    let requests = crate::model::documents::all(dialect);
    add_merge_patches(&mut api);
    for (is_safe, operation) in operations(&mut api) {
        let is_document = |body: &RequestBody| requests.iter().any(|(name, _)| carries(body, name));
        let has_document = matches!(&operation.request_body, Some(RefOr::T(body)) if is_document(body));
        add_common_refusals(operation, is_safe, has_document, dialect);
        add_entity_tags(operation);
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            // An empty body counts as an empty document.
            let is_needed = |(name, schema): &(&str, Value)| schema.get("required").is_some() && carries(body, name);
            let is_needed = !has_document || requests.iter().any(is_needed);
            body.required = is_needed.then_some(Required::True);
        }
    }
    // Nothing of it has keys other than strings, nor anything that fails to serialize.
    let mut document = serde_json::to_value(&api).unwrap_or_default();
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas") {
        schemas.extend(requests.into_iter().map(|(name, schema)| (name.to_owned(), schema)));
        for (name, fields) in crate::model::documents::shown_fields() {
            let Some(Value::Object(schema)) = schemas.get_mut(name) else { continue };
            if let Some(Value::Array(required)) = schema.get_mut("required") {
                required.extend(fields.keys().map(|name| name.as_str().into()));
            }
            if let Some(Value::Object(properties)) = schema.get_mut("properties") {
                properties.extend(fields);
            }
        }
    }
    document
}

/// Every change is a merge patch, and can be sent by that name.
fn add_merge_patches(api: &mut OpenApi) {
    let patches = api.paths.paths.values_mut().filter_map(|item| item.patch.as_mut());
    for body in patches.filter_map(|operation| operation.request_body.as_mut()) {
        let RefOr::T(body) = body else { continue };
        if let Some(content) = body.content.get("application/json").cloned() {
            body.content.insert(MERGE_PATCH.to_owned(), content);
        }
    }
}

/// Whether the body is a document of that name.
fn carries(body: &RequestBody, name: &str) -> bool {
    let reference = RefOr::Ref(Ref::from_schema_name(name));
    body.content
        .values()
        .any(|content| matches!(content, RefOr::T(content) if content.schema.as_ref() == Some(&reference)))
}

/// Every operation, and whether it changes nothing.
fn operations(api: &mut OpenApi) -> impl Iterator<Item = (bool, &mut Operation)> {
    api.paths.paths.values_mut().flat_map(|item: &mut PathItem| {
        let safe = item.get.as_mut().map(|operation| (true, operation));
        let others = [&mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten();
        safe.into_iter().chain(others.map(|operation| (false, operation)))
    })
}

fn info() -> Info {
    let mut info = Info::new("Keyward", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "The control plane of Keyward: makes, rotates and revokes API keys, and feeds every change to the edge.\n\n\
         Every refusal is a problem document (RFC 9457); all mistakes in a request are told at once, each with its \
         field. Unknown fields and parameters are mistakes. Times are RFC 3339, in UTC in answers."
            .to_owned(),
    );
    let mut license = License::new(env!("CARGO_PKG_LICENSE"));
    license.identifier = Some(env!("CARGO_PKG_LICENSE").to_owned());
    info.license = Some(license);
    info
}

fn tags() -> Vec<Tag> {
    [
        ("keys", "API keys. A plaintext key is in the answer to the request that made it, and nowhere else."),
        ("owners", "Those to whom keys belong."),
        ("plans", "What the keys on them may use."),
        ("tokens", "Tokens of operators and edges. A plaintext token is in the answer to the request that made it."),
        ("leaks", "Keys that were found in public."),
        ("usage", "How often keys were used."),
        ("audit", "Who did what."),
        ("self-service", "What users may do with a key, where the server lets them (`--self-service`); elsewhere 404."),
        ("edges", "What edges ask for."),
        ("service", "The service itself."),
    ]
    .into_iter()
    .map(|(name, description)| {
        let mut tag = Tag::new(name);
        tag.description = Some(description.to_owned());
        tag
    })
    .collect()
}

impl Caller {
    const ALL: [Self; 4] = [Self::Operator, Self::Edge, Self::User, Self::Github];

    fn scheme(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Edge => "edge",
            Self::User => "user",
            Self::Github => "github",
        }
    }

    fn requirement(self) -> Vec<SecurityRequirement> {
        vec![SecurityRequirement::new::<_, [&str; 0], &str>(self.scheme(), [])]
    }

    fn described(self, dialect: &Dialect) -> SecurityScheme {
        match self {
            Self::Operator => {
                bearer("A token of operators, as in the file `admin-token`, or one of scope `read` or `write`.")
            }
            Self::Edge => bearer("A token of edges, as in the file `edge-token`, or one of scope `edge`."),
            Self::User => key_scheme(dialect),
            Self::Github => {
                const WORDS: &str = "ECDSA with P-256 and SHA-256 under the body, by GitHub's key for secret scanning.";
                SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(GITHUB_SIGNATURE, WORDS)))
            }
        }
    }
}

fn bearer(words: &str) -> SecurityScheme {
    SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(words)).build())
}

/// A key in the first place where the dialect takes one; OpenAPI has no words for "in one of these, or the same in all".
fn key_scheme(dialect: &Dialect) -> SecurityScheme {
    const WORDS: &str = "A key, here or in any other place where the dialect takes one.";
    let value = |name: &str| ApiKeyValue::with_description(name, WORDS);
    match dialect.sources.first() {
        None => bearer(WORDS),
        Some(Source::Header { name, scheme: Some(scheme), .. })
            if name == "authorization" && scheme.eq_ignore_ascii_case("bearer") =>
        {
            bearer(WORDS)
        }
        Some(Source::Header { written, .. }) => SecurityScheme::ApiKey(ApiKey::Header(value(written))),
        Some(Source::Basic(_)) => {
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some(WORDS)).build())
        }
        Some(Source::Query(name)) => SecurityScheme::ApiKey(ApiKey::Query(value(name))),
        Some(Source::Cookie(name)) => SecurityScheme::ApiKey(ApiKey::Cookie(value(name))),
    }
}

fn components(dialect: &Dialect) -> Components {
    let mut components = Components::new();
    for caller in Caller::ALL {
        components.add_security_scheme(caller.scheme(), caller.described(dialect));
    }
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    let mut of_problem = Vec::new();
    Problem::schemas(&mut of_problem);
    components.schemas.extend(of_problem);
    for (status, description, fields) in REFUSALS {
        components.responses.insert(name(status), RefOr::T(refusal(description, fields)));
    }
    for status in statuses_for_users(dialect) {
        components.responses.insert(name_for_users(status), RefOr::T(refusal_of_key(dialect)));
    }
    components
}

/// A field of the header: its name, and what it says.
type Field = (&'static str, &'static str);

/// Every status of a refusal, what it means, and what its header has beyond the media type.
const REFUSALS: [(u16, &str, &[Field]); 13] = [
    (400, "The query or the body cannot be read.", &[]),
    (401, "A token is needed, or this one is not valid here.", &[("WWW-Authenticate", "What is wanted (RFC 6750).")]),
    (403, "Whoever asks may not do that.", &[]),
    (404, "There is no such thing.", &[]),
    (409, "It is not in a state for that.", &[]),
    (408, "The body did not come in time.", &[]),
    (412, "It has another version than `If-Match` names.", &[]),
    (413, "The body is too long.", &[]),
    (415, "The body is of another kind than is taken here, by its media type.", &[]),
    (422, "Some fields cannot be used; `errors` has each of them.", &[]),
    (
        429,
        "Too many bad tokens have come from this address, or too many requests of this caller are waiting.",
        &[("Retry-After", "Seconds to wait.")],
    ),
    (500, "The request could not be carried out; the log says why.", &[]),
    (503, "Not at the moment; try again.", &[("Retry-After", "Seconds to wait.")]),
];

/// The name of a refusal among the components.
fn name(status: u16) -> String {
    format!("Refused{status}")
}

fn refusal(description: &str, fields: &[Field]) -> Described {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    let mut response = ResponseBuilder::new().description(description).content("application/problem+json", content);
    for (name, description) in fields {
        let text = Object::builder().schema_type(Type::String).build();
        response =
            response.header(*name, HeaderBuilder::new().schema(Some(text)).description(Some(*description)).build());
    }
    response.build()
}

impl<const STATUS: u16> IntoResponses for Refused<STATUS> {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        [(STATUS.to_string(), RefOr::Ref(Ref::from_response_name(name(STATUS))))].into()
    }
}

/// What is refused for reasons that the operation shares with others like it.
fn add_common_refusals(operation: &mut Operation, is_safe: bool, has_document: bool, dialect: &Dialect) {
    let is_called_by = |caller: Caller| operation.security == Some(caller.requirement());
    let is_for_users = is_called_by(Caller::User);
    let by_token = is_called_by(Caller::Operator) || is_called_by(Caller::Edge);
    // Edges send no document that could have mistakes.
    let has_document = has_document && !is_called_by(Caller::Edge);
    let has_caller = Caller::ALL.into_iter().any(is_called_by);
    let reasons = [
        // A secret in the path, too.
        (400, has_document || has_parameter(operation) || has_idempotency_key(operation)),
        (401, has_caller),
        // A token that may only read.
        (403, is_called_by(Caller::Operator) && !is_safe),
        (404, has(operation, ParameterIn::Path, "")),
        (409, has_idempotency_key(operation)),
        (412, has(operation, ParameterIn::Header, IF_MATCH)),
        (413, has_document),
        (415, has_document),
        (422, has_document),
        (429, by_token),
        (500, has_caller),
        (503, has_caller),
    ];
    let of_users = statuses_for_users(dialect).into_iter().filter(|_| is_for_users);
    let of_users = of_users.map(|status| (status, name_for_users(status)));
    let of_all = reasons.into_iter().filter(|(_, given)| *given).map(|(status, _)| (status, name(status)));
    for (status, name) in of_users.chain(of_all) {
        let response = || RefOr::Ref(Ref::from_response_name(name));
        operation.responses.responses.entry(status.to_string()).or_insert_with(response);
    }
}

/// With which statuses a key is refused, or what somebody wants to do with it.
fn statuses_for_users(dialect: &Dialect) -> BTreeSet<u16> {
    Refusal::ALL.into_iter().map(|refusal| dialect.errors.status(refusal)).chain([403, 429]).collect()
}

fn name_for_users(status: u16) -> String {
    format!("RefusedKey{status}")
}

/// The dialect's words, whatever they are, or else a problem document.
fn refusal_of_key(dialect: &Dialect) -> Described {
    let rendered = dialect.errors.render(Refusal::Unknown, &Facts::default());
    let media_type = rendered.headers.into_iter().find(|(name, _)| name == "content-type").map(|(_, value)| value);
    let any =
        Object::builder().schema_type(SchemaType::AnyValue).description(Some("In the words of the dialect.")).build();
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    let described = ContentBuilder::new().schema(Some(any)).build();
    ResponseBuilder::new()
        .description("The key is not accepted, or may not do that.")
        .content("application/problem+json", problem)
        .content(media_type.unwrap_or_default(), described)
        .build()
}

/// What conditional requests have in common (RFC 9110, section 13).
fn add_entity_tags(operation: &mut Operation) {
    let may_be_changed = has(operation, ParameterIn::Header, IF_MATCH);
    let may_be_known = has(operation, ParameterIn::Header, IF_NONE_MATCH) && !may_be_changed;
    if !may_be_known && !may_be_changed {
        return;
    }
    let tag = || {
        let text = Object::builder().schema_type(Type::String).build();
        HeaderBuilder::new().schema(Some(text)).description(Some("Its version.")).build()
    };
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with('2')
            && !response.content.is_empty()
        {
            response.headers.insert("ETag".to_owned(), tag().into());
        }
    }
    if may_be_known {
        let response = ResponseBuilder::new().description("It has a version that is known.").header("ETag", tag());
        operation.responses.responses.insert("304".to_owned(), RefOr::T(response.build()));
    }
}

const IF_MATCH: &str = "If-Match";
const IF_NONE_MATCH: &str = "If-None-Match";
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const GITHUB_SIGNATURE: &str = "Github-Public-Key-Signature";

/// Whether the operation has a parameter there, of that name unless it is empty.
fn has(operation: &Operation, location: ParameterIn, name: &str) -> bool {
    operation.parameters.iter().flatten().any(|parameter| {
        matches!(parameter, RefOr::T(parameter)
            if parameter.parameter_in == location && (name.is_empty() || parameter.name == name))
    })
}

/// Whether something of the path or the query can be wrong.
fn has_parameter(operation: &Operation) -> bool {
    has(operation, ParameterIn::Path, "") || has(operation, ParameterIn::Query, "")
}

fn has_idempotency_key(operation: &Operation) -> bool {
    has(operation, ParameterIn::Header, IDEMPOTENCY_KEY)
}

/// A field of the header that may be sent.
fn field(name: &str, description: &str, schema: Value) -> Vec<Parameter> {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(typed(description, schema)))
        .build();
    vec![parameter]
}

impl IntoParams for IfMatch {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        field(IF_MATCH, "The version that is to be changed, and no other", json!({"type": "string"}))
    }
}

impl IntoParams for Known {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        field(IF_NONE_MATCH, "The version that is known, and need not be sent again", json!({"type": "string"}))
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let words =
            "Under the same one, the same request is carried out once and answered with the same plaintext, for a day";
        field(IDEMPOTENCY_KEY, words, Self::schema())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Routes, description};
    use regex::Regex;

    fn described() -> Value {
        description(&Dialect::built_in("keyward").unwrap().unwrap())
    }

    /// Every operation of the document: method, path, and what is said of it.
    fn operations_of(document: &Value) -> Vec<(String, String, &Value)> {
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let of_path = item.as_object().unwrap().iter();
            operations.extend(of_path.map(|(method, said)| (method.to_uppercase(), path.clone(), said)));
        }
        operations
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let (routes, _) = Routes::new().all().split_for_parts();
        // Axum does not list routes, and shows them all the same.
        let shown = format!("{routes:?}");
        let paths = Regex::new(r#"RouteId\((\d+)\): "(/[^"]*)""#).unwrap();
        let methods = Regex::new(r#"RouteId\((\d+)\): MethodRouter\(.*?allow_header: Bytes\(b"([A-Z,]*)"\)"#).unwrap();
        let methods: BTreeMap<&str, &str> =
            methods.captures_iter(&shown).map(|found| found.extract().1).map(|[id, methods]| (id, methods)).collect();
        let mut there = BTreeSet::new();
        for [id, path] in paths.captures_iter(&shown).map(|found| found.extract().1) {
            // Those of the fallback have no methods.
            let methods = methods.get(id).filter(|_| !path.contains("__private") && path != "/");
            let methods = methods.into_iter().flat_map(|methods| methods.split(','));
            there.extend(methods.filter(|method| *method != "HEAD").map(|method| (method.to_owned(), path.to_owned())));
        }
        let document = described();
        let told: BTreeSet<_> = operations_of(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
        assert_eq!(there, told);
        assert!(there.contains(&("PATCH".to_owned(), "/v1/owners/{id}".to_owned())), "{there:?}");
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_a_summary_and_a_tag_that_is_told_of() {
        let document = described();
        let tags: Vec<_> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
        let mut names = BTreeSet::new();
        for (method, path, said) in operations_of(&document) {
            assert!(names.insert(said["operationId"].as_str().unwrap()), "{method} {path}");
            assert!(!said["summary"].as_str().unwrap().is_empty(), "{method} {path}");
            assert!(tags.contains(&&said["tags"][0]), "{method} {path}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_component_is_referred_to() {
        let document = described();
        let text = document.to_string();
        let references = Regex::new(r##""\$ref":"#(/[^"]+)""##).unwrap();
        let references: BTreeSet<_> = references.captures_iter(&text).map(|found| found[1].to_owned()).collect();
        for reference in &references {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
        for kind in ["schemas", "responses"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                assert!(references.contains(&format!("/components/{kind}/{name}")), "{kind} {name}");
            }
        }
    }

    #[test]
    fn the_document_is_openapi_3_1_about_this_version_and_has_no_extractors_in_it() {
        let document = described();
        assert_eq!(
            (&document["openapi"], &document["info"]["version"]),
            (&"3.1.0".into(), &env!("CARGO_PKG_VERSION").into())
        );
        for inner in ["Actor", "Extension", "TokenReloads"] {
            assert!(!document.to_string().contains(inner), "{inner}");
        }
    }

    /// What makes generators of clients fail, or forget fields: alternatives beside properties, and names of properties
    /// that only an expression tells.
    #[test]
    fn every_schema_is_one_that_generators_take() {
        fn check(place: &str, node: &Value) {
            match node {
                Value::Object(fields) => {
                    for alternatives in ["anyOf", "oneOf", "allOf", "not"] {
                        let both = fields.contains_key("properties") && fields.contains_key(alternatives);
                        assert!(!both, "{place} has {alternatives} beside properties");
                    }
                    assert!(!fields.contains_key("patternProperties"), "{place}");
                    fields.iter().for_each(|(name, value)| check(&format!("{place}/{name}"), value));
                }
                Value::Array(elements) => elements.iter().for_each(|element| check(place, element)),
                _ => {}
            }
        }
        let document = described();
        check("", &document);
        // Go's generator calls what makes a `Key` a `NewKey`.
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let clash = schemas.keys().find(|name| schemas.contains_key(&format!("New{name}")));
        assert_eq!(clash, None);
    }

    #[test]
    fn kinds_and_environments_are_those_of_the_dialect() {
        let of = |dialect: &str| description(&Dialect::built_in(dialect).unwrap().unwrap());
        let key = |document: &Value, field: &str| {
            document["components"]["schemas"]["KeyCreate"]["properties"][field]["enum"].clone()
        };
        let keyward = of("keyward");
        assert_eq!(key(&keyward, "kind"), serde_json::json!(["key", null]));
        assert_eq!(key(&keyward, "environment"), serde_json::json!(["live", "test", null]));
        assert_eq!(key(&of("exograph"), "environment"), serde_json::json!(["live", null]));
    }
}
