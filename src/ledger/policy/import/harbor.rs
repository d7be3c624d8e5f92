//! Harbor, and STACKIT's registry: `GET /api/v2.0/projects/PROJECT/immutabletagrules`.
//!
//! Patterns are doublestar's, those of repositories without the project. Of several selectors Harbor looks at the first only.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ImportError, Imported, Place, parse, rule};

const EXPECTED: &str = "what Harbor answers to GET /api/v2.0/projects/PROJECT/immutabletagrules";

#[derive(Deserialize)]
struct ImmutableRule {
    id: i64,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    action: String,
    tag_selectors: Vec<Selector>,
    scope_selectors: BTreeMap<String, Vec<Selector>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    kind: String,
    decoration: String,
    #[serde(default)]
    pattern: String,
    /// About artifacts without a tag, which a policy of tags is not about.
    #[serde(default, rename = "extras")]
    _extras: Option<String>,
}

pub(super) fn import(json: &str, place: &Place) -> Result<Imported, ImportError> {
    let registry = place.registry("Harbor's export does not say where it is from: name it with --registry")?;
    let project = place.under("Harbor's export does not say which project it is of: name it with --under")?;
    let (mut rules, mut notes) = (Vec::new(), Vec::new());
    for exported in parse::<Vec<ImmutableRule>>(json, EXPECTED)? {
        let id = exported.id;
        if exported.disabled {
            notes.push(format!("rule {id} is disabled, and left out"));
            continue;
        }
        if !matches!(exported.action.as_str(), "" | "immutable") {
            return Err(ImportError::Beyond(format!("rule {id} has the action {:?}, not immutable", exported.action)));
        }
        let mut scopes = exported.scope_selectors;
        let repositories = only(id, "scope_selectors.repository", scopes.remove("repository").unwrap_or_default())?;
        let tags = only(id, "tag_selectors", exported.tag_selectors)?;
        if let Some(other) = scopes.into_keys().next() {
            return Err(ImportError::Beyond(format!("rule {id} has a scope {other:?}; only repository is known")));
        }
        let in_project = |pattern: &str| Some(vec![format!("{project}/{pattern}")]);
        let mut rule = rule(format!("harbor/{project}/{id}"), &registry, &[format!("{project}/**")]);
        match repositories.decoration.as_str() {
            "repoMatches" if repositories.pattern.is_empty() => {}
            "repoMatches" => rule.repositories = in_project(&repositories.pattern),
            "repoExcludes" if repositories.pattern.is_empty() => {
                notes.push(format!("rule {id} excludes every repository, and is left out"));
                continue;
            }
            "repoExcludes" => rule.repositories_excluding = in_project(&repositories.pattern),
            other => return Err(ImportError::Beyond(format!("rule {id} selects repositories by {other:?}"))),
        }
        match tags.decoration.as_str() {
            "matches" if tags.pattern.is_empty() => {}
            "matches" => rule.tags = Some(vec![tags.pattern]),
            "excludes" if tags.pattern.is_empty() => {
                notes.push(format!("rule {id} excludes every tag, and is left out"));
                continue;
            }
            "excludes" => rule.tags_excluding = Some(vec![tags.pattern]),
            other => return Err(ImportError::Beyond(format!("rule {id} selects tags by {other:?}"))),
        }
        rules.push(rule);
    }
    Ok(Imported::new(rules, notes))
}

fn only(id: i64, field: &str, selectors: Vec<Selector>) -> Result<Selector, ImportError> {
    let count = selectors.len();
    let mut selectors = selectors.into_iter();
    match (selectors.next(), count) {
        (Some(selector), 1) if selector.kind == "doublestar" => Ok(selector),
        (Some(selector), 1) => {
            Err(ImportError::Beyond(format!("rule {id}: {field} is of kind {:?}, not doublestar", selector.kind)))
        }
        _ => Err(ImportError::Beyond(format!("rule {id}: {field} has {count} selectors; Harbor uses exactly one"))),
    }
}
