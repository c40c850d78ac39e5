//! A tolerant view of JSON, for the bodies of events that were too large for the stream. It reads as the bridge converts:
//! what has another type is absent, the last of two members of one name counts, and depth has no limit.

use std::collections::HashMap;

use serde_json::value::RawValue;

/// The text of a JSON value that is parsed only where somebody looks, so what is beside the path costs a scan and no memory.
#[derive(Clone, Copy)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// Wraps the text of a JSON value.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// A member of an object; null when there is none, or no object.
    pub fn get(self, name: &str) -> Self {
        let members: HashMap<String, &RawValue> = serde_json::from_str(self.0).unwrap_or_default();
        Self(members.get(name).map_or("null", |raw| raw.get()))
    }

    /// The items of an array; none when it is no array.
    pub fn items(self) -> impl Iterator<Item = Self> {
        let items: Vec<&'a RawValue> = serde_json::from_str(self.0).unwrap_or_default();
        items.into_iter().map(|raw| Self(raw.get()))
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// The text of a string.
    pub fn text(self) -> Option<String> {
        serde_json::from_str(self.0).ok()
    }

    /// A number, also one that was sent as a string.
    pub fn number(self) -> Option<f64> {
        serde_json::from_str(self.0).ok().or_else(|| self.text()?.parse().ok())
    }
}
