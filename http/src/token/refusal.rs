//! Why a request is not let in.

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no token.
    #[error("this needs a token: send it as the Basic password (netrc) or as Bearer")]
    NoToken,
    /// The token cannot be read.
    #[error("the token cannot be read: it is not a JWT with the claims that this server needs")]
    Malformed,
    /// Nobody whom this server believes has signed it.
    #[error("the token is not signed by a key of this server, or has been changed since")]
    NotSigned,
    /// It was valid once.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// It will be valid.
    #[error("the token is not valid yet: if it should be, set the clocks of both sides")]
    NotYet,
    /// It was taken back.
    #[error("the token has been revoked: ask for a new one")]
    Revoked,
    /// It comes from someone else.
    #[error("the token's issuer (iss) is not the one that this server is set to believe")]
    Issuer,
    /// It is meant for someone else.
    #[error("the token's audience (aud) is not the one that this server is set to expect")]
    Audience,
    /// The issuer's keys are not to be had, so nothing can be said of the token.
    #[error("the token's issuer does not answer with its keys at the moment: try again later")]
    NoKeys,
    /// It is a good identity token, and permits nothing.
    #[error("the identity token is good, but no [[oidc.grant]] of the server fits its claims")]
    NoGrant,
    /// It does not permit to look after the server.
    #[error("this takes a token with every permission on the pattern *")]
    NotAll,
    /// It does not permit this.
    #[error("the token does not permit this on that cache")]
    Forbidden,
}
