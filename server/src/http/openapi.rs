//! The OpenAPI document: generated from the handlers (`#[utoipa::path]`), the resources (`ToSchema`) and the readers of
//! requests ([`documents`]). Responses that operations have in common are added here, such as 401 where a token is required and
//! 422 where a document is sent.
//!
//! [`documents`]: crate::model::documents

use super::extract::MERGE_PATCH;
use super::idempotency::IdempotencyKey;
use super::precondition::{IfMatch, Known};
use super::problem::Problem;
use crate::model::Role;
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

/// Declares a type for a schema: `schema!(Name, "description", schema as JSON)`.
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

/// Converts a JSON schema to utoipa's type.
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

/// The serialized document.
#[derive(Clone)]
pub(super) struct Description(pub(super) Bytes);

/// Who may call an operation; each has a security scheme.
#[derive(Clone, Copy)]
pub(super) enum Caller {
    /// With an operator token of that role or a higher one.
    Operator(Role),
    /// With an edge token.
    Edge,
    /// With a key (self-service).
    User,
    /// With a signature of GitHub.
    Github,
}

/// Adds the error response of that status to an operation.
pub(super) struct Refused<const STATUS: u16>;

/// Show the API description
///
/// This document, in OpenAPI 3.1.
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

/// Sets the caller of every operation of the router.
pub(super) fn called_by<S: Clone + Send + Sync + 'static>(
    caller: Caller,
    mut router: OpenApiRouter<S>,
) -> OpenApiRouter<S> {
    for (_, operation) in operations(router.get_openapi_mut()) {
        operation.security = Some(caller.requirement());
    }
    router
}

/// The document of those operations, for a server with that dialect.
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
    // Every key is a string, so serialization cannot fail.
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

/// Lets every `PATCH` be sent as a merge patch, too.
fn add_merge_patches(api: &mut OpenApi) {
    let patches = api.paths.paths.values_mut().filter_map(|item| item.patch.as_mut());
    for body in patches.filter_map(|operation| operation.request_body.as_mut()) {
        let RefOr::T(body) = body else { continue };
        if let Some(content) = body.content.get("application/json").cloned() {
            body.content.insert(MERGE_PATCH.to_owned(), content);
        }
    }
}

/// Whether the body refers to the schema of that name.
fn carries(body: &RequestBody, name: &str) -> bool {
    let reference = RefOr::Ref(Ref::from_schema_name(name));
    body.content
        .values()
        .any(|content| matches!(content, RefOr::T(content) if content.schema.as_ref() == Some(&reference)))
}

/// Every operation, and whether it is a `GET`.
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
        "The control plane of Keyward: creates, rotates and revokes API keys, and feeds every change to the edges.\n\n\
         Errors are problem details (RFC 9457). All invalid fields of a request are reported at once. Unknown fields and \
         parameters are errors. Times are RFC 3339, and UTC in responses."
            .to_owned(),
    );
    let mut license = License::new(env!("CARGO_PKG_LICENSE"));
    license.identifier = Some(env!("CARGO_PKG_LICENSE").to_owned());
    info.license = Some(license);
    info
}

