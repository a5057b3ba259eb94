//! Against a small server that answers from a script, badly where that is what is tested.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use granary_api::push::MAX_BODY;
use granary_api::{ErrorBody, PREFIX};
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

mod sync;

/// Requests that came: head and body.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// What becomes of one request.
#[derive(Clone)]
enum Act {
    /// An answer: status line, further headers, body.
    Answer(&'static str, String, Vec<u8>),
    /// An answer that ends before its Content-Length.
    Cut,
    /// No answer, and the connection stays.
    Stall,
    /// The connection is closed instead of an answer.
    Close,
}

/// A server that does what the script says, in order, and its last act for ever.
struct Scripted {
    base: BaseUrl,
    seen: Seen,
}

impl Scripted {
    async fn new(acts: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (acts, log) = (acts.to_vec(), seen.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, acts.clone(), log.clone()));
            }
        });
        Self { base, seen }
    }

    fn server(&self, token: Option<&str>) -> Server {
        let options = ServerOptions { retry: quick(), stall: Duration::from_millis(300) };
        let token = token.map(|token| token.parse().unwrap());
        Server::with_options(self.base.clone(), token, options).unwrap()
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn request(&self, index: usize) -> (String, Vec<u8>) {
        self.seen.lock().unwrap()[index].clone()
    }
}

async fn serve(mut socket: TcpStream, acts: Vec<Act>, seen: Seen) {
    while let Some(request) = read(&mut socket).await {
        let index = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            seen.len() - 1
        };
        match acts.get(index).or(acts.last()).unwrap() {
            Act::Answer(status, headers, body) => {
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n");
                if socket.write_all(&[head.as_bytes(), body].concat()).await.is_err() {
                    return;
                }
            }
            Act::Cut => {
                drop(socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{").await);
                return;
            }
            Act::Stall => tokio::time::sleep(Duration::from_secs(60)).await,
            Act::Close => return,
        }
    }
}

async fn read(socket: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        if socket.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, body))
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 4,
        total: Duration::from_secs(5),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
    }
}

fn answer(status: &'static str, body: &str) -> Act {
    Act::Answer(status, String::new(), body.as_bytes().to_vec())
}

fn error(status: &'static str, kind: &str, message: &str) -> Act {
    let code = status[..3].parse().unwrap();
    let body = ErrorBody { code, error: kind.to_owned(), message: message.to_owned() };
    answer(status, &serde_json::to_string(&body).unwrap())
}

const WHOAMI: &str = r#"{"subject":"alice","caches":{"alice-*":["push","pull"]},"now":1700000000,"version":"0.1.0"}"#;

#[tokio::test]
async fn what_passes_is_sent_again_and_byte_for_byte_the_same() {
    let passing = ["408 x", "429 x", "500 x", "502 x"];
    for status in passing.into_iter().chain(["503 x", "504 x"]) {
        let busy = answer(status, "");
        let there = Scripted::new(&[busy, Act::Close, Act::Cut, answer("200 OK", "yes")]).await;
        let server = there.server(Some("sesame"));
        let body = Bytes::from(vec![7; 300_000]);
        let got = server.cache("c").send_chunks(body.clone()).await.unwrap();
        assert_eq!(got, "yes", "{status}");
        assert_eq!(there.count(), 4);
        for index in 0..4 {
            let (head, sent) = there.request(index);
            assert!(head.starts_with("post /_granary/v1/caches/c/chunks http/1.1"), "{head}");
            assert!(head.contains("\r\nauthorization: bearer sesame"), "{head}");
            assert!(head.contains("\r\nuser-agent: granary/"), "{head}");
            assert!(head.contains("\r\ncontent-length: 300000"), "{head}");
            assert_eq!(sent, body);
        }
        assert_eq!(server.traffic().retries(), 3);
        assert_eq!(server.traffic().sent(), 4 * 300_000);
        assert!(server.traffic().received() >= 3);
    }
}

#[tokio::test]
async fn it_gives_up_after_as_many_attempts_as_allowed() {
    let there = Scripted::new(&[error("503 x", "Busy", "full up")]).await;
    let error = there.server(None).whoami().await.unwrap_err();
    assert!(matches!(error, Error::ServerFailed { code: 503, .. }), "{error}");
    assert!(error.to_string().contains("full up"), "{error}");
    assert_eq!(there.count(), 4);
}

