//! What goes wrong with a request, and whether asking again may help.
//!
//! Absent is an answer only when the server says so in so many words (`NoSuchKey`). Everything else
//! means that nothing is known.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// What is to be done about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Asking again would get the same answer.
    Final,
    /// Asking again may help.
    Again,
    /// Asking less may help; the server may have said how long to wait.
    Throttled(Option<Duration>),
}

/// One attempt that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub verdict: Verdict,
    pub status: Option<u16>,
    pub code: Option<String>,
    cause: String,
}

/// A request that failed for good.
#[derive(Clone, Debug)]
pub struct S3Error {
    operation: &'static str,
    object: String,
    attempts: u32,
    failure: Failure,
}

/// Codes that blame the way there: the body that arrived is not the one that was sent, or a race.
const DAMAGED: [&str; 8] = [
    "BadDigest",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
    "ContentSHA256Mismatch",
    "IncompleteBody",
    "RequestTimeout",
    "ConditionalRequestConflict",
    "OperationAborted",
];
/// Codes that ask for fewer requests.
const THROTTLING: [&str; 4] = ["SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"];

impl Failure {
    /// An attempt that got no usable answer.
    pub fn again(cause: impl Into<String>) -> Self {
        Self { verdict: Verdict::Again, status: None, code: None, cause: cause.into() }
    }

    /// An attempt whose answer will not change.
    pub fn last(cause: impl Into<String>) -> Self {
        Self { verdict: Verdict::Final, status: None, code: None, cause: cause.into() }
    }

    /// What the SDK says.
    pub fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().map(str::to_owned);
        let pause = error
            .raw_response()
            .and_then(|response| response.headers().get("retry-after"))
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        let cause = match error.message() {
            Some(message) => message.to_owned(),
            None => chain(error),
        };
        let verdict = match error {
            SdkError::ServiceError(_) | SdkError::ResponseError(_) => {
                judge(status.unwrap_or(0), code.as_deref(), pause)
            }
            // Without credentials no request is ever sent; there is no type to know this by.
            _ if cause.contains("credentials") => Verdict::Final,
            SdkError::ConstructionFailure(_) => Verdict::Final,
            _ => Verdict::Again,
        };
        Self { verdict, status, code, cause }
    }

    /// The server says that there is no such object.
    pub fn is_absent(&self) -> bool {
        self.code.as_deref() == Some("NoSuchKey")
    }

    /// The answer to HEAD has no body, so no code either.
    pub fn is_absent_head(&self) -> bool {
        self.status == Some(404) && self.code.as_deref() != Some("NoSuchBucket")
    }

    /// The range begins behind the object's end.
    pub fn is_beyond_end(&self) -> bool {
        self.status == Some(416) || self.code.as_deref() == Some("InvalidRange")
    }

    /// Something was asked of the server that it does not have.
    pub fn is_unsupported(&self) -> bool {
        self.status == Some(501)
            || self.code.as_deref() == Some("NotImplemented")
            || self.status == Some(405)
    }

    fn hint(&self) -> &'static str {
        match (self.code.as_deref(), self.status) {
            (Some("NoSuchBucket"), _) => {
                "; make the bucket, or correct its name or the endpoint in the store's location"
            }
            (Some("SignatureDoesNotMatch" | "InvalidAccessKeyId"), _) => {
                "; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the region"
            }
            (Some("AuthorizationHeaderMalformed"), _) => {
                "; check the region in the store's location"
            }
            (Some("RequestTimeTooSkewed"), _) => "; set this machine's clock",
            (Some("PermanentRedirect"), _) | (None, Some(301 | 307)) => {
                "; check the endpoint and the region in the store's location"
            }
            (Some("AccessDenied"), _) | (None, Some(401 | 403)) => {
                "; check the credentials, and that they may read, write and list this bucket"
            }
            _ if self.cause.contains("credentials") => {
                "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source of AWS \
                 credentials"
            }
            _ if self.verdict == Verdict::Final => "",
            _ => "; check that the object store answers from here, then try again",
        }
    }
}

/// Whether an answer of that status and code may be another one later.
fn judge(status: u16, code: Option<&str>, pause: Option<Duration>) -> Verdict {
    let code = code.unwrap_or_default();
    if status == 429 || status == 503 || THROTTLING.contains(&code) {
        return Verdict::Throttled(pause);
    }
    match status {
        501 => Verdict::Final,
        // 200 with an error in it, or an answer that nobody could parse.
        0..400 | 408 | 500.. => Verdict::Again,
        _ if DAMAGED.contains(&code) => Verdict::Again,
        _ => Verdict::Final,
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl S3Error {
    pub fn new(operation: &'static str, object: String, attempts: u32, failure: Failure) -> Self {
        Self { operation, object, attempts, failure }
    }

    /// What the last attempt came to.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, object, attempts, failure } = self;
        write!(f, "cannot {operation} `{object}`: ")?;
        match (failure.status, &failure.code) {
            (Some(status), Some(code)) => write!(f, "the server answered {status} {code}: ")?,
            (Some(status), None) => write!(f, "the server answered {status}: ")?,
            (None, Some(code)) => write!(f, "the server answered {code}: ")?,
            (None, None) => {}
        }
        f.write_str(&failure.cause)?;
        if *attempts > 1 {
            write!(f, " (attempt {attempts})")?;
        }
        f.write_str(failure.hint())
    }
}

impl Error for S3Error {}

impl From<S3Error> for io::Error {
    fn from(error: S3Error) -> Self {
        let kind = if error.failure.is_absent() {
            io::ErrorKind::NotFound
        } else if error.failure.is_beyond_end() {
            io::ErrorKind::UnexpectedEof
        } else {
            io::ErrorKind::NetworkDown
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_final_and_trouble_is_not() {
        use Verdict::{Again, Final, Throttled};
        let pause = Some(Duration::from_secs(2));
        for (status, code, verdict) in [
            (403, "AccessDenied", Final),
            (404, "NoSuchKey", Final),
            (412, "PreconditionFailed", Final),
            (501, "NotImplemented", Final),
            (400, "XAmzContentSHA256Mismatch", Again),
            (400, "RequestTimeout", Again),
            (408, "", Again),
            (409, "ConditionalRequestConflict", Again),
            (500, "InternalError", Again),
            (502, "", Again),
            (200, "InternalError", Again),
            (429, "", Throttled(pause)),
            (503, "SlowDown", Throttled(pause)),
        ] {
            assert_eq!(judge(status, Some(code), pause), verdict, "{status} {code}");
        }
    }
}
