//! Azure Container Registry: `GET /acr/v1/REPOSITORY/_tags`, and `GET /acr/v1/REPOSITORY` for the lock of the repository itself.
//!
//! A tag that is not `writeEnabled` can't be overwritten, one that is not `deleteEnabled` can't be deleted. To a repository that
//! is not `writeEnabled` nothing can be pushed.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ImportError, Imported, Place, parse, rule, words};

const EXPECTED: &str =
    "what Azure Container Registry answers to GET /acr/v1/REPOSITORY/_tags or GET /acr/v1/REPOSITORY";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Export {
    registry: String,
    image_name: String,
    tags: Option<Vec<Tag>>,
    changeable_attributes: Option<Attributes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tag {
    name: String,
    changeable_attributes: Attributes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    delete_enabled: bool,
    write_enabled: bool,
}

pub(super) fn import(json: &str, _place: &Place) -> Result<Imported, ImportError> {
    let Export { registry, image_name, tags, changeable_attributes } = parse(json, EXPECTED)?;
    let (mut rules, mut notes) = (Vec::new(), Vec::new());
    let mut add = |what: &str, forbidden: &[&str], tags: Option<Vec<String>>| {
        let mut rule = rule(format!("acr/{image_name}/{what}"), &registry, std::slice::from_ref(&image_name));
        (rule.tags, rule.forbid) = (tags, words(forbidden));
        rules.push(rule);
    };
    if let Some(attributes) = &changeable_attributes {
        if !attributes.write_enabled {
            add("no-writes", &["create", "overwrite", "recreate"], None);
        }
        if !attributes.delete_enabled {
            add("no-deletes", &["delete"], None);
        }
    }
    // Tags with the same locks share a rule.
    let mut locked: BTreeMap<(bool, bool), Vec<String>> = BTreeMap::new();
    for tag in tags.into_iter().flatten() {
        let Attributes { write_enabled, delete_enabled } = tag.changeable_attributes;
        locked.entry((write_enabled, delete_enabled)).or_default().push(tag.name);
    }
    for (locks, tags) in locked {
        match locks {
            (false, false) => add("locked", &["overwrite", "delete"], Some(tags)),
            (false, true) => add("write-locked", &["overwrite"], Some(tags)),
            (true, false) => add("delete-locked", &["delete"], Some(tags)),
            (true, true) => {}
        }
    }
    if rules.is_empty() {
        notes.push(format!("nothing of {image_name} is locked"));
    }
    if changeable_attributes.is_none() {
        notes.push(format!(
            "only this page of the tags of {image_name} was read; import every page, following the Link header"
        ));
    }
    Ok(Imported::new(rules, notes))
}
