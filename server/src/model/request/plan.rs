//! A plan that is asked for.

use crate::model::Plan;
use crate::model::reader::{credits, optional, read_with_id};
use keyward_core::dialect::read_limits;
use keyward_core::document::Problems;
use keyward_core::key::limit::Limits;
use serde_json::Value;

/// All of what a plan is to be.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PlanSettings {
    /// What its keys may use; `None` for the dialect's default.
    pub limits: Option<Limits>,
    /// What a key begins with that names no credits of its own; `None` does not bound it.
    pub credits: Option<u64>,
}

impl PlanSettings {
    /// Reads the request for a plan of that id.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(id: &str, document: &Value) -> Result<Self, Problems> {
        read_with_id(id, document, |node| {
            let mut fields = node.fields()?;
            let limits = optional(&mut fields, "limits", read_limits);
            let credits = optional(&mut fields, "credits", credits);
            fields.finish();
            Some(Self { limits: limits?, credits: credits? })
        })
    }

    /// The plan with these settings and nothing else changed.
    pub fn apply(self, plan: &mut Plan) {
        let Self { limits, credits } = self;
        (plan.limits, plan.credits) = (limits, credits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reader::told;
    use serde_json::json;

    #[test]
    fn a_plan_limits_and_bounds_nothing_unless_it_says_so_and_all_its_mistakes_are_told() {
        assert_eq!(PlanSettings::read("pro", &json!({})).unwrap(), PlanSettings::default());
        let given = PlanSettings::read("pro", &json!({"limits": ["10/s"], "credits": 5})).unwrap();
        assert_eq!((given.limits.unwrap().len(), given.credits), (1, Some(5)));
        let wrong = json!({"limits": ["often"], "credits": 1.5, "price": 1});
        let problems = told(PlanSettings::read("two words", &wrong)).unwrap_err();
        let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["id", "limits[0]", "credits", "price"]);
    }
}
