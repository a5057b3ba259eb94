//! A proxy that does to HTTP/1.1 what networks and object stores do to it.
//!
//! Messages are passed on as they are, the Host header included (signatures cover it), one request
//! after the other on a connection, until a fault strikes. Which requests it strikes is random with a
//! fixed seed, or the next so many.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the proxy can do to a request or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The answer is 503 SlowDown, and the server never hears of it.
    SlowDown,
    /// The answer is 500 InternalError, and the server never hears of it.
    InternalError,
    /// The answer's body stops halfway, and the connection stays open.
    Stall,
    /// The answer's body stops halfway, and the connection is closed.
    Cut,
    /// The server does what it was asked for, and the connection is closed without an answer.
    LostAnswer,
    /// A byte of the body that a GET fetches is another one.
    FlipGet,
    /// A byte of the body that a PUT sends is another one.
    FlipPut,
}

#[derive(Default)]
struct Knob {
    rate: f64,
    next: u64,
    struck: u64,
}

#[derive(Default)]
struct State {
    knobs: HashMap<Fault, Knob>,
    requests: BTreeMap<String, u64>,
    latency: Duration,
    retry_after: Option<u64>,
    random: u64,
}

struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    closing: AtomicBool,
}

/// A proxy before a server. It ends with the value; connections end with their clients.
pub struct FaultProxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl FaultProxy {
    /// A proxy on a free port that passes everything on.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("the port's address");
        let state = Mutex::new(State { random: 0x9e37_79b9_7f4a_7c15, ..State::default() });
        let shared = Arc::new(Shared { server, state, closing: AtomicBool::new(false) });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.closing.load(Ordering::Relaxed) {
                    return;
                }
                let shared = accepting.clone();
                if let Ok(client) = client {
                    std::thread::spawn(move || shared.connection(client));
                }
            }
        });
        Self { shared, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on a fault strikes this share of the requests that it can strike.
    pub fn set(&self, fault: Fault, rate: f64) {
        self.shared.state().knobs.entry(fault).or_default().rate = rate;
    }

    /// A fault strikes the next so many requests that it can strike.
    pub fn next(&self, fault: Fault, count: u64) {
        self.shared.state().knobs.entry(fault).or_default().next = count;
    }

    /// How many requests a fault struck.
    pub fn struck(&self, fault: Fault) -> u64 {
        self.shared.state().knobs.get(&fault).map_or(0, |knob| knob.struck)
    }

    /// Each request reaches the server this much later.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.state().latency = latency;
    }

    /// What [`Fault::SlowDown`] says in `Retry-After`, in seconds.
    pub fn set_retry_after(&self, seconds: Option<u64>) {
        self.shared.state().retry_after = seconds;
    }

    /// Requests of a method so far.
    pub fn count(&self, method: &str) -> u64 {
        self.shared.state().requests.get(method).copied().unwrap_or(0)
    }

    /// Requests by method so far.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.shared.state().requests.clone()
    }

    /// Counts from nothing again.
    pub fn reset_counts(&self) {
        self.shared.state().requests.clear();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address); // Wakes the thread that accepts.
    }
}

/// The first line and the headers of a message.
struct Head {
    lines: Vec<u8>,
    first: String,
    length: Option<u64>,
    chunked: bool,
    expects: bool,
    closes: bool,
}

impl Head {
    /// `None` at the end of the connection.
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self {
            lines: Vec::new(),
            first: String::new(),
            length: None,
            chunked: false,
            expects: false,
            closes: false,
        };
        loop {
            let start = head.lines.len();
            if from.read_until(b'\n', &mut head.lines)? == 0 {
                let whole = start == 0;
                return if whole { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let line = String::from_utf8_lossy(&head.lines[start..]).trim_end().to_owned();
            if line.is_empty() {
                return Ok(Some(head));
            }
            if start == 0 {
                head.first = line;
            } else if let Some((name, value)) = line.split_once(':') {
                let value = value.trim().to_ascii_lowercase();
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => head.length = value.parse().ok(),
                    "transfer-encoding" => head.chunked = value.contains("chunked"),
                    "expect" => head.expects = value.contains("100-continue"),
                    "connection" => head.closes = value.contains("close"),
                    _ => {}
                }
            }
        }
    }
}

/// What becomes of a body on its way.
#[derive(Clone, Copy, Default)]
struct Harm {
    /// The byte at this offset is another one.
    flip: Option<u64>,
    /// Only so many bytes are passed on.
    stop: Option<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strikes(&self, fault: Fault) -> bool {
        let mut state = self.state();
        // xorshift64: the same faults each time a test runs alone.
        state.random ^= state.random << 13;
        state.random ^= state.random >> 7;
        state.random ^= state.random << 17;
        let chance = (state.random >> 11) as f64 / (1u64 << 53) as f64;
        let Some(knob) = state.knobs.get_mut(&fault) else {
            return false;
        };
        let strikes = knob.next > 0 || chance < knob.rate;
        knob.next = knob.next.saturating_sub(1);
        knob.struck += u64::from(strikes);
        strikes
    }

