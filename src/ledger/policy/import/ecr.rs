//! Amazon ECR: `aws ecr describe-repositories`.
//!
//! Immutable means there that a tag can't be overwritten; it can be deleted, and then pushed anew. The only wildcard of an exclusion
//! filter is `*`.

use serde::Deserialize;

use super::{ImportError, Imported, Place, grouped, parse, rule, words};

const EXPECTED: &str = "what aws ecr describe-repositories prints";

#[derive(Deserialize)]
struct Export {
    repositories: Vec<Repository>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Repository {
    repository_name: String,
    repository_uri: String,
    image_tag_mutability: String,
    #[serde(default)]
    image_tag_mutability_exclusion_filters: Vec<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    filter: String,
    filter_type: String,
}

pub(super) fn import(json: &str, _place: &Place) -> Result<Imported, ImportError> {
    let (mut rules, mut notes) = (Vec::new(), Vec::new());
    for repository in parse::<Export>(json, EXPECTED)?.repositories {
        let Repository { repository_name: name, repository_uri, image_tag_mutability, .. } = &repository;
        let Some(registry) = repository_uri.strip_suffix(name).and_then(|registry| registry.strip_suffix('/')) else {
            let problem = format!("the repositoryUri {repository_uri:?} does not end in the repositoryName {name:?}");
            return Err(ImportError::Form { expected: EXPECTED, problem });
        };
        let mut filters = Vec::new();
        for Filter { filter, filter_type } in &repository.image_tag_mutability_exclusion_filters {
            if filter_type != "WILDCARD" {
                let problem = format!("{name} has an exclusion filter of type {filter_type:?}; only WILDCARD is known");
                return Err(ImportError::Beyond(problem));
            }
            filters.push(filter.clone());
        }
        let mut rule = rule(format!("ecr/{name}"), registry, std::slice::from_ref(name));
        rule.forbid = words(&["overwrite"]);
        match (image_tag_mutability.as_str(), filters.is_empty()) {
            ("MUTABLE", true) => {
                notes.push(format!("the tags of {name} are mutable"));
                continue;
            }
            ("IMMUTABLE", true) => {}
            ("IMMUTABLE_WITH_EXCLUSION", false) => rule.tags_excluding = Some(filters),
            ("MUTABLE_WITH_EXCLUSION", false) => rule.tags = Some(filters),
            (other, _) => {
                let count = filters.len();
                let problem = format!("{name} has the mutability {other:?} with {count} exclusion filters");
                return Err(ImportError::Beyond(problem));
            }
        }
        rules.push(rule);
    }
    Ok(Imported::new(grouped(rules), notes))
}
