//! Tokens, as they are asked about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Permission;

/// Who the asker is, in the server's eyes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whoami {
    /// The token's subject; `None` without a token.
    pub subject: Option<String>,
    /// The token's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it ends, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// What it permits, by pattern of cache names.
    pub caches: BTreeMap<String, Vec<Permission>>,
    /// The server's time, in seconds since 1970.
    pub now: u64,
    /// The server's version.
    pub version: String,
}

/// A token that was given for an identity token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token.
    pub token: String,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

/// Takes tokens back, by exactly one of their marks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revoke {
    /// The one token with this id.
    Id(String),
    /// Every token of this subject that was issued until now.
    Subject(String),
}

/// What has been taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Ids of tokens, with the time of their revocation in seconds since 1970.
    pub ids: BTreeMap<String, u64>,
    /// Subjects, with the time up to which their tokens are void.
    pub subjects: BTreeMap<String, u64>,
}