    fn connection(&self, client: TcpStream) {
        let (Ok(server), Ok(reading)) = (TcpStream::connect(self.server), client.try_clone())
        else {
            return; // A server that is down: the client sees its connection closed.
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        if let Ok(from_server) = server.try_clone() {
            // Whatever ends it, both sides see it end.
            let _ = self.exchange(
                &mut BufReader::with_capacity(1 << 16, reading),
                &client,
                &mut BufReader::with_capacity(1 << 16, from_server),
                &server,
            );
        }
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }

    fn exchange(
        &self,
        from_client: &mut impl BufRead,
        mut client: &TcpStream,
        from_server: &mut impl BufRead,
        mut server: &TcpStream,
    ) -> io::Result<()> {
        while let Some(request) = Head::read(from_client)? {
            let method = request.first.split(' ').next().unwrap_or_default().to_owned();
            let latency = {
                let mut state = self.state();
                *state.requests.entry(method.clone()).or_default() += 1;
                state.latency
            };
            std::thread::sleep(latency);
            if request.expects {
                client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let refusal = if self.strikes(Fault::SlowDown) {
                Some(("503 Service Unavailable", "SlowDown", self.state().retry_after))
            } else if self.strikes(Fault::InternalError) {
                Some(("500 Internal Server Error", "InternalError", None))
            } else {
                None
            };
            if let Some((status, code, retry_after)) = refusal {
                pass_body(&request, from_client, &mut io::sink(), Harm::default())?;
                let bare = method == "HEAD";
                client.write_all(&error_answer(status, code, retry_after, bare))?;
                continue;
            }
            server.write_all(&request.lines)?;
            let len = request.length.unwrap_or(0);
            let flip =
                (method == "PUT" && len > 0 && self.strikes(Fault::FlipPut)).then_some(len / 2);
            pass_body(&request, from_client, &mut server, Harm { flip, stop: None })?;

            let answer = loop {
                let Some(answer) = Head::read(from_server)? else {
                    return Ok(());
                };
                if !answer.first.split(' ').nth(1).unwrap_or_default().starts_with('1') {
                    break answer;
                }
            };
            if self.strikes(Fault::LostAnswer) {
                return Ok(());
            }
            client.write_all(&answer.lines)?;
            let status = answer.first.split(' ').nth(1).unwrap_or_default();
            if method == "HEAD" || matches!(status, "204" | "304") {
                continue;
            }
            let mut harm = Harm::default();
            let mut stalls = false;
            if method == "GET" && answer.length.is_some_and(|len| len > 0) {
                let middle = answer.length.map(|len| len / 2);
                if self.strikes(Fault::FlipGet) {
                    harm.flip = middle;
                }
                stalls = self.strikes(Fault::Stall);
                if stalls || self.strikes(Fault::Cut) {
                    harm.stop = middle;
                }
            }
            pass_body(&answer, from_server, &mut client, harm)?;
            if stalls {
                // Until the client gives up.
                let _ = io::copy(from_client, &mut io::sink());
            }
            if harm.stop.is_some() || request.closes || answer.closes {
                return Ok(());
            }
            let bounded = answer.length.is_some() || answer.chunked;
            if !bounded {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn error_answer(status: &str, code: &str, retry_after: Option<u64>, bare: bool) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
         <Message>A fault of the test's making.</Message></Error>"
    );
    let pause = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n"));
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n{}\r\n",
        body.len(),
        pause.unwrap_or_default()
    );
    if !bare {
        answer.push_str(&body);
    }
    answer.into_bytes()
}

/// Passes a message's body on, and does the harm to it. Chunked bodies are left alone, and an answer
/// that is bounded by nothing else goes to the connection's end.
fn pass_body(
    head: &Head,
    from: &mut impl BufRead,
    to: &mut impl Write,
    harm: Harm,
) -> io::Result<()> {
    if head.chunked {
        return pass_chunks(from, to);
    }
    let answer = head.first.starts_with("HTTP/");
    let Some(length) = head.length else {
        return if answer { io::copy(from, to).map(drop) } else { Ok(()) };
    };
    let end = harm.stop.unwrap_or(length);
    let mut at = 0;
    let mut buffer = vec![0; 1 << 16];
    while at < end {
        let most = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let read = from.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(flip) = harm.flip.filter(|flip| (at..at + read as u64).contains(flip)) {
            buffer[(flip - at) as usize] ^= 0x55;
        }
        to.write_all(&buffer[..read])?;
        at += read as u64;
    }
    Ok(())
}

fn pass_chunks(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        to.write_all(&line)?;
        let digits = String::from_utf8_lossy(&line);
        let digits = digits.trim_end().split(';').next().unwrap_or_default().to_owned();
        let len = u64::from_str_radix(&digits, 16).map_err(io::Error::other)?;
        if len == 0 {
            break;
        }
        io::copy(&mut from.take(len + 2), to)?;
    }
    // Trailers, up to an empty line.
    loop {
        let mut line = Vec::new();
        let read = from.read_until(b'\n', &mut line)?;
        to.write_all(&line)?;
        if read == 0 || line == b"\r\n" {
            return Ok(());
        }
    }
}
