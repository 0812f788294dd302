//! Calls of the API inside the process, with the token of a session.

use crate::http::Credential;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower_service::Service;

/// The API, as the token of a session may call it.
pub(super) struct Api {
    router: Router,
    credential: Credential,
}

/// A request to the API.
#[derive(Clone, Debug)]
pub(super) struct ApiRequest {
    pub(super) method: Method,
    /// The path, with its query.
    pub(super) path: String,
    pub(super) document: Option<Value>,
    /// Another body than a document, with its media type.
    pub(super) text: Option<(&'static str, String)>,
    /// The value of `Idempotency-Key`.
    pub(super) once: Option<String>,
    /// The value of `If-Match`.
    pub(super) version: Option<String>,
}

/// A successful answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) headers: HeaderMap,
    pub(super) document: Value,
}

/// A refusal or failure: the problem document of the API.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Failure {
    #[serde(default)]
    pub(super) status: u16,
    pub(super) title: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    pub(super) errors: Vec<FieldError>,
    /// The value of `Retry-After`.
    #[serde(skip)]
    pub(super) retry_after: Option<HeaderValue>,
}

/// An invalid field.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct FieldError {
    pub(super) field: String,
    pub(super) message: String,
}

/// The longest answer: a page of a thousand keys, each with a hundred secrets, is shorter.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// What need not be escaped in a path segment or a query (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The text as a path segment, or a name or value of a query.
pub(super) fn escape(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// The query of these parameters, with its `?`; empty without any. Parameters without a value are left out.
pub(super) fn query<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let pairs = parameters.into_iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<_> = pairs.map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

impl ApiRequest {
    pub(super) fn new(method: Method, path: String) -> Self {
        Self { method, path, document: None, text: None, once: None, version: None }
    }

    pub(super) fn with_document(self, document: Value) -> Self {
        Self { document: Some(document), ..self }
    }

    pub(super) fn with_text(self, media_type: &'static str, text: String) -> Self {
        Self { text: Some((media_type, text)), ..self }
    }

    /// The same request is carried out once, however often its form is sent.
    pub(super) fn once(self, idempotency_key: &str) -> Self {
        Self { once: Some(idempotency_key.to_owned()), ..self }
    }

    /// Only if the resource still has this version; an empty one is any.
    pub(super) fn if_match(self, version: &str) -> Self {
        Self { version: Some(version.to_owned()).filter(|version| !version.is_empty()), ..self }
    }
}

impl Api {
    pub(super) fn new(router: Router, credential: Credential) -> Self {
        Self { router, credential }
    }

    /// Reads a resource.
    pub(super) async fn get(&self, path: &str) -> Result<Reply, Failure> {
        self.call(ApiRequest::new(Method::GET, path.to_owned())).await
    }

    /// The resource as the console knows it.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(self.get(path).await?.document)
    }

    /// The same, or `None` if it does not exist.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        match self.read(path).await {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.status == StatusCode::NOT_FOUND => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Sends a request.
    pub(super) async fn call(&self, request: ApiRequest) -> Result<Reply, Failure> {
        let (media_type, body) = match (request.text, request.document) {
            (Some((media_type, text)), _) => (media_type, Body::from(text)),
            (None, Some(document)) => ("application/json", Body::from(document.to_string())),
            (None, None) => ("application/json", Body::empty()),
        };
        let mut built = Request::new(body);
        *built.method_mut() = request.method;
        *built.uri_mut() = request.path.parse().map_err(|_| Failure::internal("invalid path"))?;
        built.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        for (name, value) in [("idempotency-key", request.once), (IF_MATCH.as_str(), request.version)] {
            let Some(value) = value else { continue };
            let value = HeaderValue::try_from(value).map_err(|_| Failure::bad_request("The form is incomplete."))?;
            if name == IF_MATCH.as_str() {
                built.headers_mut().insert(IF_MATCH, value);
            } else {
                built.headers_mut().insert("idempotency-key", value);
            }
        }
        built.extensions_mut().insert(self.credential.clone());
        let Ok(response) = self.router.clone().call(built).await;
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, MAX_REPLY_BYTES).await.map_err(|_| Failure::internal("incomplete answer"))?;
        if !parts.status.is_success() {
            let failure = serde_json::from_slice(&body);
            let mut failure: Failure = failure.map_err(|_| Failure::internal("unreadable problem"))?;
            failure.retry_after = parts.headers.get(RETRY_AFTER).cloned();
            return Err(failure);
        }
        let document = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&body).map_err(|_| Failure::internal("unreadable answer"))?,
        };
        Ok(Reply { headers: parts.headers, document })
    }
}

/// The document as the console knows it.
pub(super) fn read<T: DeserializeOwned>(document: Value) -> Result<T, Failure> {
    serde_json::from_value(document).map_err(|error| Failure::internal(&error.to_string()))
}

impl Reply {
    /// The version of the resource.
    pub(super) fn version(&self) -> &str {
        self.headers.get(ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default()
    }
}

impl Failure {
    fn new(status: StatusCode, title: &str, detail: &str) -> Self {
        let (title, detail) = (title.to_owned(), detail.to_owned());
        Self { status: status.as_u16(), title, detail, errors: Vec::new(), retry_after: None }
    }

    /// A mistake of the console itself.
    pub(super) fn internal(cause: &str) -> Self {
        tracing::error!(cause, "console failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error", "The server's log has the cause.")
    }

    pub(super) fn bad_request(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad request", detail)
    }

    pub(super) fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Not permitted", detail)
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found", "There is no page at this address.")
    }

    /// The failure of a form that names a field that is wrong.
    pub(super) fn invalid(field: &str, message: &str) -> Self {
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid request", "some fields are invalid");
        failure.errors.push(FieldError { field: field.to_owned(), message: message.to_owned() });
        failure
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the form can be shown again with what is wrong in it.
    pub(super) fn is_of_form(&self) -> bool {
        matches!(self.status, 400 | 403 | 409 | 412 | 422)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_escapes_and_leaves_out_empty_values() {
        assert_eq!(query([]), "");
        assert_eq!(query([("a", ""), ("b", "x y&z=ü/?#"), ("c", "1")]), "?b=x%20y%26z%3D%C3%BC%2F%3F%23&c=1");
    }
}
