//! The part of the rate-limit service protocol v3 that Envoy's filter uses, written by hand so that no `protoc` is
//! needed.
//!
//! Field numbers and names are those of `envoy/service/ratelimit/v3/rls.proto`,
//! `envoy/extensions/common/ratelimit/v3/ratelimit.proto` and `envoy/config/core/v3/base.proto` of
//! envoyproxy/data-plane-api (Apache License 2.0). Unused fields are omitted; protobuf skips them.

use prost::Message;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// `envoy.service.ratelimit.v3.RateLimitRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RateLimitRequest {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) descriptors: Vec<Descriptor>,
    /// 0 means 1.
    #[prost(uint32, tag = "3")]
    pub(crate) hits_addend: u32,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Entry>,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(crate) struct Entry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RateLimitResponse {
    #[prost(enumeration = "Code", tag = "1")]
    pub(crate) overall_code: i32,
    /// One status per descriptor.
    #[prost(message, repeated, tag = "2")]
    pub(crate) statuses: Vec<DescriptorStatus>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) response_headers_to_add: Vec<HeaderValue>,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse.DescriptorStatus`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DescriptorStatus {
    #[prost(enumeration = "Code", tag = "1")]
    pub(crate) code: i32,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderValue {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Code {
    Unknown = 0,
    Ok = 1,
    OverLimit = 2,
}

impl Descriptor {
    /// The entries by name.
    pub(crate) fn by_name(&self) -> HashMap<&str, &str> {
        self.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect()
    }
}

/// A handler of rate-limit requests.
pub(crate) trait ShouldRateLimit: Send + Sync + 'static {
    /// Counts a request, unless it exceeds a limit.
    fn answer(
        self: Arc<Self>,
        request: RateLimitRequest,
    ) -> impl Future<Output = Result<RateLimitResponse, Status>> + Send;
}

/// The gRPC service of a handler.
#[derive(Debug)]
pub(crate) struct RateLimitService<T>(Arc<T>);

impl<T> RateLimitService<T> {
    /// A service.
    pub(crate) fn new(inner: T) -> Self {
        Self(Arc::new(inner))
    }
}

// Not derived, since a derive would require `T: Clone`.
impl<T> Clone for RateLimitService<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> NamedService for RateLimitService<T> {
    const NAME: &'static str = "envoy.service.ratelimit.v3.RateLimitService";
}

impl<T: ShouldRateLimit> UnaryService<RateLimitRequest> for RateLimitService<T> {
    type Response = RateLimitResponse;
    type Future = BoxFuture<Response<RateLimitResponse>, Status>;

    fn call(&mut self, request: Request<RateLimitRequest>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.answer(request.into_inner()).await.map(Response::new) })
    }
}

impl<T: ShouldRateLimit> Service<http::Request<Body>> for RateLimitService<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != METHOD {
            return Box::pin(unimplemented());
        }
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(tonic_prost::ProstCodec::default());
            Ok(grpc.unary(service, request).await)
        })
    }
}

fn unimplemented() -> Ready<Result<http::Response<Body>, Infallible>> {
    ready(Ok(Status::unimplemented("only ShouldRateLimit").into_http()))
}
