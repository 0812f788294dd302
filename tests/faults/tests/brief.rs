//! Each fault once on SQLite, some on PostgreSQL, and tests that the oracle would detect a lying server.

use keyward_faults::campaign::{self, Options};
use keyward_faults::observe::observe;
use keyward_faults::oracle::Violation;
use keyward_faults::workload::Workload;
use keyward_harness::echo::SeenRequest;
use keyward_harness::ports::loopback;
use keyward_harness::{ControlPlane, Echo, Failure, Postgres, TestDir, left_out, until};
use serde_json::json;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn seed() -> u64 {
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_on_sqlite() {
    let options = Options { seed: seed(), faults: 16, on_postgres: false };
    campaign::run(&options).await.unwrap();
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_on_postgres() {
    if !Postgres::is_there() {
        left_out("faults on PostgreSQL", "apt-get install postgresql");
        return;
    }
    let options = Options { seed: seed(), faults: 5, on_postgres: true };
    campaign::run(&options).await.unwrap();
}

async fn started(dir: &TestDir) -> ControlPlane {
    let mut plane = ControlPlane::new(dir.path(), "keyward").unwrap();
    plane.start().await.unwrap();
    plane
}

async fn until_answered(workload: &Workload, answers: u64) {
    until("answers", LIMIT, async || match workload.oracle().answers() {
        so_far if so_far >= answers => Ok(()),
        so_far => Err(Failure::new(so_far.to_string())),
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn server_that_loses_acknowledged_changes_is_reported() {
    let liar = |request: SeenRequest| {
        let id = fastrand::u64(..);
        let (status, answer) = match request.method.as_str() {
            "POST" if request.path.starts_with("/v1/keys/import") => (400, json!({})),
            "POST" => (201, json!({"id": format!("key_{id}"), "key": id.to_string(), "secrets": [{"id": "sec_1"}]})),
            _ => (200, json!({})),
        };
        std::future::ready((status, "application/json", answer.to_string().into_bytes()))
    };
    let liar = Echo::start_with("liar", loopback(0), liar).await.unwrap();
    let workload = Workload::start(&[liar.address()], "none", &mut fastrand::Rng::with_seed(1));
    until_answered(&workload, 50).await;
    let dir = TestDir::new().unwrap();
    let observed = observe(&started(&dir).await).await.unwrap();
    let _quiet = workload.quiet().await;
    let violations = workload.oracle().check(&observed);
    assert!(violations.iter().any(|violation| matches!(violation, Violation::Lost(what) if what.starts_with("key "))));
    assert!(violations.iter().any(|violation| matches!(violation, Violation::Lost(what) if what.starts_with("plan "))));
}

#[tokio::test]
async fn unrequested_change_is_reported() {
    let dir = TestDir::new().unwrap();
    let plane = started(&dir).await;
    let mut rng = fastrand::Rng::with_seed(1);
    let workload = Workload::start(&[plane.address()], &plane.admin_token().unwrap(), &mut rng);
    until_answered(&workload, 60).await;
    let _quiet = workload.quiet().await;
    let before = observe(&plane).await.unwrap();
    assert_eq!(workload.oracle().check(&before), []);

    let (name, key) = before.keys.iter().find(|(_, keys)| !keys[0].revoked).unwrap();
    plane.revoke(&key[0].id).await.unwrap();
    plane.create_named("unrequested").await.unwrap();
    let limits = json!({"limits": ["1000000/h"]});
    assert_eq!(plane.api("PUT", "/v1/plans/plan-0", Some(&limits)).await.unwrap().status, 200);
    let after = observe(&plane).await.unwrap();
    let violations = workload.oracle().check(&after);
    let violated = |what: &str| violations.iter().any(|violation| violation.to_string().contains(what));
    assert!(violated(&format!("never requested: revocation of {name}")), "{violations:?}");
    assert!(violated("never requested: key unrequested"), "{violations:?}");
    assert!(violated("lost: plan plan-0 has limit 1000000"), "{violations:?}");
}