fn tags() -> Vec<Tag> {
    [
        ("keys", "API keys. A plaintext key is only in the response to the request that issued it."),
        ("owners", "Owners of keys: users, teams and organizations."),
        ("plans", "Plans: named limits and initial credits of keys."),
        (
            "tokens",
            "Tokens of operators and edges. A plaintext token is only in the response to the request that issued it.",
        ),
        ("sessions", "Sessions of the console."),
        ("leaks", "Reports of leaked keys."),
        ("usage", "Usage of keys."),
        ("audit", "The audit log."),
        ("self-service", "Self-service for users of keys; requires `--self-service`, else 404."),
        ("edges", "The feed, usage reports and verification, for edges."),
        ("service", "Health checks and this description."),
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
    /// One for each scheme.
    const ALL: [Self; 4] = [Self::Operator(Role::Viewer), Self::Edge, Self::User, Self::Github];

    fn scheme(self) -> &'static str {
        match self {
            Self::Operator(_) => "operator",
            Self::Edge => "edge",
            Self::User => "user",
            Self::Github => "github",
        }
    }

    /// OpenAPI lets the scopes of a bearer scheme be names of roles.
    pub(super) fn requirement(self) -> Vec<SecurityRequirement> {
        let roles: &[&str] = match self {
            Self::Operator(role) => &[role.name()],
            Self::Edge | Self::User | Self::Github => &[],
        };
        vec![SecurityRequirement::new(self.scheme(), roles.iter().copied())]
    }

    /// Whether it is the caller of the operation.
    fn calls(self, operation: &Operation) -> bool {
        let is = |caller: Self| operation.security == Some(caller.requirement());
        match self {
            Self::Operator(_) => Role::ALL.into_iter().any(|role| is(Self::Operator(role))),
            Self::Edge | Self::User | Self::Github => is(self),
        }
    }

    fn described(self, dialect: &Dialect) -> SecurityScheme {
        match self {
            Self::Operator(_) => bearer(
                "An operator token: from the file `admin-token`, or a token of role `viewer`, `operator` or `admin`. \
                 Operations name the least role that they require; a line of the file has the role `admin`.",
            ),
            Self::Edge => bearer("An edge token: from the file `edge-token`, or a token of role `edge`."),
            Self::User => key_scheme(dialect),
            Self::Github => {
                const DESCRIPTION: &str =
                    "ECDSA signature (P-256, SHA-256) of the body, by GitHub's secret scanning key.";
                SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(GITHUB_SIGNATURE, DESCRIPTION)))
            }
        }
    }
}

fn bearer(description: &str) -> SecurityScheme {
    SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build())
}

