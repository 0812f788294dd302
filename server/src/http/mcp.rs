//! The MCP server (Model Context Protocol, streamable HTTP): `POST /mcp`, over which agents manage keys.
//!
//! A tool is an operation of the API under another name. A call becomes a request to the API's own router with the token of the
//! caller, so tokens, roles, validation and the audit log are those of the API. There are no sessions: every request carries its
//! token. The results go to the caller alone; nothing here logs arguments or results, which can contain new keys.

use super::app::App;
use super::auth::HeldRole;
use super::extract::Body;
use super::problem::ApiError;
use super::roles;
use crate::model::{Role, documents};
use crate::net::connections::Peer;
use crate::store::Authorization;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderName, Method, Request};
use axum::response::Response;
use axum::{Extension, Router};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use keyward_core::dialect::Dialect;
use keyward_core::key::id::is_key_id;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation, JsonObject,
    ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tower_service::Service;

/// The path of the MCP server.
pub(super) const PATH: &str = "/mcp";

/// The MCP server over a router of the API.
#[derive(Clone)]
pub(super) struct McpServer(StreamableHttpService<Tools, NeverSessionManager>);

#[derive(Clone)]
struct Tools {
    api: Router,
    dialect: Arc<Dialect>,
}

/// A tool, and the operation that it is.
struct ToolSpec {
    name: &'static str,
    description: &'static str,
    method: Method,
    /// With `{id}` where a key is named.
    path: &'static str,
    input: fn(&Dialect) -> Value,
    is_destructive: bool,
}

const INSTRUCTIONS: &str = "Manages the API keys of a Keyward control plane. A new key or secret is in the result of create_key or \
                            rotate_key alone, and cannot be shown again: hand it over and do not repeat it. Revoking a key is \
                            permanent; pausing it is not.";

/// The longest answer of the API that a tool returns. A full page of keys is shorter.
const MAX_RESULT_BYTES: usize = 16 << 20;

