//! Clients of the SDK: which server, which credentials, and what the SDK must leave to us.
//!
//! Retrying is ours (`retry`), so the SDK's is off. So are checksums in trailers, which older servers
//! refuse: bodies that are sent are in memory, so SigV4 signs their SHA-256, also over TLS, and
//! records carry checksums of their own.

use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::location::S3Location;

/// A server that does not take a connection by then is tried again.
const CONNECT: Duration = Duration::from_secs(3);
/// Where nothing says another region.
const DEFAULT_REGION: &str = "us-east-1";

/// One for the requests made here, one for the URLs that others are given.
pub struct Clients {
    pub s3: Client,
    pub public: Client,
}

/// Clients for a location, with the given credentials or those of the standard chain.
pub async fn connect(location: &S3Location, credentials: Option<Credentials>) -> Clients {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::rustls(CryptoMode::Ring))
        .build_https();
    let region = RegionProviderChain::first_try(location.region.clone().map(Region::new));
    let region = if location.is_aws() {
        region.or_default_provider()
    } else {
        // Not the metadata service of EC2: elsewhere, asking it takes seconds to fail.
        region
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new())
    };
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(region.or_else(DEFAULT_REGION));
    if let Some(credentials) = credentials {
        loader = loader.credentials_provider(credentials);
    }
    let shared = loader.load().await;
    let builder = |endpoint: Option<&String>| {
        let mut builder = Builder::from(&shared)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(location.path_style());
        if let Some(endpoint) = endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Client::from_conf(builder.build())
    };
    let public = location.public_endpoint.as_ref().or(location.endpoint.as_ref());
    Clients { s3: builder(location.endpoint.as_ref()), public: builder(public) }
}
