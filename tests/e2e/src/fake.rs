//! A server that gives the same answers whatever happens, and remembers what it was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request: its first line and its headers, in small letters.
pub type Head = Vec<String>;

/// The server. It goes on until the test's process ends.
#[derive(Debug)]
pub struct FakeServer {
    port: u16,
    seen: Arc<Mutex<Vec<Head>>>,
}

impl FakeServer {
    /// A server that answers a request for a path, queries aside, with the body beside it, and 404
    /// for others.
    pub fn start(answers: Vec<(String, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answers, log) = (Arc::new(answers), seen.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (answers, log) = (answers.clone(), log.clone());
                std::thread::spawn(move || serve(&socket, &answers, &log));
            }
        });
        Self { port, seen }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Head> {
        self.seen.lock().expect("no panic").clone()
    }
}

fn serve(mut socket: &TcpStream, answers: &[(String, String)], log: &Mutex<Vec<Head>>) {
    let mut reader = BufReader::new(socket);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line.trim().is_empty() => break,
                Ok(_) => head.push(line.trim().to_owned()),
            }
        }
        let header =
            |line: &String| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok();
        let length: u64 = head.iter().find_map(header).unwrap_or(0);
        drop(std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()));
        let path = head[0].split([' ', '?']).nth(1).unwrap_or_default();
        let answer = answers.iter().find(|(known, _)| known == path);
        let (status, body) = match answer {
            Some((_, body)) => ("200 OK", body.as_str()),
            None => ("404 Not Found", ""),
        };
        let length = body.len();
        log.lock().expect("no panic").push(head);
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        if socket.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}
