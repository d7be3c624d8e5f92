//! GitLab: `GET /api/v4/projects/ID/registry/protection/tag/rules`.
//!
//! A rule without access levels makes tags immutable; one with levels says who may push and delete, which is not a policy's
//! matter. Expressions are RE2's, and looked for anywhere. They hold in all repositories of the project.

use serde::Deserialize;

use super::{ImportError, Imported, Place, parse, rule};

const EXPECTED: &str = "what GitLab answers to GET /api/v4/projects/ID/registry/protection/tag/rules";

#[derive(Deserialize)]
struct TagRule {
    id: u64,
    tag_name_pattern: String,
    minimum_access_level_for_push: Option<String>,
    minimum_access_level_for_delete: Option<String>,
}

pub(super) fn import(json: &str, place: &Place) -> Result<Imported, ImportError> {
    let registry =
        place.registry("GitLab's export does not say where it is from: name its registry with --registry")?;
    let project = place.under("GitLab's export does not say which project it is of: name its path with --under")?;
    let (mut rules, mut notes) = (Vec::new(), Vec::new());
    for exported in parse::<Vec<TagRule>>(json, EXPECTED)? {
        let TagRule { id, tag_name_pattern, minimum_access_level_for_push, minimum_access_level_for_delete } = exported;
        if minimum_access_level_for_push.is_some() || minimum_access_level_for_delete.is_some() {
            notes.push(format!(
                "rule {id} ({tag_name_pattern}) says who may push and delete, which is for principals to say, and is left out"
            ));
            continue;
        }
        let repositories = [project.to_owned(), format!("{project}/**")];
        let mut rule = rule(format!("gitlab/{project}/{id}"), &registry, &repositories);
        rule.tags_regex = Some(vec![tag_name_pattern]);
        rules.push(rule);
    }
    Ok(Imported::new(rules, notes))
}
