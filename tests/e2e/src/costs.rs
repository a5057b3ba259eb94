//! What an object store is asked for: objects and requests, for so many bytes of NAR.

use std::fs;
use std::path::Path;

use granary_test_services::FaultProxy;

use crate::closure::Closure;
use crate::granary::Home;
use crate::nix::{Nix, Version};
use crate::replicas::{Cluster, Replica};

const GB: f64 = 1e9;

/// What a push or a pull of a closure took.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    /// Bytes of NAR.
    pub nars: u64,
    /// Objects that are there now and were not.
    pub objects: usize,
    /// Requests that write, parts of long objects among them.
    pub writes: u64,
    /// Requests that read.
    pub reads: u64,
}

impl Costs {
    /// Objects written per GB of NAR.
    pub fn objects_per_gb(&self) -> f64 {
        self.objects as f64 * GB / self.nars as f64
    }

    /// Requests that write, per GB of NAR.
    pub fn writes_per_gb(&self) -> f64 {
        self.writes as f64 * GB / self.nars as f64
    }

    /// Requests that read, per GB of NAR.
    pub fn reads_per_gb(&self) -> f64 {
        self.reads as f64 * GB / self.nars as f64
    }
}

/// A server whose way to its bucket is watched.
pub struct Watched {
    /// The bucket and the servers.
    pub cluster: Cluster,
    /// The way.
    pub proxy: FaultProxy,
}

impl Watched {
    /// One server.
    pub fn start() -> Self {
        let mut cluster = Cluster::without_servers();
        let proxy = FaultProxy::start(cluster.s3.address());
        cluster.go_through(&proxy.endpoint());
        cluster.add(&[]);
        Self { cluster, proxy }
    }

    /// The server that came last.
    pub fn server(&self) -> &Replica {
        self.cluster.replicas.last().expect("there is one")
    }

    /// Another server, which has nothing on its disk yet. The one before it is stopped.
    pub fn afresh(&mut self) {
        self.cluster.replicas.last_mut().expect("there is one").stop();
        self.cluster.add(&[]);
    }

    /// `granary push` of a closure.
    pub fn push(&self, closure: &Closure) -> Costs {
        let server = self.server();
        let home = Home::with_token(Version::V2_34, &server.origin(), &server.token());
        self.measured(closure, || drop(home.push("default", closure)))
    }

    /// `nix copy --to` of a closure.
    pub fn copy_to(&self, closure: &Closure) -> Costs {
        let server = self.server();
        let nix = Nix::with(Version::V2_34, &server.token(), &server.public_key());
        let url = format!("{}?compression=zstd", server.url("default"));
        self.measured(closure, || nix.copy_to(&url, closure))
    }

    /// `nix copy --from` of a closure.
    pub fn copy_from(&self, closure: &Closure) -> Costs {
        let server = self.server();
        let nix = Nix::with(Version::V2_34, &server.token(), &server.public_key());
        self.measured(closure, || drop(nix.copy_from(&server.url("default"), &closure.top)))
    }

    fn measured(&self, closure: &Closure, act: impl FnOnce()) -> Costs {
        let objects = || objects(&self.cluster.objects());
        let before = objects();
        self.proxy.reset_counts();
        act();
        Costs {
            nars: closure.paths.iter().map(|path| path.nar_size).sum(),
            objects: objects() - before,
            writes: self.proxy.count("PUT") + self.proxy.count("POST"),
            reads: self.proxy.count("GET"),
        }
    }
}

/// How many packs lie in a bucket.
fn objects(bucket: &Path) -> usize {
    let Ok(packs) = fs::read_dir(bucket.join("packs")) else { return 0 };
    let names = packs.map(|pack| pack.expect("an entry").file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".pack")).count()
}
