//! Docker Hub: `GET /v2/namespaces/NAMESPACE/repositories/REPOSITORY`, whose `immutable_tags_settings` has regular expressions.
//!
//! They follow Go's `regexp`, which is RE2, and which looks for a match anywhere.

use serde::Deserialize;

use super::{ImportError, Imported, Place, parse, rule};

const EXPECTED: &str = "what Docker Hub answers to GET /v2/namespaces/NAMESPACE/repositories/REPOSITORY";

#[derive(Deserialize)]
struct Repository {
    namespace: String,
    name: String,
    immutable_tags_settings: Settings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    enabled: bool,
    #[serde(default)]
    rules: Vec<String>,
}

pub(super) fn import(json: &str, _place: &Place) -> Result<Imported, ImportError> {
    let Repository { namespace, name, immutable_tags_settings: settings } = parse(json, EXPECTED)?;
    let repository = format!("{namespace}/{name}");
    if !settings.enabled {
        return Ok(Imported::new(Vec::new(), vec![format!("the tags of {repository} are mutable")]));
    }
    if settings.rules.is_empty() {
        let problem = format!("immutable tags of {repository} are enabled without a rule that says which");
        return Err(ImportError::Beyond(problem));
    }
    let mut rule = rule(format!("dockerhub/{repository}"), "docker.io", &[repository]);
    rule.tags_regex = Some(settings.rules);
    Ok(Imported::new(vec![rule], Vec::new()))
}