const TOOLS: [ToolSpec; 10] = [
    ToolSpec {
        name: "list_keys",
        description: "List API keys, newest first unless sorted otherwise; continue with after = next.",
        method: Method::GET,
        path: "/v1/keys",
        input: |_| {
            let text = |description: &str| json!({"type": "string", "description": description});
            let flag = |description: &str| json!({"type": "boolean", "description": description});
            object(
                json!({
                    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "The maximum number of results"},
                    "after": text("The next of the previous page"),
                    "owner": text("Only keys of this owner"),
                    "member": text("Only keys for this member"),
                    "plan": text("Only keys on this plan"),
                    "kind": text("Only keys of this kind"),
                    "environment": text("Only keys of this environment, live or test"),
                    "state": text("Only keys in this state: active, paused, revoked or expired"),
                    "name": text("Only keys whose name contains this"),
                    "search": text("Only keys whose id or hint begins with this"),
                    "created_after": text("A time in RFC 3339"),
                    "created_before": text("A time in RFC 3339"),
                    "expires_after": text("A time in RFC 3339"),
                    "expires_before": text("A time in RFC 3339"),
                    "used_after": text("A time in RFC 3339"),
                    "unused_since": text("Only keys created before this time and not used since"),
                    "used": flag("Only keys that were used, or that never were"),
                    "leaked": flag("Only keys with a leaked secret"),
                    "in_rotation": flag("Only keys with a secret in its grace period"),
                    "low_credits": flag("Only keys with few credits left"),
                    "sort": text("created, name, last_used or expires; descending with a minus sign"),
                }),
                &[],
            )
        },
        is_destructive: false,
    },
    ToolSpec {
        name: "count_keys",
        description: "Count the API keys by state, and those that need attention.",
        method: Method::GET,
        path: "/v1/keys/counts",
        input: |_| {
            let seconds = |description: &str| json!({"type": "integer", "minimum": 1, "description": description});
            object(
                json!({
                    "expiring_within_s": seconds("Within how many seconds a key expires to be counted as expiring"),
                    "unused_for_s": seconds("For how many seconds a key was not used to be counted as unused"),
                }),
                &[],
            )
        },
        is_destructive: false,
    },
    ToolSpec {
        name: "show_key",
        description: "Show an API key and its secrets' hints, without the secrets.",
        method: Method::GET,
        path: "/v1/keys/{id}",
        input: |_| of_key(json!({}), &[]),
        is_destructive: false,
    },
    ToolSpec {
        name: "create_key",
        description: "Create an API key. The field key of the result is the key itself, which cannot be shown again.",
        method: Method::POST,
        path: "/v1/keys",
        input: |dialect| document("KeyCreate", dialect),
        is_destructive: false,
    },
    ToolSpec {
        name: "rotate_key",
        description: "Issue a new secret for an API key; the previous ones stay valid for a grace period, a day by default. The \
                      field key of the result is the new key, which cannot be shown again.",
        method: Method::POST,
        path: "/v1/keys/{id}/rotate",
        input: |_| {
            of_key(
                json!({"grace_s": {"type": "integer", "minimum": 0, "description": "The grace period in seconds"}}),
                &[],
            )
        },
        is_destructive: true,
    },
    ToolSpec {
        name: "pause_key",
        description: "Pause an API key: it is refused until it is resumed.",
        method: Method::POST,
        path: "/v1/keys/{id}/pause",
        input: |_| of_key(json!({}), &[]),
        is_destructive: true,
    },
    ToolSpec {
        name: "resume_key",
        description: "Resume a paused API key.",
        method: Method::POST,
        path: "/v1/keys/{id}/resume",
        input: |_| of_key(json!({}), &[]),
        is_destructive: false,
    },
    ToolSpec {
        name: "revoke_key",
        description: "Revoke an API key immediately and permanently.",
        method: Method::DELETE,
        path: "/v1/keys/{id}",
        input: |_| of_key(json!({}), &[]),
        is_destructive: true,
    },
    ToolSpec {
        name: "key_usage",
        description: "Show how often an API key was used, by hour and verdict; the last day by default.",
        method: Method::GET,
        path: "/v1/keys/{id}/usage",
        input: |_| {
            let time = json!({"type": "string", "description": "A time in RFC 3339"});
            of_key(json!({"from": time.clone(), "to": time}), &[])
        },
        is_destructive: false,
    },
    ToolSpec {
        name: "why",
        description: "Explain whether an API key is accepted, which check it fails, and what limits it.",
        method: Method::GET,
        path: "/v1/keys/{id}/why",
        input: |_| {
            let text = |description: &str| json!({"type": "string", "description": description});
            of_key(
                json!({
                    "scopes": text("The permissions that the route requires, separated by spaces"),
                    "kinds": text("The kinds that the route accepts, separated by spaces"),
                    "client": text("The address of the client"),
                }),
                &[],
            )
        },
        is_destructive: false,
    },
];

impl McpServer {
    /// The MCP server over that router of the API.
    pub(super) fn new(api: Router, dialect: Arc<Dialect>) -> Self {
        let tools = Tools { api, dialect };
        // The token, and not the name by which the server is called, decides who may call it. A browser sends no token by itself,
        // and has no business here.
        let config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .disable_allowed_hosts()
            .enforce_origin_validation();
        Self(StreamableHttpService::new(move || Ok(tools.clone()), Arc::default(), config))
    }
}

/// Serves a request of the protocol.
pub(super) async fn serve(
    State(app): State<App>,
    Extension(server): Extension<McpServer>,
    Extension(by): Extension<Authorization>,
    parts: Parts,
    Body(body): Body,
) -> Result<Response, ApiError> {
    // The body may have taken a while.
    app.store.check_authorization(&by).await?;
    let response = server.0.handle(Request::from_parts(parts, Full::new(body))).await;
    Ok(response.map(axum::body::Body::new))
}

