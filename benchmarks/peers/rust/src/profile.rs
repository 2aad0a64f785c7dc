//! An update: the fields, and what each may hold. An absent field is not a null one.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize};

type Field = Option<Option<String>>;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(non_snake_case)]
pub struct Profile {
    pub PatientId: String,
    #[serde(
        default,
        deserialize_with = "there",
        skip_serializing_if = "Option::is_none"
    )]
    FirstName: Field,
    #[serde(
        default,
        deserialize_with = "there",
        skip_serializing_if = "Option::is_none"
    )]
    LastName: Field,
    #[serde(
        default,
        deserialize_with = "there",
        skip_serializing_if = "Option::is_none"
    )]
    DateOfBirth: Field,
    #[serde(
        default,
        deserialize_with = "there",
        skip_serializing_if = "Option::is_none"
    )]
    Sex: Field,
    #[serde(
        default,
        deserialize_with = "there",
        skip_serializing_if = "Option::is_none"
    )]
    IsPregnant: Field,
    #[serde(
        default,
        deserialize_with = "there",
        skip_serializing_if = "Option::is_none"
    )]
    Email: Field,
    #[serde(
        default,
        deserialize_with = "there",
        skip_serializing_if = "Option::is_none"
    )]
    Phone: Field,
    #[serde(
        default,
        deserialize_with = "there",
        skip_serializing_if = "Option::is_none"
    )]
    Address: Field,
}

fn there<'de, D: Deserializer<'de>>(value: D) -> Result<Field, D::Error> {
    Option::deserialize(value).map(Some)
}

static EMAIL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[\w+-]+(?:\.[\w+-]+)*@(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}$").unwrap()
});

impl Profile {
    pub fn is_valid(&self) -> bool {
        is_text(&self.PatientId, 128, "")
            && !matches!(self.PatientId.as_str(), "." | "..")
            && holds(&self.FirstName, |s| is_text(s, 100, ""))
            && holds(&self.LastName, |s| is_text(s, 100, ""))
            && holds(&self.DateOfBirth, is_date)
            && holds(&self.Sex, |s| {
                matches!(s, "Female" | "Male" | "Other" | "Unknown")
            })
            && holds(&self.IsPregnant, |s| matches!(s, "True" | "False"))
            && holds(&self.Email, |s| s.len() <= 254 && EMAIL.is_match(s))
            && holds(&self.Phone, |s| is_text(s, 32, ""))
            && holds(&self.Address, |s| is_text(s, 500, "\r\n"))
    }
}

fn holds(field: &Field, check: impl Fn(&str) -> bool) -> bool {
    field
        .as_ref()
        .and_then(Option::as_ref)
        .is_none_or(|text| check(text))
}

/// Whether it has 1 to `most` characters, and no controls but those in `allowed`.
fn is_text(text: &str, most: usize, allowed: &str) -> bool {
    let is_allowed = |c: char| !c.is_control() || allowed.contains(c);
    text.chars().all(is_allowed) && (1..=most).contains(&text.chars().count())
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else {
        return false;
    };
    let number = |part: &str, length| match part.bytes().all(|c| c.is_ascii_digit()) {
        true if part.len() == length => part.parse::<usize>().ok(),
        _ => None,
    };
    let (Some(year), Some(month), Some(day)) = (number(year, 4), number(month, 2), number(day, 2))
    else {
        return false;
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if is_leap { 29 } else { 28 };
    let days = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    year >= 1 && (1..=12).contains(&month) && (1..=days[month - 1]).contains(&day)
}