#[tokio::test]
async fn retry_after_is_waited_for_or_too_long_to_wait_for() {
    let busy = |after: &str| Act::Answer("429 x", format!("retry-after: {after}\r\n"), Vec::new());
    let there = Scripted::new(&[busy("1"), answer("200 OK", WHOAMI)]).await;
    let started = Instant::now();
    there.server(None).whoami().await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));

    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    let there = Scripted::new(&[busy(past), answer("200 OK", WHOAMI)]).await;
    there.server(None).whoami().await.unwrap();
    assert_eq!(there.count(), 2);

    let there = Scripted::new(&[busy("3600"), answer("200 OK", WHOAMI)]).await;
    let error = there.server(None).whoami().await.unwrap_err();
    assert!(matches!(error, Error::ServerFailed { code: 429, .. }), "{error}");
    assert_eq!(there.count(), 1);
}

#[tokio::test]
async fn a_server_that_stalls_is_left_and_asked_again() {
    let there = Scripted::new(&[Act::Stall, answer("200 OK", WHOAMI)]).await;
    let whoami = there.server(None).whoami().await.unwrap();
    assert_eq!(whoami.subject.as_deref(), Some("alice"));
    assert_eq!(there.count(), 2);

    let there = Scripted::new(&[Act::Stall]).await;
    let error = there.server(None).whoami().await.unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
}

#[tokio::test]
async fn a_slow_body_is_not_a_stall() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    // Much more than what sockets hold back.
    let (size, reads) = (48 << 20, 24);
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; size / reads];
        // All in all three times as long as nothing may move.
        for _ in 0..reads {
            socket.read_exact(&mut buffer).await.unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        drop(socket.read(&mut buffer).await);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let retry = RetryPolicy { attempts: 1, ..quick() };
    let options = ServerOptions { retry, stall: Duration::from_millis(300) };
    let server = Server::with_options(base, None, options).unwrap();
    server.cache("c").send_chunks(Bytes::from(vec![0; size])).await.unwrap();
}

