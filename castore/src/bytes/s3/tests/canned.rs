//! A server that answers what a test tells it to, for what real servers differ in.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

/// A server whose answers, status line to body, are made of the request's head. Returns its URL. It
/// ends with the process.
pub fn serve(answer: impl Fn(&str) -> (&'static str, String) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = BufReader::new(client.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && client.read_line(&mut head).unwrap() > 0 {}
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
            });
            let mut body = vec![0; length.unwrap_or(0)];
            client.read_exact(&mut body).unwrap();
            let (status, body) = answer(&head);
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
            let end = "ETag: \"tag\"\r\nConnection: close\r\n\r\n";
            client.get_mut().write_all(format!("{head}{end}{body}").as_bytes()).unwrap();
        }
    });
    endpoint
}