/// A key in the first source of the dialect; OpenAPI cannot express "in one of these, or the same in all".
fn key_scheme(dialect: &Dialect) -> SecurityScheme {
    const DESCRIPTION: &str = "A key, here or in any other source of the dialect.";
    let value = |name: &str| ApiKeyValue::with_description(name, DESCRIPTION);
    match dialect.sources.first() {
        None => bearer(DESCRIPTION),
        Some(Source::Header { name, scheme: Some(scheme), .. })
            if name == "authorization" && scheme.eq_ignore_ascii_case("bearer") =>
        {
            bearer(DESCRIPTION)
        }
        Some(Source::Header { written, .. }) => SecurityScheme::ApiKey(ApiKey::Header(value(written))),
        Some(Source::Basic(_)) => SecurityScheme::Http(
            HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some(DESCRIPTION)).build(),
        ),
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

/// A header field: its name and description.
type Field = (&'static str, &'static str);

/// The error responses: status, description, and header fields.
const REFUSALS: [(u16, &str, &[Field]); 13] = [
    (400, "Malformed query or body.", &[]),
    (401, "Missing or invalid token.", &[("WWW-Authenticate", "Challenge (RFC 6750).")]),
    (403, "Not permitted.", &[]),
    (404, "Not found.", &[]),
    (409, "Conflict with current state.", &[]),
    (408, "The body did not arrive in time.", &[]),
    (412, "ETag mismatch: the resource has changed.", &[]),
    (413, "The body is too large.", &[]),
    (415, "Unsupported media type of the body.", &[]),
    (422, "Invalid fields; `errors` lists them.", &[]),
    (
        429,
        "Too many failed authentications from this address, or too many concurrent requests of this caller.",
        &[("Retry-After", "Seconds to wait before retrying.")],
    ),
    (500, "Internal error; the server's log has the cause.", &[]),
    (503, "Temporarily unavailable; retry.", &[("Retry-After", "Seconds to wait before retrying.")]),
];

/// The name of an error response among the components.
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

/// Adds the error responses that follow from the kind of operation.
fn add_common_refusals(operation: &mut Operation, is_safe: bool, has_document: bool, dialect: &Dialect) {
    let is_called_by = |caller: Caller| caller.calls(operation);
    let is_for_users = is_called_by(Caller::User);
    let by_operator = is_called_by(Caller::Operator(Role::Viewer));
    let by_token = by_operator || is_called_by(Caller::Edge);
    // Edges send no JSON document.
    let has_document = has_document && !is_called_by(Caller::Edge);
    let has_caller = Caller::ALL.into_iter().any(is_called_by);
    let reasons = [
        // Also for a secret in the path.
        (400, has_document || has_parameter(operation) || has_idempotency_key(operation)),
        (401, has_caller),
        // For a token of a lower role; every one may read.
        (403, by_operator && !is_safe),
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

/// The statuses with which the key of a self-service request, or the request, is refused.
fn statuses_for_users(dialect: &Dialect) -> BTreeSet<u16> {
    Refusal::ALL.into_iter().map(|refusal| dialect.errors.status(refusal)).chain([403, 429]).collect()
}

fn name_for_users(status: u16) -> String {
    format!("RefusedKey{status}")
}

/// A refusal in the format of the dialect, or a problem document.
fn refusal_of_key(dialect: &Dialect) -> Described {
    let rendered = dialect.errors.render(Refusal::Unknown, &Facts::default());
    let media_type = rendered.headers.into_iter().find(|(name, _)| name == "content-type").map(|(_, value)| value);
    let any =
        Object::builder().schema_type(SchemaType::AnyValue).description(Some("In the format of the dialect.")).build();
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    let described = ContentBuilder::new().schema(Some(any)).build();
    ResponseBuilder::new()
        .description("The key is refused, or not permitted.")
        .content("application/problem+json", problem)
        .content(media_type.unwrap_or_default(), described)
        .build()
}

/// Describes the ETags of conditional requests (RFC 9110, section 13).
fn add_entity_tags(operation: &mut Operation) {
    let may_be_changed = has(operation, ParameterIn::Header, IF_MATCH);
    let may_be_known = has(operation, ParameterIn::Header, IF_NONE_MATCH) && !may_be_changed;
    if !may_be_known && !may_be_changed {
        return;
    }
    let tag = || {
        let text = Object::builder().schema_type(Type::String).build();
        HeaderBuilder::new().schema(Some(text)).description(Some("The version of the resource.")).build()
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
        let response = ResponseBuilder::new().description("Not modified.").header("ETag", tag());
        operation.responses.responses.insert("304".to_owned(), RefOr::T(response.build()));
    }
}

const IF_MATCH: &str = "If-Match";
const IF_NONE_MATCH: &str = "If-None-Match";
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const GITHUB_SIGNATURE: &str = "Github-Public-Key-Signature";

/// Whether the operation has a parameter in that location, of that name if one is given.
fn has(operation: &Operation, location: ParameterIn, name: &str) -> bool {
    operation.parameters.iter().flatten().any(|parameter| {
        matches!(parameter, RefOr::T(parameter)
            if parameter.parameter_in == location && (name.is_empty() || parameter.name == name))
    })
}

/// Whether the operation has a parameter in path or query.
fn has_parameter(operation: &Operation) -> bool {
    has(operation, ParameterIn::Path, "") || has(operation, ParameterIn::Query, "")
}

fn has_idempotency_key(operation: &Operation) -> bool {
    has(operation, ParameterIn::Header, IDEMPOTENCY_KEY)
}

/// An optional header field.
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
        field(IF_MATCH, "The ETag to change; fails with 412 if the resource has another", json!({"type": "string"}))
    }
}

impl IntoParams for Known {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        field(IF_NONE_MATCH, "The known ETag; answered 304 if the resource has it", json!({"type": "string"}))
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description =
            "Within 24 hours, the same request with this key is carried out once and returns the same plaintext";
        field(IDEMPOTENCY_KEY, description, Self::schema())
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
        let described: BTreeSet<_> =
            operations_of(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
        assert_eq!(there, described);
        assert!(there.contains(&("PATCH".to_owned(), "/v1/owners/{id}".to_owned())), "{there:?}");
    }

    #[test]
    fn operations_have_unique_ids_summaries_and_known_tags() {
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
    fn references_resolve_and_components_are_referenced() {
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
    fn document_is_openapi_3_1_without_extractors() {
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
    fn schemas_are_accepted_by_client_generators() {
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