impl rmcp::ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("keyward", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    /// Those that the role of the caller permits.
    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let role = context.extensions.get::<Parts>().and_then(|parts| parts.extensions.get::<HeldRole>());
        let permitted = TOOLS.iter().filter(|tool| role.is_some_and(|role| role.0.includes(tool.role())));
        Ok(ListToolsResult::with_all_items(permitted.map(|tool| tool.described(&self.dialect)).collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = TOOLS.iter().find(|tool| tool.name == request.name);
        let tool = tool.ok_or_else(|| ErrorData::invalid_params("unknown tool", None))?;
        let parts = context.extensions.get::<Parts>().ok_or_else(|| ErrorData::internal_error("no request", None))?;
        let result = match tool.request(request.arguments.unwrap_or_default(), parts) {
            Ok(request) => self.ask(request).await,
            Err(message) => CallToolResult::error(vec![ContentBlock::text(message)]),
        };
        Ok(result.into())
    }
}

impl Tools {
    async fn ask(&self, request: Request<axum::body::Body>) -> CallToolResult {
        let failed = |message: &str| CallToolResult::error(vec![ContentBlock::text(message)]);
        let Ok(response) = self.api.clone().call(request).await;
        let is_success = response.status().is_success();
        let body = match Limited::new(response.into_body(), MAX_RESULT_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return failed("the result is too large; ask for a shorter page");
            }
            Err(_) => return failed("the result was not received; check the current state before retrying"),
        };
        match serde_json::from_slice::<Value>(&body) {
            Ok(document) if is_success => CallToolResult::structured(document),
            Ok(problem) => CallToolResult::structured_error(problem),
            Err(_) => failed("expected JSON from the API; check the current state before retrying"),
        }
    }
}

impl ToolSpec {
    /// The role that its operation requires.
    fn role(&self) -> Role {
        roles::required(&self.method, self.path)
    }

    fn described(&self, dialect: &Dialect) -> Tool {
        let input = match (self.input)(dialect) {
            Value::Object(schema) => schema,
            _ => JsonObject::new(),
        };
        let is_read_only = self.method == Method::GET;
        let mut annotations = ToolAnnotations::new().read_only(is_read_only);
        if !is_read_only {
            annotations = annotations.destructive(self.is_destructive);
        }
        Tool::new(self.name, self.description, input).with_annotations(annotations.open_world(false))
    }

    /// The request to the API, in the name of the caller.
    fn request(&self, mut arguments: Map<String, Value>, caller: &Parts) -> Result<Request<axum::body::Body>, String> {
        let mut path = self.path.to_owned();
        if path.contains("{id}") {
            // What is not an id is not repeated: it could be a key.
            let id = arguments.remove("id");
            let id = id.as_ref().and_then(Value::as_str).filter(|id| is_key_id(id));
            path = path.replace("{id}", id.ok_or("id: expected the id of a key, which begins with key_")?);
        }
        if self.method == Method::GET {
            let mut separator = '?';
            for (name, value) in &arguments {
                let value = match value {
                    Value::Null => continue,
                    Value::String(text) => text.clone(),
                    Value::Bool(_) | Value::Number(_) => value.to_string(),
                    Value::Array(_) | Value::Object(_) => {
                        return Err(format!("{name}: expected a text, a number or a boolean"));
                    }
                };
                let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                path += &format!("{separator}{}={}", encoded(name), encoded(&value));
                separator = '&';
            }
        }
        let mut request = Request::builder().method(&self.method).uri(path);
        // By which the client is known to the throttle on failed authentication.
        for name in [AUTHORIZATION, HeaderName::from_static("x-forwarded-for")] {
            for value in caller.headers.get_all(&name) {
                request = request.header(&name, value);
            }
        }
        if let Some(peer) = caller.extensions.get::<Peer>() {
            request = request.extension(*peer);
        }
        let body = if self.method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
            axum::body::Body::from(Value::Object(arguments).to_string())
        } else {
            axum::body::Body::empty()
        };
        request.body(body).map_err(|_| "an argument cannot be sent".to_owned())
    }
}

/// The schema of a request of the API.
fn document(name: &str, dialect: &Dialect) -> Value {
    let found = documents::all(dialect).into_iter().find(|(known, _)| *known == name);
    found.map_or_else(|| json!({"type": "object"}), |(_, schema)| schema)
}

/// Arguments of a tool for one key.
fn of_key(mut properties: Value, required: &[&str]) -> Value {
    if let Value::Object(properties) = &mut properties {
        properties.insert("id".to_owned(), json!({"type": "string", "description": "The key's id, key_…"}));
    }
    object(properties, &[&["id"], required].concat())
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_an_operation_of_the_table() {
        for tool in &TOOLS {
            let expected = if tool.method == Method::GET { Role::Viewer } else { Role::Operator };
            assert_eq!(tool.role(), expected, "{}", tool.name);
            assert_eq!(tool.described(&Dialect::built_in("keyward").unwrap().unwrap()).name, tool.name);
        }
    }
}
