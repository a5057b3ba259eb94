//! How a person names a server or a cache.

use std::fmt;
use std::str::FromStr;

use super::Error;
use crate::http::BaseUrl;

/// A server: a name from the configuration, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerRef {
    /// A name.
    Name(String),
    /// An address.
    Url(BaseUrl),
}

/// A cache: `cache`, `server:cache` or `https://host/cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRef {
    /// The server; `None` for the one that is meant when none is named.
    pub server: Option<ServerRef>,
    /// The cache's name: not empty, and one segment of a path.
    pub cache: String,
}

impl FromStr for ServerRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.contains("://") {
            let url = text.parse();
            let place = || "the server's address".to_owned();
            return url.map(Self::Url).map_err(|source| Error::Url { place: place(), source });
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || !text.bytes().all(plain) {
            return Err(Error::ServerName(text.to_owned()));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl FromStr for CacheRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Reference(text.to_owned());
        let (server, cache) = if text.contains("://") {
            let (base, cache) = text.trim_end_matches('/').rsplit_once('/').ok_or_else(bad)?;
            // `https://host` without a cache.
            if base.ends_with('/') {
                return Err(bad());
            }
            (Some(base.parse()?), cache)
        } else {
            match text.split_once(':') {
                Some((server, cache)) => (Some(server.parse()?), cache),
                None => (None, text),
            }
        };
        // The server knows which names are good; here they only have to stay names in a URL.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
        if cache.bytes().all(plain) && cache.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
            Ok(Self { server, cache: cache.to_owned() })
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for CacheRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Some(ServerRef::Name(name)) => write!(f, "{name}:{}", self.cache),
            Some(ServerRef::Url(url)) => write!(f, "{url}/{}", self.cache),
            None => f.write_str(&self.cache),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_named_in_three_ways() {
        let plain: CacheRef = "main".parse().unwrap();
        assert_eq!(plain, CacheRef { server: None, cache: "main".to_owned() });
        let named: CacheRef = "team:main".parse().unwrap();
        assert_eq!(named.server, Some(ServerRef::Name("team".to_owned())));
        for (text, base) in [
            ("https://host/main", "https://host"),
            ("http://127.0.0.1:8080/main/", "http://127.0.0.1:8080"),
            ("https://host/granary/main", "https://host/granary"),
        ] {
            let full: CacheRef = text.parse().unwrap();
            assert_eq!(full.server, Some(ServerRef::Url(base.parse().unwrap())));
            assert_eq!(full.cache, "main");
            assert_eq!(full.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn what_names_no_cache_is_refused() {
        for bad in ["", "..", "team:", ":main", "a/b", "a:b:c", "https://host", "https://host/"] {
            assert!(bad.parse::<CacheRef>().is_err(), "{bad}");
        }
        for bad in ["", "a b", "a/b", "ftp://host", "https://u:p@host"] {
            assert!(bad.parse::<ServerRef>().is_err(), "{bad}");
        }
    }
}
