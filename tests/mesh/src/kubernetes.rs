//! A stub of the Kubernetes API, for programs that require one and get their own configuration elsewhere.
//!
//! It has the objects that a test gives it, which never change: a list returns them, and a watch waits without an event.
//! What a client writes is accepted and forgotten. Unknown kinds get 404, so that a client's log names them.

use crate::tools::replace_file;
use keyward_harness::Result;
use keyward_harness::echo::{Answer, Echo, SeenRequest};
use keyward_harness::ports::loopback;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::path::Path;

/// The resources, with the kinds of their objects.
const KINDS: [(&str, &str); 14] = [
    ("configmaps", "ConfigMap"),
    ("customresourcedefinitions", "CustomResourceDefinition"),
    ("endpointslices", "EndpointSlice"),
    ("ingressclasses", "IngressClass"),
    ("ingresses", "Ingress"),
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    ("namespaces", "Namespace"),
    ("nodes", "Node"),
    ("pods", "Pod"),
    ("secrets", "Secret"),
    ("serviceaccounts", "ServiceAccount"),
    ("services", "Service"),
    ("tokenreviews", "TokenReview"),
    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
];

/// A running API, without authentication.
#[derive(Debug)]
pub struct Kubernetes {
    server: Echo,
}

/// The objects, by resource, such as `pods`.
pub type Objects = BTreeMap<&'static str, Vec<Value>>;

impl Kubernetes {
    /// Starts the API with these objects, on a free port of loopback. A TokenReview accepts the token of
    /// [`service_account_token`].
    pub async fn start(objects: Objects) -> Result<Self> {
        let answer = move |request: SeenRequest| {
            let answer = answer(&objects, &request);
            async move {
                match answer {
                    Some(answer) => ready(answer).await,
                    // Without an event, until the client closes the connection.
                    None => pending().await,
                }
            }
        };
        Ok(Self { server: Echo::start_with("the Kubernetes API", loopback(0), answer).await? })
    }

    /// Writes a kubeconfig for this API.
    pub fn write_config(&self, path: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "stub", "cluster": {"server": format!("http://{}", self.server.address())}}],
            "users": [{"name": "stub", "user": {}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
            "current-context": "stub",
        });
        replace_file(path, &config.to_string())
    }
}

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "1"}})
}

/// A running pod of the service account that has its namespace's name. The pod's name is `NAMESPACE-1`.
pub fn pod(namespace: &str, address: &str, labels: &Value) -> Value {
    json!({
        "metadata": {
            "name": format!("{namespace}-1"),
            "namespace": namespace,
            "uid": namespace,
            "resourceVersion": "1",
            "labels": labels,
        },
        "spec": {"serviceAccountName": namespace, "containers": [{"name": "istio-proxy"}]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// A service that has its namespace's name, with the pod of [`pod`] at this address behind it: the service, and its
/// endpoints.
pub fn service(namespace: &str, cluster_ip: &str, (port_name, port): (&str, u16), pod: (&str, u16)) -> (Value, Value) {
    let (address, target) = pod;
    let service = json!({
        "metadata": {"name": namespace, "namespace": namespace, "resourceVersion": "1"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ports": [{"name": port_name, "port": port, "protocol": "TCP", "targetPort": target}],
        },
    });
    let endpoints = json!({
        "metadata": {
            "name": format!("{namespace}-1"),
            "namespace": namespace,
            "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": namespace},
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [address],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": format!("{namespace}-1"), "namespace": namespace},
        }],
        "ports": [{"name": port_name, "port": target, "protocol": "TCP"}],
    });
    (service, endpoints)
}

/// The token of the service account that has its namespace's name.
pub fn service_account_token(namespace: &str) -> String {
    format!("{TOKEN}{namespace}")
}

const TOKEN: &str = "service-account-of-";

/// The answer to a request; `None` for a watch.
fn answer(objects: &Objects, request: &SeenRequest) -> Option<Answer> {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if path == "/version" {
        return Some(json_answer(200, &json!({"major": "1", "minor": "35", "gitVersion": "v1.35.0"})));
    }
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let (version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return Some(not_found()),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let Some((resource, kind)) = rest.first().and_then(|name| KINDS.iter().find(|(resource, _)| resource == name))
    else {
        return Some(not_found());
    };
    match (request.method.as_str(), *resource, rest.len()) {
        ("POST", "tokenreviews", 1) => Some(review(&request.body)),
        ("POST", _, 1) => Some((201, "application/json", request.body.clone())),
        ("PUT" | "PATCH", _, _) => Some((200, "application/json", request.body.clone())),
        ("GET", _, 1) if query.split('&').any(|parameter| parameter == "watch=true") => None,
        ("GET", _, 1) => {
            let items = objects.get(resource).into_iter().flatten();
            let items = items.filter(|object| namespace.is_none_or(|name| object["metadata"]["namespace"] == name));
            let items: Vec<&Value> = items.collect();
            // What a client wants to know the names of only.
            let partial = request.header("accept").iter().any(|accept| accept.contains("as=PartialObjectMetadataList"));
            let (version, kind) = match partial {
                true => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
                false => (version, *kind),
            };
            Some(json_answer(
                200,
                &json!({
                    "apiVersion": version,
                    "kind": format!("{kind}List"),
                    "metadata": {"resourceVersion": "1"},
                    "items": items,
                }),
            ))
        }
        _ => Some(not_found()),
    }
}

/// Authenticates a service account by its token.
fn review(body: &[u8]) -> Answer {
    let Ok(mut review) = serde_json::from_slice::<Value>(body) else {
        return json_answer(400, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 400}));
    };
    let status = match review["spec"]["token"].as_str().and_then(|token| token.strip_prefix(TOKEN)) {
        Some(namespace) => json!({
            "authenticated": true,
            "audiences": review["spec"]["audiences"],
            "user": {
                "username": format!("system:serviceaccount:{namespace}:{namespace}"),
                "groups": ["system:serviceaccounts"],
                "extra": {"authentication.kubernetes.io/pod-name": [format!("{namespace}-1")]},
            },
        }),
        None => json!({"authenticated": false}),
    };
    review["status"] = status;
    json_answer(201, &review)
}

fn not_found() -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
    json_answer(404, &status)
}

fn json_answer(status: u16, value: &Value) -> Answer {
    (status, "application/json", value.to_string().into_bytes())
}
