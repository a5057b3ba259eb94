//! An S3 server that keeps objects as files: s3s-fs, on a thread of this process.
//!
//! `dir()/BUCKET/KEY` is the object `KEY`. In `dir()` itself lie files of the server's own, to be
//! skipped by who looks there: `.bucket-*.json` (what is known of objects), `.upload-*.json` and
//! `.upload_id-*.part-*` (uploads in parts that are under way), `.tmp.*.internal.part` (being written).
//! It lists no uploads, and it checks signatures, of bodies too.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The access key that the server knows.
pub const KEY: &str = "granary-test-key";
/// Its secret.
pub const SECRET: &str = "granary-test-secret";

/// The environment of a process that is to use the server.
pub fn credentials() -> [(&'static str, &'static str); 2] {
    [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)]
}

/// A server of one test. It ends with the value; its objects are removed.
pub struct S3Server {
    dir: TempDir,
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl S3Server {
    /// A server without buckets, on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("the port's address");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let running = Some(serve(listener, dir.path().to_owned()));
        Self { dir, address, running }
    }

    /// Where it answers.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address, for a proxy before it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a bucket, if need be, and says what a store in it is called.
    pub fn bucket(&self, name: &str) -> String {
        self.bucket_at(name, &self.endpoint())
    }

    /// The same, reached by another endpoint: that of a proxy.
    pub fn bucket_at(&self, name: &str, endpoint: &str) -> String {
        fs::create_dir_all(self.dir.path().join(name)).expect("a folder for the bucket");
        format!("s3://{name}?endpoint={endpoint}&region=us-east-1&path_style=true")
    }

    /// The folder of all buckets.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops answering, as a server that was killed: connections are reset.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().expect("the server's thread");
        }
    }

    /// Answers again, on the same port and with the same objects.
    pub fn start_again(&mut self) {
        if self.running.is_none() {
            let listener = TcpListener::bind(self.address).expect("the port of before");
            self.running = Some(serve(listener, self.dir.path().to_owned()));
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(listener: TcpListener, dir: PathBuf) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("s3-server".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let mut builder = S3ServiceBuilder::new(FileSystem::new(dir).expect("the folder"));
            builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
            tokio::select! {
                () = accept(listener, builder.build()) => {}
                _ = stopped => {}
            }
        });
        // Those who are being answered are cut off.
        runtime.shutdown_timeout(Duration::from_secs(1));
    });
    (stop, thread.expect("a thread"))
}

async fn accept(listener: TcpListener, service: S3Service) {
    listener.set_nonblocking(true).expect("a socket to poll");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket to poll");
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        let _ = socket.set_nodelay(true);
        let service = service.clone();
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            // A client that went away is nobody's failure.
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
