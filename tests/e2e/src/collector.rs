//! `granary gc`, asked of a server that runs.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::granary::Home;
use crate::server::Server;

/// How long another collection, such as one that the server began by itself, may be under way.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it with these arguments. What it reports.
pub fn collect(home: &Home, origin: &str, arguments: &[&str]) -> Value {
    let arguments = [&["gc", "--server", origin, "--json"], arguments].concat();
    let started = Instant::now();
    loop {
        let output = home.granary(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            let report = serde_json::from_slice(&output.stdout);
            return report.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"));
        }
        let busy = said.contains("under way") && started.elapsed() < PATIENCE;
        assert!(busy, "{arguments:?}: {}: {said}", output.status);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Runs it on everything, without a grace period.
pub fn collect_now(home: &Home, server: &Server) -> Value {
    collect(home, &server.origin(), &["--grace", "0s"])
}

/// One of the numbers of a report.
pub fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("no number {name}: {report:#}"))
}

/// What a report says of a cache.
pub fn of_cache<'a>(report: &'a Value, cache: &str) -> &'a Value {
    let caches = report["caches"].as_array().expect("a list");
    let found = caches.iter().find(|found| found["name"] == cache);
    found.unwrap_or_else(|| panic!("nothing of {cache}: {report:#}"))
}
