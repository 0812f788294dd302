//! A rate-limit service (protocol v3) on Redis, for the tests of `envoy/fleet.yaml`. In production, a fleet runs a
//! service such as envoyproxy/ratelimit or limitador.
//!
//! The tests do not use limitador, since its Redis storage admits more than the limit under concurrent requests, and
//! its build needs OpenSSL's headers: these tests expect exact numbers, on machines with little more than Rust.
//!
//! Each request's descriptors are printed as a line of JSON; they contain no secrets.

mod counts;
mod protocol;
mod rules;

use crate::counts::Counts;
use crate::protocol::{
    Code, Descriptor, DescriptorStatus, HeaderValue, RateLimitRequest, RateLimitResponse, RateLimitService,
    ShouldRateLimit,
};
use crate::rules::Rule;
use anyhow::Context as _;
use clap::Parser;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::Status;
use tonic::transport::Server;

/// A rate-limit service on Redis, for tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// The listening address.
    #[arg(long)]
    listen: SocketAddr,
    /// The Redis server, redis://host:port.
    #[arg(long)]
    redis: String,
    /// A limit, such as key_id:50/min or plan=free,key_id:10/s.
    #[arg(long = "limit")]
    rules: Vec<Rule>,
}

struct Limits {
    counts: Counts,
    rules: Vec<Rule>,
}

impl ShouldRateLimit for Limits {
    async fn answer(self: Arc<Self>, request: RateLimitRequest) -> Result<RateLimitResponse, Status> {
        let counts = request.descriptors.iter().flat_map(|descriptor| {
            let rules = self.rules.iter().filter(|rule| rule.limits(descriptor));
            rules.map(|rule| (rule.count_name(&request.domain, descriptor), rule.limit()))
        });
        let wait = self.counts.admit(request.hits_addend.max(1), &counts.collect::<Vec<_>>()).await;
        let wait = wait.map_err(|error| Status::unavailable(error.to_string()))?;
        let code = if wait.is_some() { Code::OverLimit } else { Code::Ok };
        let descriptors: Vec<Value> = request.descriptors.iter().map(|of| json!(of.by_name())).collect();
        println!("{}", json!({"domain": request.domain, "descriptors": descriptors, "admitted": wait.is_none()}));
        let retry_after = wait.map(|wait| HeaderValue {
            key: "retry-after".to_owned(),
            value: wait.as_micros().div_ceil(1_000_000).to_string(),
        });
        let status = |_: &Descriptor| DescriptorStatus { code: code.into() };
        Ok(RateLimitResponse {
            overall_code: code.into(),
            statuses: request.descriptors.iter().map(status).collect(),
            response_headers_to_add: retry_after.into_iter().collect(),
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { listen, redis, rules } = Arguments::parse();
    let counts = Counts::open(&redis).await.with_context(|| redis.clone())?;
    let service = RateLimitService::new(Limits { counts, rules });
    Server::builder().add_service(service).serve(listen).await.with_context(|| listen.to_string())
}
