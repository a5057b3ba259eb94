//! What a token permits, by pattern of cache names.
//!
//! In a pattern `*` stands for any characters, also none. What **any** matching pattern permits is
//! permitted; no pattern takes away what another gives.

use std::collections::BTreeMap;

use granary_api::Permission;

/// Permissions by pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(BTreeMap<String, Vec<Permission>>);

impl Grants {
    /// Everything, everywhere.
    pub fn all() -> Self {
        Self([("*".to_owned(), Permission::ALL.to_vec())].into())
    }

    /// Permits more.
    pub fn add(&mut self, pattern: impl Into<String>, permission: Permission) {
        let permissions = self.0.entry(pattern.into()).or_default();
        if let Err(place) = permissions.binary_search(&permission) {
            permissions.insert(place, permission);
        }
    }

    /// Permits all that the others permit, too.
    pub fn extend(&mut self, others: &BTreeMap<String, Vec<Permission>>) {
        for (pattern, permissions) in others {
            for permission in permissions {
                self.add(pattern.as_str(), *permission);
            }
        }
    }

    /// Whether this may be done to that cache.
    pub fn permit(&self, permission: Permission, cache: &str) -> bool {
        self.0.iter().any(|(pattern, given)| given.contains(&permission) && matches(pattern, cache))
    }

    /// Whether everything is permitted on every cache, by the pattern `*` alone.
    pub fn are_all(&self) -> bool {
        let given = self.0.get("*");
        given.is_some_and(|given| Permission::ALL.iter().all(|wanted| given.contains(wanted)))
    }

    /// Whether nothing is permitted anywhere.
    pub fn are_none(&self) -> bool {
        self.0.values().all(Vec::is_empty)
    }

    /// The permissions by pattern.
    pub fn by_pattern(&self) -> &BTreeMap<String, Vec<Permission>> {
        &self.0
    }
}

impl From<&BTreeMap<String, Vec<Permission>>> for Grants {
    fn from(map: &BTreeMap<String, Vec<Permission>>) -> Self {
        let mut grants = Self::default();
        grants.extend(map);
        grants
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any characters.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it has swallowed.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, swallowed)) = star {
            star = Some((at, swallowed + 1));
            p = at + 1;
            t = swallowed + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::{Pull, Push};

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "any", true),
            ("alice-*", "alice-ci", true),
            ("alice-*", "alice-", true),
            ("alice-*", "alice", false),
            ("alice-*", "malice-ci", false),
            ("*-ci", "a-b-ci", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("org/*", "org/repo", true),
            ("org/*", "org-of-mallory/repo", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn all_matching_patterns_count_whatever_their_order() {
        let mut grants = Grants::default();
        grants.add("*", Pull);
        grants.add("alice-*", Push);
        grants.add("alice-ci", Permission::Delete);
        grants.add("zebra", Permission::Destroy);
        for permission in [Pull, Push, Permission::Delete] {
            assert!(grants.permit(permission, "alice-ci"), "{permission}");
        }
        assert!(!grants.permit(Permission::Destroy, "alice-ci"));
        assert!(grants.permit(Pull, "bob") && !grants.permit(Push, "bob"));
    }

    #[test]
    fn only_the_star_with_every_permission_is_everything() {
        assert!(Grants::all().are_all());
        let mut almost = Grants::default();
        almost.extend(&[("a*".to_owned(), Permission::ALL.to_vec())].into());
        almost.extend(&[("*".to_owned(), Permission::ALL[1..].to_vec())].into());
        assert!(!almost.are_all());
        almost.add("*", Pull);
        assert!(almost.are_all());
    }
}
