//! What a token permits, by pattern of cache names.
//!
//! In a pattern `*` stands for any characters, also none. What **any** matching pattern permits is
//! permitted; no pattern takes away what another gives.

use std::collections::BTreeMap;

use granary_api::Permission;
use granary_api::pattern::matches;

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

    /// Whether this may be done to any cache, whatever its name.
    pub fn permit_somewhere(&self, permission: Permission) -> bool {
        self.0.values().any(|given| given.contains(&permission))
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

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::{Pull, Push};

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
