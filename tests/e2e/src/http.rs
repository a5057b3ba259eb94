//! A plain HTTP client that hides nothing: every status is an answer, no redirects, no decoding.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A client of one cache, with or without a token.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, as sent.
    pub body: Vec<u8>,
    headers: ureq::http::HeaderMap,
}

impl Answer {
    /// A header, if it was sent once and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The Content-Length header.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the status is one of success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the status blames the request.
    pub fn is_client_error(&self) -> bool {
        (400..500).contains(&self.status)
    }
}

impl Http {
    /// A client of the cache at `base` (`http://host:port/name`), nobody in particular.
    pub fn anonymous(base: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(300)))
            .build()
            .into();
        Self { agent, base: base.trim_end_matches('/').to_owned(), authorization: None }
    }

    /// The same, with `token` as the password of Basic authentication, as Nix sends it.
    pub fn with_token(base: &str, token: &str) -> Self {
        let credentials = data_encoding::BASE64.encode(format!("any:{token}").as_bytes());
        let authorization = Some(format!("Basic {credentials}"));
        Self { authorization, ..Self::anonymous(base) }
    }

    /// GET `path`, relative to the cache.
    ///
    /// # Errors
    /// No answer, or one cut short.
    pub fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        self.read(self.without_body(self.agent.get(self.url(path))).call()?)
    }

    /// GET `path`, of which an answer is expected.
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// GET `path` with a Range header, such as `bytes=0-9`.
    pub fn get_range(&self, path: &str, range: &str) -> Answer {
        let request = self.without_body(self.agent.get(self.url(path)));
        request
            .header("range", range)
            .call()
            .and_then(|response| self.read(response))
            .unwrap_or_else(|error| panic!("GET {path}, {range}: {error}"))
    }

    /// HEAD `path`.
    pub fn head(&self, path: &str) -> Answer {
        self.without_body(self.agent.head(self.url(path)))
            .call()
            .and_then(|response| self.read(response))
            .unwrap_or_else(|error| panic!("HEAD {path}: {error}"))
    }

    /// PUT `path`.
    ///
    /// # Errors
    /// No answer, or one cut short.
    pub fn try_put(&self, path: &str, body: &[u8]) -> Result<Answer, ureq::Error> {
        self.try_put_with(path, body, &[])
    }

    /// PUT `path` with more headers, of which an answer is expected.
    pub fn put_with(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
        self.try_put_with(path, body, headers).unwrap_or_else(|error| panic!("PUT {path}: {error}"))
    }

    fn try_put_with(
        &self,
        path: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<Answer, ureq::Error> {
        let mut request = self.agent.put(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.read(request.send(body)?)
    }

    /// PUT `path`, of which an answer is expected.
    pub fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.try_put(path, body).unwrap_or_else(|error| panic!("PUT {path}: {error}"))
    }

    /// POST `body`, which is JSON, to `path`.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        let mut request =
            self.agent.post(self.url(path)).header("content-type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let answer = request.send(body).and_then(|response| self.read(response));
        answer.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// PUT `path` with curl, as Nix does: it asks before it sends much, and listens while it
    /// sends, so that it hears a refusal of a body that the server does not want to the end.
    /// The status and the body of the answer.
    pub fn put_with_curl(&self, path: &str, body: &[u8]) -> (u16, String) {
        let authorization = self.authorization.as_deref().unwrap_or_default();
        let mut curl = Command::new("curl")
            .args(["-sS", "--max-time", "120", "-X", "PUT", "--data-binary", "@-"])
            .args(["-H", &format!("Authorization: {authorization}")])
            .args(["-H", "Content-Type: application/x-nix-nar"])
            .args(["-w", "\n%{http_code}", &self.url(path)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl runs: see tests/setup");
        let mut stdin = curl.stdin.take().expect("piped");
        stdin.write_all(body).expect("curl reads it all before it starts");
        drop(stdin);
        let output = curl.wait_with_output().expect("its output");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (text, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a status"), text.to_owned())
    }

    /// PUTs `body` in two halves, with something in between. The answer, headers and all.
    pub fn put_in_halves(&self, path: &str, body: &[u8], between: impl FnOnce()) -> String {
        const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        let (first, second) = body.split_at(body.len() / 2);
        let mut stream = self.start_put(path, body.len() as u64, "Expect: 100-continue\r\n");
        // Else the server may not even have seen yet that there is a request.
        let mut invited = [0; GO_ON.len()];
        stream.read_exact(&mut invited).expect("the server asks for the body");
        assert_eq!(invited, *GO_ON);
        stream.write_all(first).expect("the first half is taken");
        between();
        stream.write_all(second).expect("the second half is taken");
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Starts a PUT of `length` bytes, sends `sent` and hangs up. What the server answered, if it
    /// did before that.
    pub fn put_cut_short(&self, path: &str, length: u64, sent: &[u8]) -> String {
        let mut stream = self.start_put(path, length, "");
        // The server may have seen enough before it has all of it.
        drop(stream.write_all(sent));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A connection on which the head of a PUT has been sent, with these lines more.
    fn start_put(&self, path: &str, length: u64, more: &str) -> TcpStream {
        let url = self.url(path);
        let (authority, target) =
            url.trim_start_matches("http://").split_once('/').expect("a URL with a path");
        let address: SocketAddr = authority.parse().expect("an address");
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let authorization = self.authorization.as_deref().unwrap_or_default();
        let head = format!(
            "PUT /{target} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: {authorization}\r\n\
             Content-Length: {length}\r\nContent-Type: application/x-nix-nar\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("the head is taken");
        stream
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    fn without_body(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
    ) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    fn read(&self, response: ureq::http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
        let (head, body) = response.into_parts();
        let body = body.into_with_config().limit(u64::MAX).read_to_vec()?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}
