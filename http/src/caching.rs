//! What caches between us and clients (CDNs, proxies, browsers) are told, see `docs/cdn.md`.
//!
//! Whatever may be kept says so itself: with a lifetime, for whom, and with a tag by which it can be
//! asked for again. What says nothing is not to be kept, errors above all: a path that was not here
//! a second ago may be here now.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use narbridge::Cache;
use narbridge::cache::Tag;

/// How long an answer stays right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// It may change at any time: a path is signed with another key, or taken by garbage collection.
    /// A minute takes a burst of readers (a fleet that updates) off the server, and is as long as
    /// somebody may be told of a path whose NAR is gone.
    Minute,
    /// Never is it another one under that name.
    Forever,
}

/// What an answer about a cache says of its being kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    control: HeaderValue,
    tag: Option<HeaderValue>,
}

impl Kept {
    /// For that long, under that tag. What is in a private cache is not for proxies to hand on.
    pub(crate) fn new(cache: &Cache, lifetime: Lifetime, tag: &Tag) -> Self {
        Self::tagged(cache, lifetime, HeaderValue::from_maybe_shared(tag.as_bytes().clone()).ok())
    }

    /// The same with a tag of the caller's own, quotes included.
    pub(crate) fn tagged(cache: &Cache, lifetime: Lifetime, tag: Option<HeaderValue>) -> Self {
        let control = match (cache.is_public(), lifetime) {
            (true, Lifetime::Minute) => "public, max-age=60",
            (true, Lifetime::Forever) => "public, max-age=31536000, immutable",
            (false, Lifetime::Minute) => "private, max-age=60",
            (false, Lifetime::Forever) => "private, max-age=31536000, immutable",
        };
        Self { control: HeaderValue::from_static(control), tag }
    }

    /// Whether the asker says that it has these very bytes.
    pub(crate) fn is_had(&self, headers: &HeaderMap) -> bool {
        let asked = headers.get_all(header::IF_NONE_MATCH).iter();
        let Some(tag) = self.tag.as_ref().and_then(|tag| tag.to_str().ok()) else { return false };
        // Proxies that compress on the way make tags weak; the plain bytes are still the same.
        let is_it = |one: &str| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag;
        let lines = asked.filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(',')).any(|one| is_it(one.trim()))
    }

    /// Writes it on an answer.
    pub(crate) fn mark(self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, self.control);
        if let Some(tag) = self.tag {
            headers.insert(header::ETAG, tag);
        }
    }

    /// The answer to those who have the bytes.
    pub(crate) fn unchanged(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        self.mark(&mut response);
        response
    }
}

/// Marks errors, and answers that say nothing themselves, as not to be kept.
pub(crate) fn not_otherwise(response: &mut Response) {
    let is_error = response.status().as_u16() >= 400;
    let headers = response.headers_mut();
    if is_error || !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_among_others_weak_or_not_and_nothing_else_is_taken_for_it() {
        let kept = Kept {
            control: HeaderValue::from_static("public"),
            tag: Some(HeaderValue::from_static("\"ab\"")),
        };
        for (lines, had) in [
            (&["\"ab\""][..], true),
            (&["\"x\", W/\"ab\""], true),
            (&["\"x\"", "\"ab\""], true),
            (&["*"], true),
            (&["\"abc\""], false),
            (&["ab"], false),
            (&[""], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::IF_NONE_MATCH, line.parse().unwrap());
            }
            assert_eq!(kept.is_had(&headers), had, "{lines:?}");
        }
    }
}
