//! The three authentication methods of graph8 on one gateway.

use crate::common::{SOON, hmac_sha256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_harness::{Gateway, Request, Response, WorkerConnections, artifacts};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

struct Keys {
    gateway: Gateway,
    workers: WorkerConnections,
    api: String,
    write: String,
}

async fn keys() -> Keys {
    let gateway = Gateway::builder().dialect("graph8").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let mut made = Vec::new();
    for kind in ["api", "write"] {
        let fields = json!({"name": kind, "kind": kind, "owner": "acme", "limits": ["100000/s"]});
        made.push(gateway.control_plane.create(&fields).await.unwrap().key);
    }
    let (write, api) = (made.pop().unwrap(), made.pop().unwrap());
    workers.until_status(&Request::get("/api/v1/contacts").bearer(&api), 200, SOON).await.unwrap();
    workers.until_status(&Request::get("/sdk/track").bearer(&write), 200, SOON).await.unwrap();
    Keys { gateway, workers, api, write }
}

#[tokio::test]
async fn each_kind_is_accepted_on_its_own_routes_only() {
    let Keys { gateway: _running, mut workers, api, write } = keys().await;
    for (path, of_api, of_write) in [
        ("/api/v1/contacts", 200, 403),
        ("/sdk/track", 403, 200),
        ("/sdk", 403, 200),
        ("/apix", 403, 403),
        ("/", 403, 403),
    ] {
        for (key, expected) in [(&api, of_api), (&write, of_write)] {
            assert_eq!(workers.statuses(&Request::get(path).bearer(key)).await.unwrap(), [expected; 2], "{path}");
        }
    }
    for key in [&api, &write] {
        assert_eq!(
            workers.statuses(&Request::get("/mcp").bearer(key)).await.unwrap(),
            [401; 2],
            "a key is not a token"
        );
    }
}

/// A preflight needs no key, and a browser can read a refusal.
#[tokio::test]
async fn preflight_needs_no_key_and_refusals_are_readable() {
    let Keys { gateway, .. } = keys().await;
    let origin = "https://shop.example";
    let preflight = Request::new("OPTIONS", "/sdk/track")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization");
    let answer = gateway.envoy.send(&preflight).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some(origin));
    assert_eq!(answer.header("access-control-allow-methods").as_deref(), Some("GET, POST"));
    assert_eq!(answer.header("access-control-allow-headers").as_deref(), Some("authorization, content-type"));

    let refused = gateway.envoy.send(&Request::new("POST", "/sdk/track").header("origin", origin)).await.unwrap();
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("access-control-allow-origin").as_deref(), Some(origin));
    assert_eq!(refused.header("access-control-expose-headers").as_deref(), Some("retry-after, www-authenticate"));
    // Browsers do not use organization keys.
    let of_api = Request::new("OPTIONS", "/api/v1/contacts")
        .header("origin", origin)
        .header("access-control-request-method", "GET");
    let answer = gateway.envoy.send(&of_api).await.unwrap();
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, None));
    // A plain OPTIONS request is not a preflight, and needs a key.
    let options = gateway.envoy.send(&Request::new("OPTIONS", "/sdk/track").header("origin", origin)).await.unwrap();
    assert_eq!(options.status, 401);
}

