//! The API described by itself: an OpenAPI document made of what stands beside the handlers (`#[utoipa::path]`), the
//! resources (`ToSchema`) and the readers of requests ([`schema`]). What many operations have in common is added
//! here, from what they are: who asks shows a token, who sends a document may send a bad one.
//!
//! [`schema`]: crate::model::schema

use super::problem::Problem;
use axum::Extension;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use keyward_contract::dialect::Dialect;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::schema::{Object, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, Info, License, OpenApi, OpenApiBuilder, Ref, RefOr, Required, Server, Tag,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

pub(super) use crate::model::schema::{number, text};

/// A type that stands for a schema: `schema!(Name, "what it is", the schema as JSON)`.
macro_rules! schema {
    ($name:ident, $description:literal, $schema:expr) => {
        #[doc = $description]
        pub(super) struct $name;

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $crate::api::openapi::typed($description, $schema)
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
    for operation in operations(router.get_openapi_mut()) {
        operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(caller.scheme(), [])]);
    }
    router
}

/// The document about those operations, for a server of that dialect.
pub(super) fn document(described: OpenApi, dialect: &Dialect) -> Value {
    let mut api = OpenApiBuilder::new().info(info()).servers(Some([Server::new("/")])).tags(Some(tags())).build();
    api.components = Some(components());
    api.merge(described);
    let requests = crate::model::schema::all(dialect);
    for operation in operations(&mut api) {
        add_common_refusals(operation);
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            let is_needed = |(name, schema): &(&str, Value)| schema.get("required").is_some() && carries(body, name);
            body.required = requests.iter().any(is_needed).then_some(Required::True);
        }
    }
    // Nothing of it has keys other than strings, nor anything that fails to serialize.
    let mut document = serde_json::to_value(&api).unwrap_or_default();
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas") {
        schemas.extend(requests.into_iter().map(|(name, schema)| (name.to_owned(), schema)));
    }
    document
}

/// Whether the body is a document of that name.
fn carries(body: &RequestBody, name: &str) -> bool {
    let reference = RefOr::Ref(Ref::from_schema_name(name));
    body.content
        .values()
        .any(|content| matches!(content, RefOr::T(content) if content.schema.as_ref() == Some(&reference)))
}

fn operations(api: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    api.paths.paths.values_mut().flat_map(|item: &mut PathItem| {
        [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
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
    const ALL: [Self; 2] = [Self::Operator, Self::Edge];

    fn scheme(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Edge => "edge",
        }
    }

    fn described(self) -> &'static str {
        match self {
            Self::Operator => "A token of operators, as in the file `admin-token`.",
            Self::Edge => "A token of edges, as in the file `edge-token`.",
        }
    }
}

fn components() -> Components {
    let mut components = Components::new();
    for caller in Caller::ALL {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(caller.described())).build();
        components.add_security_scheme(caller.scheme(), SecurityScheme::Http(scheme));
    }
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    let mut of_problem = Vec::new();
    Problem::schemas(&mut of_problem);
    components.schemas.extend(of_problem);
    for (status, description, fields) in REFUSALS {
        components.responses.insert(name(status), RefOr::T(refusal(description, fields)));
    }
    components
}

/// A field of the header: its name, and what it says.
type Field = (&'static str, &'static str);

/// Every status of a refusal, what it means, and what its header has beyond the media type.
const REFUSALS: [(u16, &str, &[Field]); 9] = [
    (400, "The query or the body cannot be read.", &[]),
    (401, "A token is needed, or this one is not valid here.", &[("WWW-Authenticate", "What is wanted (RFC 6750).")]),
    (404, "There is no such thing.", &[]),
    (409, "It is not in a state for that.", &[]),
    (413, "The body is too long.", &[]),
    (415, "The body is not JSON by its media type.", &[]),
    (422, "Some fields cannot be used; `errors` has each of them.", &[]),
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
        [(STATUS.to_string(), reference(STATUS))].into()
    }
}

fn reference(status: u16) -> RefOr<Described> {
    RefOr::Ref(Ref::from_response_name(name(status)))
}

/// What is refused for reasons that the operation shares with others like it.
fn add_common_refusals(operation: &mut Operation) {
    let has = |location: ParameterIn| {
        operation
            .parameters
            .iter()
            .flatten()
            .any(|parameter| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == location))
    };
    let has_body = operation.request_body.is_some();
    let has_caller = operation.security.as_ref().is_some_and(|callers| !callers.is_empty());
    let reasons = [
        (400, has_body || has(ParameterIn::Query)),
        (401, has_caller),
        (404, has(ParameterIn::Path)),
        (413, has_body),
        (415, has_body),
        (422, has_body),
        (500, has_caller),
        (503, has_caller),
    ];
    for (status, _) in reasons.into_iter().filter(|(_, given)| *given) {
        operation.responses.responses.entry(status.to_string()).or_insert_with(|| reference(status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Routes, description};
    use regex::Regex;
    use std::collections::BTreeSet;

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
        let Routes { for_all, for_operators, for_edges } = Routes::new();
        let (routes, _) = for_all.merge(for_operators).merge(for_edges).split_for_parts();
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

    #[test]
    fn kinds_and_environments_are_those_of_the_dialect() {
        let of = |dialect: &str| description(&Dialect::built_in(dialect).unwrap().unwrap());
        let key = |document: &Value, field: &str| {
            document["components"]["schemas"]["NewKey"]["properties"][field]["enum"].clone()
        };
        let keyward = of("keyward");
        assert_eq!(key(&keyward, "kind"), serde_json::json!(["key", null]));
        assert_eq!(key(&keyward, "environment"), serde_json::json!(["live", "test", null]));
        assert_eq!(key(&of("exograph"), "environment"), serde_json::json!(["live", null]));
    }
}
