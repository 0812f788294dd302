//! What the tests of both meshes need: a control plane, an upstream, a registry with the filter, and keys.

use keyward_harness::http::{self, Request};
use keyward_harness::ports::loopback;
use keyward_harness::{ControlPlane, CreatedKey, Echo, Failure, Result, TestDir, artifacts, until};
use keyward_mesh::load::Load;
use keyward_mesh::registry::{Images, Registry};
use keyward_mesh::tools::Tool;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

/// The deadline for a change to take effect: Envoy compiles the module, and the machine may be busy.
pub(crate) const CHANGE: Duration = Duration::from_secs(90);

/// The deadline for a revocation to take effect.
const REVOCATION: Duration = Duration::from_secs(10);

/// The number of connections that reach all workers: of two, with a probability of all but 10⁻⁹.
pub(crate) const CONNECTIONS: usize = 30;

/// Everything around a mesh's proxy.
pub(crate) struct World {
    pub(crate) control_plane: ControlPlane,
    pub(crate) upstream: Echo,
    pub(crate) registry: Registry,
    /// The filter.
    pub(crate) module: Vec<u8>,
    /// Its images.
    pub(crate) images: Images,
    // Last, so that the logs outlive the processes.
    pub(crate) dir: TestDir,
}

impl World {
    /// Starts it all, and pushes the images of the filter to the registry.
    pub(crate) async fn start(registry: &Tool) -> Result<Self> {
        let dir = TestDir::new()?;
        let mut control_plane = ControlPlane::new(dir.path(), "keyward")?;
        control_plane.start().await?;
        let upstream = Echo::start("upstream", loopback(0)).await?;
        let registry = Registry::start(registry, dir.path()).await?;
        let module = std::fs::read(artifacts::filter()?).map_err(|error| Failure::new(error.to_string()))?;
        let images = registry.push_filter()?;
        Ok(Self { control_plane, upstream, registry, module, images, dir })
    }

    /// A key with this owner.
    pub(crate) async fn key_of(&self, owner: &str) -> Result<CreatedKey> {
        self.control_plane.create(&json!({"name": owner, "owner": owner})).await
    }
}

/// The status of a request.
pub(crate) async fn status(to: SocketAddr, request: &Request) -> Result<u16> {
    http::send(to, request).await.map(|answer| answer.status)
}

/// Waits until a request gets this status. The failure does not show the request, which may have a key.
pub(crate) async fn until_status(to: SocketAddr, request: &Request, expected: u16) -> Result<()> {
    until(&format!("a request gets {expected}"), CHANGE, async || {
        let answer = http::send(to, request).await?;
        if answer.status == expected {
            Ok(())
        } else {
            Err(Failure::new(format!("{} {}", answer.status, answer.text())))
        }
    })
    .await
}

/// Checks a gateway with filter and guard as shipped: returns the statuses with a key, without, with a forged identity,
/// and after the revocation.
pub(crate) async fn check_requests(to: SocketAddr, world: &World) -> Result<String> {
    let key = world.key_of("check").await?;
    let with_key = Request::get("/hello").bearer(&key.key);
    until_status(to, &with_key, 200).await?;
    world.upstream.take_seen();
    let answer = http::send(to, &with_key.clone().header("x-keyward-owner", "forged")).await?;
    let seen = world.upstream.take_seen();
    let [request] = seen.as_slice() else {
        return Err(Failure::new(format!("{}: the upstream saw {} requests", answer.status, seen.len())));
    };
    if request.header("x-keyward-owner") != ["check"] || !request.header("authorization").is_empty() {
        return Err(Failure::new("the upstream saw a forged owner, or a credential"));
    }
    let mut statuses = vec![answer.status];
    statuses.push(status(to, &Request::get("/hello")).await?);
    statuses.push(status(to, &Request::get("/hello").bearer(&format!("{}x", key.key))).await?);
    world.control_plane.revoke(&key.id).await?;
    // On each worker: each connection is of one.
    until("the revoked key is refused", REVOCATION, async || {
        for _ in 0..CONNECTIONS {
            let status = status(to, &with_key).await?;
            if status != 401 {
                return Err(Failure::new(status.to_string()));
            }
        }
        Ok(())
    })
    .await?;
    // Requests passed until then.
    world.upstream.take_seen();
    statuses.push(status(to, &with_key).await?);
    statuses.push(status(to, &Request::get("/health")).await?);
    statuses.push(status(to, &Request::get("/a%2Fb").bearer(&key.key)).await?);
    statuses.push(status(to, &Request::get("/hello").header("x_keyward_owner", "forged")).await?);
    let reached = world.upstream.take_seen().into_iter().map(|request| request.path).collect::<Vec<_>>();
    if reached != ["/health"] {
        return Err(Failure::new(format!("the upstream saw {reached:?}")));
    }
    let statuses: Vec<String> = statuses.iter().map(u16::to_string).collect();
    Ok(statuses.join(", "))
}

/// The case that [`check_requests`] checks, and its outcome.
pub(crate) const REQUESTS: (&str, &str) = (
    "with a key, without, with an unknown key, with the key revoked, public route, `%2F`, `x_keyward_owner`",
    "200, 401, 401, 401, 200, 400, 400",
);

/// Requests with and without a key get this status, and none reaches the upstream.
pub(crate) async fn check_refused(to: SocketAddr, world: &World, key: &CreatedKey, expected: u16) -> Result<()> {
    world.upstream.take_seen();
    for (case, request) in [
        ("with a key", Request::get("/hello").bearer(&key.key)),
        ("without a key", Request::get("/hello")),
        ("public", Request::get("/health")),
    ] {
        let answer = http::send(to, &request).await?;
        if answer.status != expected {
            return Err(Failure::new(format!("{case}: expected {expected}, got {} {}", answer.status, answer.text())));
        }
    }
    let seen = world.upstream.take_seen();
    if seen.is_empty() { Ok(()) } else { Err(Failure::new(format!("the upstream saw {} requests", seen.len()))) }
}

/// Which of two filters refuses a credential that is neither a JWT nor a key: the first of them.
pub(crate) async fn refused_by(to: SocketAddr) -> Result<&'static str> {
    let answer = http::send(to, &Request::get("/hello").bearer("eyJhbGciOiJub25lIn0.e30.x")).await?;
    let text = answer.text();
    match answer.status {
        401 if text.contains("urn:keyward:problem") => Ok("Keyward"),
        401 if text.starts_with("Jwt") => Ok("jwt_authn"),
        status => Err(Failure::new(format!("{status} {text}"))),
    }
}

/// Waits until the load has sent this many more requests.
pub(crate) async fn until_sent(load: &Load, more: usize) {
    let goal = load.sent() + more;
    until("the load continues", CHANGE, async || {
        if load.sent() >= goal { Ok(()) } else { Err(Failure::new(format!("{} requests", load.sent()))) }
    })
    .await
    .unwrap();
}