#[tokio::test]
async fn key_without_limits_has_both_of_the_dialect() {
    let gateway = Gateway::builder().dialect("graph8").start().await.unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let key =
        gateway.control_plane.create(&json!({"name": "a key", "kind": "api", "owner": "acme"})).await.unwrap().key;
    let request = Request::get("/api/v1/contacts").bearer(&key);
    workers.until_status(&request, 200, SOON).await.unwrap();
    // On a slow machine, ten requests a second may take a while to exceed, two hundred a minute less.
    let mut refused: Option<Response> = None;
    for _ in 0..201 {
        let answer = workers.worker(0).send(&request).await.unwrap();
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(
        refused.header("ratelimit-policy").as_deref(),
        Some(r#""10/s";q=10;w=1, "200/min";q=200;w=60"#),
        "{refused:?}"
    );
    assert!(refused.header("ratelimit").is_some_and(|field| field.starts_with(r#""10/s";r="#)), "{refused:?}");
}

#[tokio::test]
async fn mcp_accepts_oauth_tokens_and_names_their_issuer() {
    let Keys { gateway, mut workers, .. } = keys().await;
    let address = gateway.envoy.gateway();
    let answers = workers.send(&Request::get("/mcp")).await.unwrap();
    for answer in answers {
        assert_eq!(answer.status, 401);
        let challenge = format!(
            "Bearer realm=\"graph8\", resource_metadata=\"http://{address}/.well-known/oauth-protected-resource/mcp\""
        );
        assert_eq!(answer.header("www-authenticate"), Some(challenge));
    }
    let metadata = gateway.envoy.send(&Request::get("/.well-known/oauth-protected-resource/mcp")).await.unwrap();
    assert_eq!((metadata.status, metadata.header("content-type").as_deref()), (200, Some("application/json")));
    assert_eq!(
        metadata.json(),
        json!({
            "resource": format!("http://{address}/mcp"),
            "authorization_servers": ["https://auth.graph8.example"],
            "bearer_methods_supported": ["header"],
        })
    );

    gateway.upstream().take_seen();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://auth.graph8.example", "aud": format!("http://{address}/mcp"), "sub": "a", "exp": now_s + 600,
    });
    let key = signing_key();
    let changed = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        signed(&claims, &key)
    };
    let good = signed(&claims, &key);
    let unsigned = {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims.to_string()))
    };
    for (what, token) in [
        ("a forged signature", signed(&claims, b"another key, of the same length!")),
        ("no signature", unsigned),
        ("another issuer", changed("iss", "https://elsewhere.example".into())),
        ("expired", changed("exp", (now_s - 600).into())),
        ("not a token", "nonsense".to_owned()),
    ] {
        for answer in workers.send(&Request::get("/mcp/tools").bearer(&token)).await.unwrap() {
            assert_eq!(answer.status, 401, "{what}");
        }
    }
    // Envoy refuses a valid token for another audience as forbidden.
    let elsewhere = changed("aud", "http://elsewhere.example/mcp".into());
    assert_eq!(workers.statuses(&Request::get("/mcp/tools").bearer(&elsewhere)).await.unwrap(), [403; 2]);
    assert_eq!(gateway.upstream().take_seen(), []);
    // A source that jwt_authn could read as well.
    let in_query = Request::get(&format!("/mcp?access_token={good}"));
    assert_eq!(workers.statuses(&in_query).await.unwrap(), [401; 2]);
    assert_eq!(workers.statuses(&Request::get("/mcp/tools").bearer(&good)).await.unwrap(), [200; 2]);
    assert_eq!(gateway.upstream().take_seen().len(), 2);

    // On other routes, even a valid token is not a key.
    for answer in workers.send(&Request::get("/api/v1/contacts").bearer(&good)).await.unwrap() {
        assert_eq!(answer.status, 401);
        let detail = "JWT tokens are not accepted. Use an org API key, not a browser session token.";
        assert_eq!(answer.json(), json!({ "detail": detail }));
    }
}

/// The example signing key of the shipped configuration.
fn signing_key() -> Vec<u8> {
    let text = std::fs::read_to_string(artifacts::root().join("envoy/variants/graph8-jwks.json")).unwrap();
    let keys: Value = serde_json::from_str(&text).unwrap();
    URL_SAFE_NO_PAD.decode(keys["keys"][0]["k"].as_str().unwrap()).unwrap()
}

/// A JSON Web Signature (RFC 7515) with HMAC-SHA256.
fn signed(claims: &Value, key: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"try","typ":"JWT"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(hmac_sha256(key, signed.as_bytes()));
    format!("{signed}.{signature}")
}