#[tokio::test]
async fn a_slow_line_is_tried_again_however_long_the_body_took() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (size, reads) = (32 << 20, 16);
    tokio::spawn(async move {
        let mut buffer = vec![0; size / reads];
        let (mut socket, _) = listener.accept().await.unwrap();
        // Most of it, in twice the time for trying again.
        for _ in 0..reads - 1 {
            socket.read_exact(&mut buffer).await.unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        drop(socket);
        let (mut socket, _) = listener.accept().await.unwrap();
        read(&mut socket).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let retry = RetryPolicy { total: Duration::from_millis(300), ..quick() };
    let options = ServerOptions { retry, stall: Duration::from_secs(20) };
    let server = Server::with_options(base, None, options).unwrap();
    server.cache("c").send_chunks(Bytes::from(vec![0; size])).await.unwrap();
    assert_eq!(server.traffic().retries(), 1);
}

#[tokio::test]
async fn what_may_not_be_done_twice_is_not_sent_twice() {
    let key = granary_api::AddKey::default();
    for lost in [Act::Close, Act::Cut, answer("502 x", ""), answer("500 x", "")] {
        let there = Scripted::new(&[lost, answer("200 OK", r#"{"keys":[]}"#)]).await;
        there.server(None).cache("c").add_key(&key).await.unwrap_err();
        assert_eq!(there.count(), 1);
    }
    let there = Scripted::new(&[answer("503 x", ""), answer("200 OK", r#"{"keys":[]}"#)]).await;
    there.server(None).cache("c").add_key(&key).await.unwrap();
    assert_eq!(there.count(), 2, "503 says that nothing was done");
}

#[tokio::test]
async fn each_refusal_says_what_to_do() {
    let cases = [
        (error("401 x", "Unauthorized", "no token"), None, "wants a token: run granary login"),
        (error("401 x", "Unauthorized", "it expired"), Some("t"), "(it expired): get a new one"),
        (error("403 x", "Forbidden", "needs push on c"), Some("t"), "permit it: needs push on c"),
        (error("404 x", "NoSuchCache", "no cache c"), None, "no such thing: no cache c"),
        (error("409 x", "Exists", "c exists"), None, "refuses: c exists"),
        (answer("404 x", "<html>nginx</html>"), None, "not look like a Granary server"),
        (answer("200 OK", "<html>hello</html>"), None, "not look like a Granary server"),
        (answer("413 x", "<html>nginx</html>"), None, "choose a smaller part size"),
        (answer("507 x", "the server's disk is full"), None, "disk is full"),
    ];
    for (act, token, expected) in cases {
        let there = Scripted::new(&[act]).await;
        let error = there.server(token).cache("c").info().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains(&there.base.to_string()), "{error}");
        assert_eq!(there.count(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_redirect_does_not_carry_the_token_elsewhere() {
    let elsewhere = Scripted::new(&[answer("200 OK", WHOAMI)]).await;
    let location = format!("location: {}/x\r\n", elsewhere.base);
    let there = Scripted::new(&[Act::Answer("307 x", location, Vec::new())]).await;
    let error = there.server(Some("sesame")).whoami().await.unwrap_err();
    assert!(error.to_string().contains(&format!("redirects to {}", elsewhere.base)), "{error}");
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let there = Scripted::new(&[Act::Answer("200 OK", String::new(), vec![0; MAX_BODY + 1])]).await;
    let error = there.server(None).cache("c").file("x").await.unwrap_err();
    assert!(matches!(error, Error::NotGranary { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_and_no_tls_there_are_told_apart() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let options = ServerOptions { retry: quick(), stall: Duration::from_secs(5) };
    let base = format!("http://127.0.0.1:{port}").parse().unwrap();
    let server = Server::with_options(base, None, options).unwrap();
    let error = server.whoami().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(server.traffic().retries(), 3);

    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://{}", plain.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = plain.accept().await.unwrap();
        drop(socket.read(&mut [0; 1024]).await);
        drop(socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
    });
    let server = Server::with_options(base, None, options).unwrap();
    let error = server.whoami().await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert_eq!(server.traffic().retries(), 0, "trying again changes nothing");
}

#[tokio::test]
async fn the_token_is_in_no_debug_output_and_no_error() {
    let there = Scripted::new(&[error("403 x", "Forbidden", "no"), Act::Close]).await;
    let server = there.server(Some("sesame"));
    let mut shown = format!("{server:?} {:?}", server.cache("c"));
    for _ in 0..2 {
        let error = server.cache("c").info().await.unwrap_err();
        shown.push_str(&format!("{error} {error:?}"));
    }
    assert!(!shown.contains("sesame"), "{shown}");
}

#[tokio::test]
async fn names_stay_one_segment_of_the_path() {
    let there = Scripted::new(&[answer("200 OK", r#"{"keys":[]}"#)]).await;
    let cache = there.server(None).cache("a+b");
    cache.retire_key("k/../1?x", 60).await.unwrap();
    let (head, _) = there.request(0);
    let path = format!("delete {PREFIX}/caches/a+b/keys/k%2f..%2f1%3fx?after=60 ");
    assert!(head.starts_with(&path), "{head}");
    assert_eq!(cache.url(), format!("{}/a+b", there.base));
    let response = cache.server().send(Method::GET, "/x", Bytes::new(), None).await.unwrap();
    assert_eq!(response.status, 200);
}

#[test]
fn pauses_double_up_to_a_bound_and_are_spread() {
    let policy = RetryPolicy {
        attempts: 20,
        total: Duration::from_secs(1000),
        first_pause: Duration::from_millis(100),
        longest_pause: Duration::from_secs(1),
    };
    for (failed, bound) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (19, 1000)] {
        let pauses: Vec<_> =
            (0..100).map(|_| policy.pause(failed, Duration::ZERO, None).unwrap()).collect();
        let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*most <= Duration::from_millis(bound));
        assert!(*least < Duration::from_millis(bound / 3), "they are spread: {least:?}");
        assert!(*most > Duration::from_millis(bound / 2), "up to the bound: {most:?}");
    }
    assert_eq!(policy.pause(20, Duration::ZERO, None), None);
    assert_eq!(policy.pause(1, Duration::from_secs(1001), None), None);
    let asked = Some(Duration::from_secs(9));
    assert_eq!(policy.pause(1, Duration::ZERO, asked), asked);
}

#[test]
fn addresses_are_checked_and_written_in_one_way() {
    let base: BaseUrl = "HTTPS://Cache.Example.Org/granary/".parse().unwrap();
    assert_eq!(base.to_string(), "https://cache.example.org/granary");
    assert_eq!(base.join("/x"), "https://cache.example.org/granary/x");
    assert_eq!(base.host(), "cache.example.org");
    assert!(base.is_secure() && !base.is_loopback());
    for local in ["http://127.0.0.1:80", "http://[::1]:8080/", "http://localhost"] {
        assert!(local.parse::<BaseUrl>().unwrap().is_loopback(), "{local}");
    }
    for bad in ["cache.example.org", "ftp://x", "https://", "https://x/?a", "https://x/#a", ""] {
        let error = bad.parse::<BaseUrl>().unwrap_err();
        assert!(matches!(error, InvalidUrl::Syntax { .. }), "{bad}");
    }
    for secret in ["https://u:sesame@x", "https://sesame@x", "https://u:sesame@ x"] {
        let error = secret.parse::<BaseUrl>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("sesame"), "{error}");
    }
}
