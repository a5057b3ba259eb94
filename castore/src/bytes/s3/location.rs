//! Where packs lie in an object store: `s3://BUCKET[/PREFIX][?PARAMETER=VALUE&…]`.
//!
//! | parameter | |
//! |---|---|
//! | `endpoint` | `http://` or `https://` URL of the server; AWS's own if left out |
//! | `region` | what requests are signed for; the usual AWS sources, then `us-east-1`, if left out |
//! | `path_style` | `true`: the bucket is in the path, not in the host name |
//! | `virtual_host` | the opposite of `path_style` |
//! | `public_endpoint` | what clients reach the server by, for presigned URLs |
//!
//! Values may be percent-encoded. Credentials are no part of it: a location is printed and logged.

use std::fmt;
use std::str::FromStr;

/// A bucket, a prefix in it, and how to reach the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    pub(super) bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub(super) prefix: String,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    path_style: Option<bool>,
    pub(super) public_endpoint: Option<String>,
}

/// A text that is no location in an object store.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum S3LocationError {
    /// It begins otherwise.
    #[error("a location in an object store is s3://BUCKET[/PREFIX][?endpoint=…]")]
    Scheme,
    /// The name of the bucket cannot be one.
    #[error(
        "the bucket's name has to be letters, digits, `.`, `-` and `_`; \
         credentials are taken from the environment (AWS_ACCESS_KEY_ID, …), not from the location"
    )]
    Bucket,
    /// The prefix cannot be one.
    #[error("the prefix `{0}` has an empty part, `.` or `..` in it")]
    Prefix(String),
    /// Nobody knows the parameter.
    #[error(
        "the parameter `{0}` is unknown; there are endpoint, region, path_style, virtual_host \
         and public_endpoint"
    )]
    Unknown(String),
    /// It was given before.
    #[error("the parameter `{0}` contradicts one before it")]
    Twice(String),
    /// Its value does not fit.
    #[error("the parameter `{name}` has to be {wanted}")]
    Bad {
        /// The parameter.
        name: String,
        /// What it has to be.
        wanted: &'static str,
    },
}

impl S3Location {
    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key of the object called `name` below the prefix.
    pub(super) fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// Whether AWS's own servers are meant.
    pub(super) fn is_aws(&self) -> bool {
        self.endpoint.as_deref().is_none_or(|endpoint| {
            let host = endpoint.split("://").nth(1).unwrap_or_default();
            let host = host.split(['/', ':']).next().unwrap_or_default();
            host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
        })
    }

    /// Whether the bucket goes into the path. Only AWS can be counted on to have a name for every
    /// bucket.
    pub(super) fn path_style(&self) -> bool {
        self.path_style.unwrap_or(!self.is_aws())
    }
}

impl FromStr for S3Location {
    type Err = S3LocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("s3://").ok_or(S3LocationError::Scheme)?;
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let usual = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if bucket.is_empty() || !bucket.bytes().all(usual) {
            return Err(S3LocationError::Bucket);
        }
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(S3LocationError::Prefix(prefix.to_owned()));
        }
        let mut location = Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: None,
            region: None,
            path_style: None,
            public_endpoint: None,
        };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            location.set(name, value)?;
        }
        Ok(location)
    }
}

impl S3Location {
    fn set(&mut self, name: &str, value: &str) -> Result<(), S3LocationError> {
        let bad = |wanted| S3LocationError::Bad { name: name.to_owned(), wanted };
        let value = decode(value).ok_or_else(|| bad("percent-encoded correctly"))?;
        let twice = match name {
            "endpoint" => self.endpoint.replace(endpoint(&value).map_err(bad)?).is_some(),
            "public_endpoint" => {
                self.public_endpoint.replace(endpoint(&value).map_err(bad)?).is_some()
            }
            "region" => {
                let usual = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                if value.is_empty() || !value.bytes().all(usual) {
                    return Err(bad("the name of a region, such as eu-central-1"));
                }
                self.region.replace(value).is_some()
            }
            "path_style" | "virtual_host" => {
                let yes = match value.as_str() {
                    "true" => true,
                    "false" => false,
                    _ => return Err(bad("true or false")),
                };
                self.path_style.replace(yes == (name == "path_style")).is_some()
            }
            _ => return Err(S3LocationError::Unknown(name.to_owned())),
        };
        if twice { Err(S3LocationError::Twice(name.to_owned())) } else { Ok(()) }
    }
}

