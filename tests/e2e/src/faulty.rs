//! A proxy that answers by itself when a request holds a certain text, as a server would that some
//! path brings to its knees.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The status to answer with, and the texts in a body that call for it.
type Faults = (u16, Vec<String>);

/// The proxy. It goes on until the test's process ends.
#[derive(Debug)]
pub struct FaultyProxy {
    port: u16,
    faults: Arc<Mutex<Faults>>,
}

impl FaultyProxy {
    /// A proxy before the server at `origin`, which it passes everything on to for now.
    pub fn start(origin: &str) -> Self {
        let server = origin.strip_prefix("http://").expect("plain HTTP").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let faults = Arc::new(Mutex::new((500, Vec::new())));
        let shared = faults.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, faults) = (server.clone(), shared.clone());
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || drop(pass_on(&client, &server, &faults)));
            }
        });
        Self { port, faults }
    }

    /// `http://127.0.0.1:PORT`
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on answers with `status` where a body holds one of `texts`.
    pub fn fail(&self, status: u16, texts: &[&str]) {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        *self.faults.lock().expect("no panic") = (status, texts);
    }
}

/// One request for each connection.
fn pass_on(mut client: &TcpStream, server: &str, faults: &Mutex<Faults>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let from = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        let line = head[from..].trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, texts) = faults.lock().expect("no panic").clone();
    let text = String::from_utf8_lossy(&body);
    if texts.iter().any(|fault| text.contains(fault)) {
        let answer = format!("HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\nconnection: close");
        return client.write_all(format!("{answer}\r\n\r\n").as_bytes());
    }
    let mut server = TcpStream::connect(server)?;
    server.write_all(head.trim_end().as_bytes())?;
    server.write_all(b"\r\nconnection: close\r\n\r\n")?;
    server.write_all(&body)?;
    std::io::copy(&mut server, &mut client).map(drop)
}
