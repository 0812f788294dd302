//! What the holder of a token may do.

use crate::auth::tokens::file::Audience;
use utoipa::ToSchema;

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Role {
    /// See everything that operators see, and change nothing.
    Viewer,
    /// Also change keys and owners.
    Operator,
    /// Also change plans, tokens and settings.
    Admin,
    /// What an edge needs, and nothing of the others.
    Edge,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Admin, Self::Edge];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Edge => "edge",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether it permits all that the other one does.
    pub fn includes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Viewer, Self::Viewer)
            | (Self::Operator, Self::Viewer | Self::Operator)
            | (Self::Admin, Self::Viewer | Self::Operator | Self::Admin)
            | (Self::Edge, Self::Edge) => true,
            (Self::Viewer | Self::Operator | Self::Admin | Self::Edge, _) => false,
        }
    }

    /// Whose API it is for.
    pub fn audience(self) -> Audience {
        match self {
            Self::Viewer | Self::Operator | Self::Admin => Audience::Admin,
            Self::Edge => Audience::Edge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_includes_the_ones_before_it_but_edge() {
        let included = |role: Role| Role::ALL.into_iter().filter(move |other| role.includes(*other)).map(Role::name);
        assert_eq!(included(Role::Viewer).collect::<Vec<_>>(), ["viewer"]);
        assert_eq!(included(Role::Operator).collect::<Vec<_>>(), ["viewer", "operator"]);
        assert_eq!(included(Role::Admin).collect::<Vec<_>>(), ["viewer", "operator", "admin"]);
        assert_eq!(included(Role::Edge).collect::<Vec<_>>(), ["edge"]);
        for role in Role::ALL {
            assert_eq!(Role::from_name(role.name()), Some(role));
        }
    }
}
