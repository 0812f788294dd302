//! The resources of `envoy/mesh`, which tests change only where an address, a module or a fault requires it.

use crate::tools::replace_file;
use keyward_harness::{Failure, Result, artifacts};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The resources of one file.
#[derive(Clone, Debug)]
pub struct Resources(Vec<Value>);

impl Resources {
    /// Reads a file of `envoy/mesh`.
    pub fn shipped(name: &str) -> Result<Self> {
        let path = artifacts::root().join("envoy/mesh").join(name);
        let text = fs::read_to_string(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Self::parse(&text)
    }

    /// Parses YAML with one or more resources.
    pub fn parse(text: &str) -> Result<Self> {
        let documents = serde_saphyr::from_multiple(text);
        documents.map(Self).map_err(|error| Failure::new(format!("{error} in {text}")))
    }

    /// The resource of this kind and name.
    ///
    /// # Panics
    /// If there is none: the shipped file has then changed without the tests.
    #[track_caller]
    pub fn find(&mut self, kind: &str, name: &str) -> &mut Value {
        let mut found =
            self.0.iter_mut().filter(|resource| resource["kind"] == kind && resource["metadata"]["name"] == name);
        found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// Removes the resource of this kind and name.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn remove(&mut self, kind: &str, name: &str) {
        self.find(kind, name);
        self.0.retain(|resource| resource["kind"] != kind || resource["metadata"]["name"] != name);
    }

    /// Adds the resources of other YAML.
    pub fn add(&mut self, text: &str) -> Result<()> {
        self.0.extend(Self::parse(text)?.0);
        Ok(())
    }

    /// Replaces a text in every string of every resource.
    ///
    /// # Panics
    /// If no string has it: the shipped file has then changed without the tests.
    #[track_caller]
    pub fn replace(&mut self, from: &str, to: &str) {
        let mut count = 0;
        for resource in &mut self.0 {
            each_string(resource, &mut |text| {
                if text.contains(from) {
                    *text = text.replace(from, to);
                    count += 1;
                }
            });
        }
        assert!(count > 0, "no string has {from:?}");
    }

    /// Writes all resources into one file, which a watching program never sees half-written.
    pub fn write(&self, path: &Path) -> Result<()> {
        // JSON is YAML.
        let documents: Vec<String> = self.0.iter().map(|resource| format!("{resource:#}\n")).collect();
        replace_file(path, &documents.join("---\n"))
    }
}

/// The value at a pointer.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
    let shown = value["kind"].clone();
    value.pointer_mut(pointer).unwrap_or_else(|| panic!("{shown} has no {pointer}"))
}

fn each_string(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(values) => values.iter_mut().for_each(|value| each_string(value, change)),
        Value::Object(fields) => fields.values_mut().for_each(|value| each_string(value, change)),
        _ => {}
    }
}
