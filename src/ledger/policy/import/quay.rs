//! Quay: `GET /api/v1/organization/ORGANISATION/immutabilitypolicy/` or `GET /api/v1/repository/REPOSITORY/immutabilitypolicy/`.
//!
//! An expression is Python's, and has to match from the beginning of a tag on (`re.match`).

use serde::Deserialize;

use super::{ImportError, Imported, Place, parse, rule};

const EXPECTED: &str = "what Quay answers to GET .../immutabilitypolicy/";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policies {
    policies: Vec<ImmutabilityPolicy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ImmutabilityPolicy {
    uuid: String,
    tag_pattern: String,
    #[serde(default = "matches")]
    tag_pattern_matches: bool,
}

fn matches() -> bool {
    true
}

pub(super) fn import(json: &str, place: &Place) -> Result<Imported, ImportError> {
    let registry = place.registry("Quay's export does not say where it is from: name it with --registry")?;
    let under =
        place.under("Quay's export does not say which organisation or repository it is of: name it with --under")?;
    let repositories = if under.contains('/') { under.to_owned() } else { format!("{under}/**") };
    let Policies { policies } = parse(json, EXPECTED)?;
    let rules = policies.into_iter().map(|policy| {
        let mut rule = rule(format!("quay/{}", policy.uuid), &registry, std::slice::from_ref(&repositories));
        let tags = Some(vec![format!("^(?:{})", policy.tag_pattern)]);
        if policy.tag_pattern_matches {
            rule.tags_regex = tags
        } else {
            rule.tags_excluding_regex = tags
        }
        rule
    });
    Ok(Imported::new(rules.collect(), Vec::new()))
}
