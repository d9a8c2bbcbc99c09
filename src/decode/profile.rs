//! What a profile is: a shape of messages, how it is recognized, and how its elements are read.
//!
//! A new profile is a file of its own and a line in [`PROFILES`].

use super::elements::{Elements, Path};
use super::object::Object;
use super::settings::{Format, Settings, Target};
use super::{bar, metrics, quote};
use crate::record::Record;

/// All profiles. Of several that recognize an object the first reads it.
const PROFILES: &[Profile] = &[metrics::PROFILE, bar::PROFILE, quote::PROFILE];

/// A shape of messages.
pub(super) struct Profile {
    /// Its name in the settings.
    pub format: Format,
    /// Where its rows go.
    pub target: Target,
    /// Whether an object has this shape. Not empty, and asked of every message: cheap.
    pub recognizes: fn(&Object<'_>, &Settings) -> bool,
    /// Reads an object that has this shape: at least one row, dead letter or skip.
    pub read: for<'t> fn(&Context<'_, 't>, &Object<'t>, &mut Elements<'_, 't>),
}

/// What is known of an object beside its text.
pub(super) struct Context<'c, 't> {
    /// The record it is in; its value can be an envelope around the object.
    pub record: &'c Record<'t>,
    /// How its topic is read.
    pub settings: &'c Settings,
    /// Where it is in the record's value.
    pub path: &'c Path<'c>,
}

/// The profile that reads an object, if there is one.
pub(super) fn find(object: &Object<'_>, settings: &Settings) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| {
        let is_candidate = match settings.format {
            Format::Auto => settings.target == Target::Auto || settings.target == profile.target,
            named => named == profile.format,
        };
        is_candidate && (profile.recognizes)(object, settings)
    })
}