/// A URL of a server: a scheme, a host, perhaps a port and a path.
fn endpoint(value: &str) -> Result<String, &'static str> {
    let value = value.trim_end_matches('/');
    let rest = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
    match rest {
        Some(rest) if rest.contains('@') => Err("a URL without credentials in it"),
        Some(rest)
            if !rest.is_empty()
                && !rest.starts_with(['/', ':'])
                && rest.bytes().all(|b| b.is_ascii_graphic())
                && !rest.contains(['?', '#', '&']) =>
        {
            Ok(value.to_owned())
        }
        _ => Err("the URL of a server, such as http://127.0.0.1:3900"),
    }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, later)) = rest.split_first() {
        rest = later;
        if first == b'%' {
            let (digits, later) = rest.split_at_checked(2)?;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = later;
        } else {
            out.push(first);
        }
    }
    String::from_utf8(out).ok()
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        let path_style = self.path_style.map(|yes| yes.to_string());
        let parameters = [
            ("endpoint", &self.endpoint),
            ("region", &self.region),
            ("path_style", &path_style),
            ("public_endpoint", &self.public_endpoint),
        ];
        let mut mark = '?';
        for (name, value) in parameters {
            if let Some(value) = value {
                write!(f, "{mark}{name}={}", value.replace('%', "%25"))?;
                mark = '&';
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> S3Location {
        text.parse().unwrap()
    }

    #[test]
    fn a_location_is_printed_as_it_was_given() {
        for text in [
            "s3://packs",
            "s3://packs/a/b",
            "s3://packs?endpoint=http://127.0.0.1:3900&region=garage&path_style=true",
            "s3://packs/p?endpoint=https://s3.example.org&public_endpoint=https://example.org/s3",
        ] {
            assert_eq!(parse(text).to_string(), text);
            assert_eq!(parse(&parse(text).to_string()), parse(text));
        }
        let encoded = "s3://packs/?endpoint=http%3A%2F%2F127.0.0.1%3A3900/";
        assert_eq!(parse(encoded).to_string(), "s3://packs?endpoint=http://127.0.0.1:3900");
    }

    #[test]
    fn only_other_servers_get_the_bucket_in_the_path_unless_told_otherwise() {
        assert!(!parse("s3://b").path_style());
        assert!(!parse("s3://b?endpoint=https://s3.eu-west-1.amazonaws.com").path_style());
        assert!(parse("s3://b?endpoint=https://amazonaws.com.evil.org").path_style());
        assert!(parse("s3://b?endpoint=http://localhost:9000").path_style());
        assert!(!parse("s3://b?endpoint=http://localhost:9000&path_style=false").path_style());
        assert!(!parse("s3://b?endpoint=http://localhost:9000&virtual_host=true").path_style());
        assert!(parse("s3://b?path_style=true").path_style());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| text.parse::<S3Location>().unwrap_err();
        assert_eq!(error("http://b"), S3LocationError::Scheme);
        assert_eq!(error("s3://"), S3LocationError::Bucket);
        assert_eq!(error("s3://b/a//b"), S3LocationError::Prefix("a//b".into()));
        assert_eq!(error("s3://b?regoin=x"), S3LocationError::Unknown("regoin".into()));
        assert_eq!(error("s3://b?region=a&region=b"), S3LocationError::Twice("region".into()));
        for bad in ["endpoint=localhost", "path_style=yes", "region=", "endpoint=%zz"] {
            let text = error(&format!("s3://b?{bad}")).to_string();
            assert!(text.contains(bad.split('=').next().unwrap()), "{text}");
        }
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for text in ["s3://key:sesame@b", "s3://b?endpoint=http://key:sesame@host"] {
            let error = text.parse::<S3Location>().unwrap_err().to_string();
            assert!(error.contains("credentials") && !error.contains("sesame"), "{error}");
        }
    }
}
