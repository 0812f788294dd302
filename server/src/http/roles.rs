//! Which role each operation of the operators' API requires: one table over all of its routes. An operation that is missing
//! in it requires the role admin, and fails a test.

use super::mcp;
use super::openapi::Caller;
use crate::model::Role;
use axum::http::Method;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};

/// Method, path and required role.
const TABLE: [(&str, &str, Role); 35] = [
    // Each tool requires the role of its operation.
    ("POST", mcp::PATH, Role::Viewer),
    ("GET", "/v1/keys", Role::Viewer),
    ("POST", "/v1/keys", Role::Operator),
    ("GET", "/v1/keys/counts", Role::Viewer),
    ("GET", "/v1/keys/{id}", Role::Viewer),
    ("PATCH", "/v1/keys/{id}", Role::Operator),
    ("DELETE", "/v1/keys/{id}", Role::Operator),
    ("GET", "/v1/keys/{id}/why", Role::Viewer),
    ("POST", "/v1/keys/{id}/rotate", Role::Operator),
    ("POST", "/v1/keys/{id}/pause", Role::Operator),
    ("POST", "/v1/keys/{id}/resume", Role::Operator),
    ("DELETE", "/v1/keys/{id}/secrets/{secret_id}", Role::Operator),
    ("POST", "/v1/keys/import", Role::Operator),
    ("GET", "/v1/keys/export", Role::Viewer),
    ("POST", "/v1/leaks", Role::Operator),
    ("GET", "/v1/owners", Role::Viewer),
    ("GET", "/v1/owners/{id}", Role::Viewer),
    ("PUT", "/v1/owners/{id}", Role::Operator),
    ("PATCH", "/v1/owners/{id}", Role::Operator),
    ("POST", "/v1/owners/{id}/revoke-keys", Role::Operator),
    ("GET", "/v1/plans", Role::Viewer),
    ("GET", "/v1/plans/{id}", Role::Viewer),
    ("PUT", "/v1/plans/{id}", Role::Admin),
    ("DELETE", "/v1/plans/{id}", Role::Admin),
    ("GET", "/v1/tokens", Role::Viewer),
    ("POST", "/v1/tokens", Role::Admin),
    ("GET", "/v1/tokens/{id}", Role::Viewer),
    ("DELETE", "/v1/tokens/{id}", Role::Admin),
    ("GET", "/v1/sessions", Role::Viewer),
    ("DELETE", "/v1/sessions/{id}", Role::Admin),
    ("GET", "/v1/usage", Role::Viewer),
    ("GET", "/v1/keys/{id}/usage", Role::Viewer),
    ("GET", "/v1/usage/reports", Role::Viewer),
    ("POST", "/v1/usage/undo", Role::Admin),
    ("GET", "/v1/audit", Role::Viewer),
];

/// The role that a request of that method requires on the route, which is the path in the table. `HEAD` requires what `GET`
/// requires.
pub(super) fn required(method: &Method, route: &str) -> Role {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let row = TABLE.iter().find(|(known, path, _)| (method.as_str(), route) == (*known, *path));
    row.map_or(Role::Admin, |(.., role)| *role)
}

/// Describes the required role of every operation of those routes.
pub(super) fn describe(api: &mut OpenApi) {
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            operation.security = Some(Caller::Operator(required(&method, path)).requirement());
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let all = [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Routes;

    /// Without duplicates, and without rows for routes that are gone.
    #[test]
    fn table_has_every_operation_once() {
        let mut api = Routes::new().for_operators.into_openapi();
        let mut described = vec![format!("POST {}", mcp::PATH)];
        for (path, item) in &mut api.paths.paths {
            described.extend(operations(item).map(|(method, _)| format!("{method} {path}")));
        }
        let mut table: Vec<_> = TABLE.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        described.sort();
        table.sort();
        assert_eq!(described, table);
    }

    #[test]
    fn unknown_operations_require_the_role_admin() {
        assert_eq!(required(&Method::POST, "/v1/unknown"), Role::Admin);
        assert_eq!(required(&Method::HEAD, "/v1/keys"), Role::Viewer);
    }
}
