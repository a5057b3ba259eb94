//! One request on a connection of its own, byte for byte.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// The whole head but for the time of day.
    pub head: String,
    /// The body, chunks and all.
    pub body: String,
    /// The same, as bytes.
    pub bytes: Vec<u8>,
}

impl RawAnswer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body without the frames of `Transfer-Encoding: chunked`.
    pub fn content(&self) -> Vec<u8> {
        if self.header("transfer-encoding") != Some("chunked") {
            return self.bytes.clone();
        }
        let (mut content, mut rest) = (Vec::new(), &self.bytes[..]);
        loop {
            let end = rest.windows(2).position(|two| two == b"\r\n").expect("a chunk's length");
            let length = std::str::from_utf8(&rest[..end]).expect("a number");
            let length = usize::from_str_radix(length, 16).expect("a number");
            if length == 0 {
                return content;
            }
            content.extend_from_slice(&rest[end + 2..][..length]);
            rest = &rest[end + 2 + length + 2..];
        }
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.head, self.body))
    }
}

/// Sends a request to the server at `origin` (`http://127.0.0.1:PORT`); `token` goes as Bearer.
pub fn request(
    origin: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &[u8],
) -> RawAnswer {
    request_with(origin, method, path, token, "", body)
}

/// The same with more headers, each with its line end.
pub fn request_with(
    origin: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    headers: &str,
    body: &[u8],
) -> RawAnswer {
    let authority = origin.trim_start_matches("http://");
    let authorization =
        token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
         Content-Length: {}\r\n{authorization}{headers}\r\n",
        body.len()
    );
    send(origin, &[head.as_bytes(), body].concat())
}

/// Sends these bytes, which must ask for the connection to be closed.
pub fn send(origin: &str, request: &[u8]) -> RawAnswer {
    let address: SocketAddr = origin.trim_start_matches("http://").parse().expect("an address");
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let sent = stream.write_all(request);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    // A server may have answered before it has taken all of it.
    let (Some(end), Ok(_)) = (end, read) else {
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let (line, length) = (String::from_utf8_lossy(line), request.len());
        panic!("{line}, {length} bytes (sent: {sent:?}): no answer")
    };
    let (head, bytes) = (String::from_utf8_lossy(&answer[..end]), answer[end + 4..].to_vec());
    let lines = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = String::from_utf8_lossy(&bytes).into_owned();
    RawAnswer { status, head: lines.collect::<Vec<_>>().join("\n"), body, bytes }
}
