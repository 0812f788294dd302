//! The ways a request can end.

pub mod malformation;

/// Why a request does not go on. The order is the order in which they are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// There is nothing to decide with: no snapshot yet, or one staler than configured.
    Unavailable,
    /// No credential in any source that the dialect reads.
    Missing,
    /// The credential is a JSON Web Token (RFC 7519) where an API key is wanted.
    Jwt,
    /// A credential is there but cannot be a key.
    Malformed,
    /// Well formed, and no key has this digest.
    Unknown,
    /// The key was revoked, or this secret of it is past its rotation grace.
    Revoked,
    /// The key is past its expiry.
    Expired,
    /// The key belongs to no organization where one is asked for, or its owner is disabled.
    Unassociated,
    /// This kind of key is not accepted on this route.
    WrongKind,
    /// The client's address is outside the key's allowlist.
    ForbiddenIp,
    /// The key or its owner lacks a permission that the route asks for.
    InsufficientScope,
    /// One of the key's windows is exhausted.
    RateLimited,
    /// The key's credits are used up.
    QuotaExhausted,
}

impl Refusal {
    /// Every refusal, in order of decision.
    pub const ALL: [Self; 13] = [
        Self::Unavailable,
        Self::Missing,
        Self::Jwt,
        Self::Malformed,
        Self::Unknown,
        Self::Revoked,
        Self::Expired,
        Self::Unassociated,
        Self::WrongKind,
        Self::ForbiddenIp,
        Self::InsufficientScope,
        Self::RateLimited,
        Self::QuotaExhausted,
    ];

    /// The name in dialects, metrics, filter state and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Missing => "missing",
            Self::Jwt => "jwt",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Unassociated => "unassociated",
            Self::WrongKind => "wrong_kind",
            Self::ForbiddenIp => "forbidden_ip",
            Self::InsufficientScope => "insufficient_scope",
            Self::RateLimited => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
        }
    }

    /// The refusal of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.name() == name)
    }

    /// Whether it is decided after a key's record was found, so that the key's id is known.
    pub fn knows_key(self) -> bool {
        self >= Self::Revoked
    }

    /// The error code of its challenge (RFC 6750, section 3.1); none where no credential was sent or none applies.
    pub fn challenge_error(self) -> Option<&'static str> {
        match self {
            Self::Jwt | Self::Malformed | Self::Unknown | Self::Revoked | Self::Expired | Self::Unassociated => {
                Some("invalid_token")
            }
            Self::InsufficientScope => Some("insufficient_scope"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_refusal_and_the_list_is_in_order() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_name(refusal.name()), Some(refusal));
        }
        assert!(Refusal::ALL.is_sorted());
        assert_eq!(Refusal::from_name("allow"), None);
    }
}
