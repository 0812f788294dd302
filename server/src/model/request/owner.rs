//! What is asked of an owner.

use crate::model::reader::{fits, id, nullable, optional, read_with_id, scope};
use crate::model::{Owner, OwnerKind};
use keyward_core::document::{Fields, Node, Problems, read_value};
use keyward_core::wire::entry::{Body, OwnerRecord};
use serde_json::Value;

/// All of what an owner is to be.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OwnerSettings {
    /// What it is.
    pub kind: Option<OwnerKind>,
    /// Whether all its keys are refused.
    pub disabled: bool,
    /// The most its keys may do; `None` does not bound them.
    pub permissions: Option<Vec<String>>,
}

/// What is to become of an owner; `None` leaves things as they are.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OwnerChange {
    /// What it is; the inner `None` for nothing that is known.
    pub kind: Option<Option<OwnerKind>>,
    /// Whether all its keys are refused.
    pub disabled: Option<bool>,
    /// The most its keys may do; the inner `None` does not bound them.
    pub permissions: Option<Option<Vec<String>>>,
}

/// Which keys of an owner are to be revoked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeysToRevoke {
    /// Only those of this member.
    pub member: Option<String>,
}

impl OwnerSettings {
    /// Reads the request for an owner of that id; what is absent is as in a new owner.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(id: &str, document: &Value) -> Result<Self, Problems> {
        let change = read_with_id(id, document, |node| OwnerChange::read_fields(&node))?;
        Ok(Self {
            kind: change.kind.flatten(),
            disabled: change.disabled.unwrap_or(false),
            permissions: change.permissions.flatten(),
        })
    }

    /// The owner with these settings and nothing else changed.
    pub fn apply(self, owner: &mut Owner) {
        let Self { kind, disabled, permissions } = self;
        (owner.kind, owner.disabled, owner.permissions) = (kind, disabled, permissions);
    }
}

impl OwnerChange {
    /// Reads the request.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value) -> Result<Self, Problems> {
        read_value(document, |node| Self::read_fields(&node))
    }

    /// Changes what is to be changed.
    pub fn apply(self, owner: &mut Owner) {
        owner.kind = self.kind.unwrap_or(owner.kind);
        owner.disabled = self.disabled.unwrap_or(owner.disabled);
        if let Some(permissions) = self.permissions {
            owner.permissions = permissions;
        }
    }

    fn read_fields(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let kind = nullable(&mut fields, "kind", kind);
        let disabled = fields.maybe("disabled", Node::boolean);
        let permissions = nullable(&mut fields, "permissions", |n| n.each(scope));
        fields.finish();
        let change = Self { kind: kind?, disabled: disabled?, permissions: permissions? };
        let record = OwnerRecord { disabled: false, permissions: change.permissions.clone().flatten() };
        fits(node, Body::Owner(record)).then_some(change)
    }
}

impl KeysToRevoke {
    /// Reads the request.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(document: &Value) -> Result<Self, Problems> {
        read_value(document, |node| {
            let mut fields: Fields<'_> = node.fields()?;
            let member = optional(&mut fields, "member", id);
            fields.finish();
            Some(Self { member: member? })
        })
    }
}

fn kind(node: &Node<'_>) -> Option<OwnerKind> {
    node.one_of(&OwnerKind::ALL.map(|kind| (kind.name(), kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reader::told;
    use serde_json::json;

    #[test]
    fn null_permissions_unbound_an_owner_and_absent_ones_leave_it_as_it_is() {
        let read = |document| told(OwnerChange::read(&document));
        assert_eq!(read(json!({})).unwrap(), OwnerChange::default());
        assert_eq!(read(json!({"permissions": null})).unwrap().permissions, Some(None));
        assert_eq!(read(json!({"permissions": ["a"]})).unwrap().permissions, Some(Some(vec!["a".to_owned()])));
        assert_eq!(read(json!({"disabled": null, "permissions": "all"})).unwrap_err().len(), 2);
    }

    #[test]
    fn a_kind_is_one_of_three_or_nothing() {
        let read = |document| told(OwnerChange::read(&document));
        for kind in OwnerKind::ALL {
            assert_eq!(read(json!({"kind": kind.name()})).unwrap().kind, Some(Some(kind)));
        }
        assert_eq!(read(json!({"kind": null})).unwrap().kind, Some(None));
        assert_eq!(read(json!({"kind": "robot"})).unwrap_err()[0].0, "kind");
    }

    #[test]
    fn what_is_not_said_of_a_whole_owner_is_as_in_a_new_one_and_its_id_is_checked_too() {
        assert_eq!(OwnerSettings::read("acme", &json!({})).unwrap(), OwnerSettings::default());
        let problems = told(OwnerSettings::read("two words", &json!({"disabled": 1}))).unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["id", "disabled"]);
        assert_eq!(told(OwnerSettings::read("two words", &json!({}))).unwrap_err()[0].0, "id");
    }
}
