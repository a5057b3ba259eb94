//! Under which address this server is known to a client, told from the client's own request.

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::Authority;

/// What a proxy says of the request that it passed on.
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Where Nix finds the cache: the host that the client has asked, by `https` if a proxy says so.
/// `None` where the request names no host.
pub(super) fn substituter(headers: &HeaderMap, cache: &str) -> Option<String> {
    let host = first(headers, FORWARDED_HOST).or_else(|| first(headers, HOST.as_str()))?;
    let host: Authority = host.parse().ok()?;
    if host.as_str().contains('@') {
        return None;
    }
    let https = first(headers, FORWARDED_PROTO).is_some_and(|it| it.eq_ignore_ascii_case("https"));
    let scheme = if https { "https" } else { "http" };
    Some(format!("{scheme}://{host}/{cache}"))
}

/// The first of several values: that of the proxy nearest to the client.
fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let text = headers.get(name)?.to_str().ok()?;
    text.split(',').map(str::trim).next().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(headers: &[(&'static str, &str)]) -> Option<String> {
        let pair = |&(name, value): &(&'static str, &str)| {
            (axum::http::HeaderName::from_static(name), value.parse().unwrap())
        };
        substituter(&headers.iter().map(pair).collect(), "team")
    }

    #[test]
    fn a_cache_is_where_the_client_found_the_server() {
        let local = ("host", "127.0.0.1:8080");
        let tls = ("x-forwarded-proto", "https");
        let proxies = ("x-forwarded-host", "cache.example.org, inner:80");
        let expected = |text: &str| Some(text.to_owned());
        assert_eq!(told(&[local]), expected("http://127.0.0.1:8080/team"));
        assert_eq!(told(&[local, tls]), expected("https://127.0.0.1:8080/team"));
        assert_eq!(told(&[local, tls, proxies]), expected("https://cache.example.org/team"));
        assert_eq!(
            told(&[local, ("x-forwarded-host", "")]),
            expected("http://127.0.0.1:8080/team")
        );
        assert_eq!(told(&[("host", "[::1]:8080")]), expected("http://[::1]:8080/team"));
    }

    #[test]
    fn what_is_no_host_is_not_repeated() {
        for host in ["", "a b", "user@host", "host/path", "<script>"] {
            assert_eq!(told(&[("host", host)]), None, "{host}");
        }
        assert_eq!(told(&[]), None);
    }
}
