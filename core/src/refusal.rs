//! The reasons for which requests are refused. A new reason gets a [stage](Refusal::stage), at which it is decided, and a
//! [class](Refusal::class), by which dialects answer it unless they name the reason.

pub mod malformation;

/// Why a request does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The key is paused, and can be resumed.
    Paused,
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

/// The stage at which a refusal is decided, in order of decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Is there a usable snapshot?
    Snapshot,
    /// Is there a credential that could be a key?
    Credential,
    /// Is there such a key?
    Record,
    /// May the key be used at all: state and owner ([`authorize`](crate::authorize)).
    Key,
    /// May it be used for this request: kind, client address, scopes ([`authorize`](crate::authorize)).
    Request,
    /// Are its rate limits exhausted?
    Limits,
    /// Are its credits used up?
    Credits,
}

/// A group of refusals that clients treat alike. A dialect answers the class unless it names the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No usable key was sent (401; RFC 9110, section 15.5.2).
    Unauthenticated,
    /// The key may not be used for this request (403; RFC 9110, section 15.5.4).
    Forbidden,
    /// Too many requests (429; RFC 6585, section 4).
    Limited,
    /// A total allowance of the key is used up.
    Quota,
    /// Keys cannot be checked at the moment (503; RFC 9110, section 15.6.4).
    Unavailable,
}

impl Refusal {
    /// Every refusal, in order of decision.
    pub const ALL: [Self; 14] = [
        Self::Unavailable,
        Self::Missing,
        Self::Jwt,
        Self::Malformed,
        Self::Unknown,
        Self::Revoked,
        Self::Expired,
        Self::Paused,
        Self::Unassociated,
        Self::WrongKind,
        Self::ForbiddenIp,
        Self::InsufficientScope,
        Self::RateLimited,
        Self::QuotaExhausted,
    ];

    /// The stage at which it is decided.
    pub fn stage(self) -> Stage {
        match self {
            Self::Unavailable => Stage::Snapshot,
            Self::Missing | Self::Jwt | Self::Malformed => Stage::Credential,
            Self::Unknown => Stage::Record,
            Self::Revoked | Self::Expired | Self::Paused | Self::Unassociated => Stage::Key,
            Self::WrongKind | Self::ForbiddenIp | Self::InsufficientScope => Stage::Request,
            Self::RateLimited => Stage::Limits,
            Self::QuotaExhausted => Stage::Credits,
        }
    }

    /// Its class.
    pub fn class(self) -> Class {
        match self {
            Self::Missing
            | Self::Jwt
            | Self::Malformed
            | Self::Unknown
            | Self::Revoked
            | Self::Expired
            | Self::Paused
            | Self::Unassociated => Class::Unauthenticated,
            Self::WrongKind | Self::ForbiddenIp | Self::InsufficientScope => Class::Forbidden,
            Self::RateLimited => Class::Limited,
            Self::QuotaExhausted => Class::Quota,
            Self::Unavailable => Class::Unavailable,
        }
    }

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
            Self::Paused => "paused",
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

    /// The refusal as which a dialect answers this one if it does not name it; `None` for the answer of the class.
    pub fn answered_as(self) -> Option<Self> {
        match self {
            Self::Paused => Some(Self::Revoked),
            Self::Unavailable
            | Self::Missing
            | Self::Jwt
            | Self::Malformed
            | Self::Unknown
            | Self::Revoked
            | Self::Expired
            | Self::Unassociated
            | Self::WrongKind
            | Self::ForbiddenIp
            | Self::InsufficientScope
            | Self::RateLimited
            | Self::QuotaExhausted => None,
        }
    }

    /// Whether it is decided after a key's record was found, so that the key's id is known.
    pub fn knows_key(self) -> bool {
        match self.stage() {
            Stage::Snapshot | Stage::Credential | Stage::Record => false,
            Stage::Key | Stage::Request | Stage::Limits | Stage::Credits => true,
        }
    }

    /// The error code of its challenge (RFC 6750, section 3.1); none where no credential was sent or none applies.
    pub fn challenge_error(self) -> Option<&'static str> {
        match (self, self.class()) {
            (Self::Missing, _) => None,
            (Self::InsufficientScope, _) => Some("insufficient_scope"),
            (_, Class::Unauthenticated) => Some("invalid_token"),
            (_, Class::Forbidden | Class::Limited | Class::Quota | Class::Unavailable) => None,
        }
    }
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 7] =
        [Self::Snapshot, Self::Credential, Self::Record, Self::Key, Self::Request, Self::Limits, Self::Credits];
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 5] = [Self::Unauthenticated, Self::Forbidden, Self::Limited, Self::Quota, Self::Unavailable];

    /// The name in dialects.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Limited => "limited",
            Self::Quota => "quota",
            Self::Unavailable => "unavailable",
        }
    }

    /// The class of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_name(refusal.name()), Some(refusal));
        }
        for class in Class::ALL {
            assert_eq!(Class::from_name(class.name()), Some(class));
        }
        assert_eq!((Refusal::from_name("allow"), Class::from_name("allow")), (None, None));
    }

    #[test]
    fn refusals_are_listed_in_order_of_stage() {
        let mut stages = Refusal::ALL.map(Refusal::stage).to_vec();
        stages.dedup();
        assert_eq!(stages, Stage::ALL);
    }

    /// So the substitute has the same status by class, and no fact that the other one lacks.
    #[test]
    fn substitutes_share_stage_class_and_challenge() {
        for refusal in Refusal::ALL {
            let Some(other) = refusal.answered_as() else { continue };
            let of = |refusal: Refusal| (refusal.stage(), refusal.class(), refusal.challenge_error());
            assert_eq!(of(refusal), of(other));
            assert_eq!(other.answered_as(), None);
        }
    }

    #[test]
    fn the_key_is_known_in_three_classes() {
        for refusal in Refusal::ALL {
            let is_known = matches!(refusal.class(), Class::Forbidden | Class::Limited | Class::Quota);
            assert!(refusal.knows_key() || !is_known, "{}", refusal.name());
        }
    }
}
