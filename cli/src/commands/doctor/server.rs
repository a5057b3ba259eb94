//! The server, the clocks and the token.

use granary_api::Whoami;
use granary_client::http::Server;

use super::Findings;
use crate::clock;
use crate::commands::whoami::names;
use crate::failure::Failure;
use crate::remote::block_on;
use crate::time::span;

/// Tokens bear times, and servers allow 60 seconds of difference: half of that is time to act.
const SKEW: u64 = 30;
/// A token that ends within a week should be renewed by somebody who is not in a hurry.
const SOON: u64 = 7 * 24 * 3600;

/// Looks, and says whether the server answers.
pub fn look(server: &Server, findings: &mut Findings) -> Result<bool, Failure> {
    let whoami = match block_on(server.whoami())? {
        Ok(whoami) => whoami,
        Err(error) => {
            findings.error("server", &error);
            return Ok(false);
        }
    };
    findings.ok("server", format!("answers, Granary {}", whoami.version));
    let here = env!("CARGO_PKG_VERSION");
    if whoami.version != here {
        let text = format!("this is Granary {here}, the server's is {}", whoami.version);
        findings.warn("version", format!("{text}: update the older one"));
    }
    let base = server.base();
    if server.token().is_some() && !base.is_secure() && !base.is_loopback() {
        findings.warn("server", "the token travels unencrypted: use https");
    }
    compare(whoami.now, clock::now(), findings);
    token(&whoami, server.token().is_some(), findings);
    Ok(true)
}

fn compare(theirs: u64, ours: u64, findings: &mut Findings) {
    let skew = theirs.abs_diff(ours);
    if skew > SKEW {
        let side = if ours > theirs { "ahead of" } else { "behind" };
        let skew = span(skew);
        let text = format!("this machine's clock is {skew} {side} the server's: set it by NTP");
        findings.warn("clock", text);
    } else {
        findings.ok("clock", format!("agrees with the server's ({skew} s apart)"));
    }
}

fn token(whoami: &Whoami, sent: bool, findings: &mut Findings) {
    let Some(subject) = &whoami.subject else {
        if sent {
            findings.fail("token", "the server did not get the token: a proxy may drop it");
        } else {
            findings.warn("token", "none: only public caches can be read (granary login)");
        }
        return;
    };
    let permissions: Vec<String> = whoami
        .caches
        .iter()
        .map(|(pattern, permissions)| format!("{pattern}: {}", names(permissions)))
        .collect();
    findings.ok("token", format!("of {subject}; {}", permissions.join("; ")));
    match whoami.expires {
        Some(end) if end < whoami.now + SOON => {
            let end = clock::relative(end, whoami.now);
            findings.warn("token", format!("ends {end}: ask for a new one"));
        }
        Some(end) => findings.ok("token", format!("ends {}", clock::relative(end, whoami.now))),
        None => findings.ok("token", "does not end by itself"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Health;

    #[test]
    fn clocks_may_differ_by_half_a_minute() {
        for (ours, health) in [(1000, Health::Ok), (1030, Health::Ok), (1031, Health::Warn)] {
            for (here, there) in [(ours, 1000), (1000, ours)] {
                let mut findings = Findings::default();
                compare(there, here, &mut findings);
                assert!(findings.0[0].health == health, "{here} {there}");
            }
        }
    }

    #[test]
    fn a_token_that_ends_soon_or_gets_lost_is_told() {
        let whoami = |subject: Option<&str>, expires| Whoami {
            subject: subject.map(str::to_owned),
            id: None,
            expires,
            caches: [("a-*".to_owned(), vec![granary_api::Permission::Push])].into(),
            now: 1_000_000,
            version: String::new(),
        };
        let worst = |whoami: &Whoami, sent| {
            let mut findings = Findings::default();
            token(whoami, sent, &mut findings);
            let fail = findings.0.iter().any(|one| one.health == Health::Fail);
            let warn = findings.0.iter().any(|one| one.health == Health::Warn);
            (fail, warn)
        };
        assert_eq!(worst(&whoami(Some("alice"), None), true), (false, false));
        assert_eq!(worst(&whoami(Some("alice"), Some(9_000_000)), true), (false, false));
        assert_eq!(worst(&whoami(Some("alice"), Some(1_100_000)), true), (false, true));
        assert_eq!(worst(&whoami(None, None), false), (false, true));
        assert_eq!(worst(&whoami(None, None), true), (true, false));
    }
}
