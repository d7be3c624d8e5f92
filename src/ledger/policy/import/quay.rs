//! Quay: `GET /api/v1/organization/ORGANISATION/immutabilitypolicy/` or `GET /api/v1/repository/REPOSITORY/immutabilitypolicy/`.
//!
//! An expression is Python's, and has to match from the beginning of a tag on (`re.match`). What both languages take, and a tag could
//! tell apart, is refused.

use regex::Regex;
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
    if let Some(policy) = policies.iter().find(|policy| is_ambiguous(&policy.tag_pattern)) {
        return Err(ImportError::Beyond(format!(
            "{:?} of policy {} has {{,2}}, {{02}}, [:alpha:] or \\12, which means one thing at Quay (Python) and another in a policy (RE2); \
             write it out in the export",
            policy.tag_pattern, policy.uuid
        )));
    }
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

/// In Python `{,2}`, `{02}` and `{1,02}` repeat, `[[:alpha:]]` is a set of signs and letters, and `\12` may refer to a group.
fn is_ambiguous(expression: &str) -> bool {
    let ambiguous = Regex::new(r"\{(,|0[0-9]|[0-9]+,0[0-9])|\[:.*:\]|\\[1-7][0-7]").expect("an expression");
    ambiguous.is_match(expression)
}
