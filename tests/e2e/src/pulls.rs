//! Pulls that look closely: a whole answer, one that was cut off so that anybody notices, and one
//! that ends as if it were whole and is not, are three things.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::{codec, narinfo};

/// No byte for so long, and it is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// What Nix allows itself.
const ATTEMPTS: u32 = 5;
/// The first pause; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(250);

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// An answer that is as long as it said.
    Whole {
        /// The status code.
        status: u16,
        /// `Retry-After`, if there was one.
        retry_after: Option<String>,
        /// The body, without the frames of `chunked`.
        body: Vec<u8>,
    },
    /// An answer that ended too early, which its receiver sees.
    Cut {
        /// The status code.
        status: u16,
        /// How many bytes of the body came.
        received: usize,
    },
    /// No answer, and why.
    Nothing(String),
}

impl Fetched {
    /// The status code of an answer, whole or not.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Whole { status, .. } | Self::Cut { status, .. } => Some(*status),
            Self::Nothing(_) => None,
        }
    }
}

/// Asks the server at `origin` (`http://127.0.0.1:PORT`) on a connection of its own.
pub fn fetch(origin: &str, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Fetched {
    match exchange(origin, method, path, token, body) {
        Ok(answer) => understand(&answer),
        Err(error) => Fetched::Nothing(error.to_string()),
    }
}

/// All that comes until the connection ends, in whatever way.
fn exchange(
    origin: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &[u8],
) -> std::io::Result<Vec<u8>> {
    let authority = origin.trim_start_matches("http://");
    let address: SocketAddr = authority.parse().expect("an address");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
         Content-Length: {}\r\n{}\r\n",
        body.len(),
        token.unwrap_or_default()
    );
    // It may have been answered before all was sent.
    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

fn understand(answer: &[u8]) -> Fetched {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Fetched::Nothing(format!("no head in {} bytes", answer.len()));
    };
    let (head, rest) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let header = |name: &str| {
        let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value.trim()))
    };
    let body = match (header("content-length"), header("transfer-encoding")) {
        (Some(length), _) => {
            let length: usize = length.parse().expect("a length");
            (rest.len() == length).then(|| rest.to_vec())
        }
        (None, Some("chunked")) => unframed(rest),
        // Neither: what ends, ends, and nobody can tell.
        (None, _) => Some(rest.to_vec()),
    };
    let retry_after = header("retry-after").map(str::to_owned);
    match body {
        Some(body) => Fetched::Whole { status, retry_after, body },
        None => Fetched::Cut { status, received: rest.len() },
    }
}

/// The body in the frames of `chunked`; `None` if its end is missing.
fn unframed(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        let piece = rest.get(end + 2..)?;
        if length == 0 {
            return piece.starts_with(b"\r\n").then_some(body);
        }
        body.extend_from_slice(piece.get(..length)?);
        rest = piece.get(length + 2..)?;
    }
}

/// Pulls paths of a cache as Nix does: narinfo, then NAR, and again where that can help. What must
/// never be is a panic at once; what the server could not do is counted.
#[derive(Debug)]
pub struct Puller {
    origin: String,
    cache: String,
    token: Option<String>,
    attempts: u32,
    refused: AtomicUsize,
    cut: AtomicUsize,
    silent: AtomicUsize,
}

impl Puller {
    /// A client of a cache of the server at `origin`.
    pub fn new(origin: &str, cache: &str, token: Option<&str>) -> Self {
        let (origin, cache, token) =
            (origin.to_owned(), cache.to_owned(), token.map(str::to_owned));
        let [refused, cut, silent] = [const { AtomicUsize::new(0) }; 3];
        Self { origin, cache, token, attempts: ATTEMPTS, refused, cut, silent }
    }

    /// The same, which tries so often.
    #[must_use]
    pub fn trying(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// Errors of the server (5xx), answers cut off, and no answers at all, so far.
    pub fn troubles(&self) -> (usize, usize, usize) {
        let so_far = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (so_far(&self.refused), so_far(&self.cut), so_far(&self.silent))
    }

    /// A path's NAR, which must have this SHA-256 (hex) if it comes at all.
    ///
    /// # Errors
    /// What the last attempt came to.
    pub fn nar(&self, hash_part: &str, nar_hash: &str) -> Result<Vec<u8>, String> {
        let text = self.get(&format!("{hash_part}.narinfo"))?;
        let text = String::from_utf8(text).expect("a narinfo is text");
        let fields = narinfo::parse(&text);
        assert_eq!(&fields["StorePath"]["/nix/store/".len()..][..32], hash_part, "{text}");
        let said = fields["NarHash"].strip_prefix("sha256:").expect("sha256:");
        assert_eq!(codec::nix32_to_hex(said), nar_hash, "{hash_part} is another path: {text}");
        assert_eq!(fields["Compression"], "zstd", "{text}");
        let body = self.get(fields["URL"])?;
        let nar = zstd::stream::decode_all(&body[..]).unwrap_or_else(|error| {
            panic!("{hash_part}: 200 with {} whole bytes that are no NAR: {error}", body.len())
        });
        assert_eq!(codec::sha256_hex(&nar), nar_hash, "{hash_part}: 200 with wrong bytes");
        assert_eq!(nar.len().to_string(), fields["NarSize"], "{hash_part}");
        Ok(nar)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, String> {
        let (path, mut pause) = (format!("/{}/{name}", self.cache), PAUSE);
        let mut attempt = 1;
        loop {
            let fetched = fetch(&self.origin, "GET", &path, self.token.as_deref(), &[]);
            let counter = match fetched {
                Fetched::Whole { status: 200, body, .. } => return Ok(body),
                Fetched::Whole { status, ref body, .. } if status < 500 && status != 429 => {
                    // Nix believes it and goes elsewhere.
                    return Err(format!("GET {path}: {status} {}", String::from_utf8_lossy(body)));
                }
                Fetched::Whole { .. } => &self.refused,
                Fetched::Cut { .. } => &self.cut,
                Fetched::Nothing(_) => &self.silent,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if attempt == self.attempts {
                return Err(format!("GET {path}, attempt {attempt}: {fetched:?}"));
            }
            attempt += 1;
            std::thread::sleep(pause);
            pause *= 2;
        }
    }
}

/// Waits until something is so, but no longer than that. How long it took.
pub fn within(bound: Duration, what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < bound, "after {bound:?} it is not so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_and_cut_answers_are_told_apart() {
        let whole = |answer: &str| matches!(understand(answer.as_bytes()), Fetched::Whole { .. });
        let cut = |answer: &str| matches!(understand(answer.as_bytes()), Fetched::Cut { .. });
        assert!(whole("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"));
        assert!(cut("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc"));
        assert!(whole(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        ));
        for answer in ["3\r\nabc\r\n", "3\r\nabc\r\n0\r\n", "3\r\nab", "", "3\r\nabc\r\n0"] {
            let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{answer}");
            assert!(cut(&answer), "{answer}");
        }
        assert!(matches!(understand(b"HTTP/1.1 200"), Fetched::Nothing(_)));
    }
}
