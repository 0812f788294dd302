//! What the table of fields becomes.

/// `name: type of field, what users of self-service may do with it;` for each field, after the sentence that describes it.
macro_rules! key_fields {
    ($($(#[doc = $doc:literal])+ $name:ident: $field:ty, $self_service:ident;)+) => {
        use super::value::Stored;
        use keyward_core::document::Fields;

        /// The settable fields of a key.
        #[derive(Clone, Debug, PartialEq, Eq, Default)]
        pub struct KeyFields {
            $($(#[doc = $doc])+ pub $name: <$field as Field>::Value,)+
        }

        /// What is to become of the fields of a key; `None` leaves a field as it is.
        #[derive(Clone, Debug, PartialEq, Eq, Default)]
        pub struct FieldChanges {
            $($(#[doc = $doc])+ pub $name: Option<<$field as Field>::Change>,)+
        }

        impl KeyFields {
            /// Every field, in the order in which they are read and shown.
            pub const SPECS: &[FieldSpec] = &[
                $(FieldSpec::of::<$field>(stringify!($name), concat!($($doc),+), SelfService::$self_service),)+
            ];

            /// The columns of all fields, with a comma behind each.
            pub const COLUMNS: &str = concat!($(stringify!($name), ", "),+);

            /// Reads the fields of a new key. Every field is read, so that every mistake is reported.
            pub fn read(fields: &mut Fields<'_>, context: &mut Context<'_>) -> Option<Self> {
                $(let $name = <$field>::read_new(fields, stringify!($name), context);)+
                Some(Self { $($name: $name?,)+ })
            }

            /// Every field with its value in JSON.
            pub fn to_json(&self) -> impl Iterator<Item = (&'static FieldSpec, Value)> {
                Self::SPECS.iter().zip([$(self.$name.to_json(),)+])
            }

            /// Every field with its value in the database.
            pub fn to_stored(&self) -> impl Iterator<Item = (&'static FieldSpec, Stored)> {
                self.to_json().map(|(spec, value)| (spec, spec.shape.store(&value)))
            }

            /// The fields in the order of the table.
            ///
            /// # Errors
            /// The name of a field whose column holds something else.
            pub fn from_stored(columns: Vec<Stored>) -> Result<Self, &'static str> {
                let mut columns = columns.into_iter().zip(Self::SPECS);
                let mut next = || columns.next().and_then(|(column, spec)| spec.shape.load(column));
                Ok(Self { $($name: next().and_then(|value| FieldValue::from_json(&value)).ok_or(stringify!($name))?,)+ })
            }

            /// What the audit log says of the fields of a new key; nothing of what is null or empty.
            pub fn audited(&self) -> Map<String, Value> {
                let all = [$((stringify!($name), <$field>::audited(&self.$name)),)+].into_iter();
                let known = all.filter(|(_, value)| !value.is_null() && *value != Value::Array(Vec::new()));
                known.map(|(name, value)| (name.to_owned(), value)).collect()
            }

            /// What the audit log says of the fields that have changed.
            pub fn differences(&self, new: &Self) -> Map<String, Value> {
                let all = [$((stringify!($name), <$field>::difference(&self.$name, &new.$name)),)+];
                all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
            }
        }

        impl FieldChanges {
            /// Reads a merge patch (RFC 7396). Every field is read, so that every mistake is reported.
            pub fn read(fields: &mut Fields<'_>, context: &Context<'_>) -> Option<Self> {
                $(let $name = <$field>::read_change(fields, stringify!($name), context);)+
                Some(Self { $($name: $name?,)+ })
            }

            /// Changes the fields.
            pub fn apply(self, fields: &mut KeyFields) {
                $(if let Some(change) = self.$name {
                    Change::apply(change, &mut fields.$name);
                })+
            }
        }
    };
}
pub(super) use key_fields;
