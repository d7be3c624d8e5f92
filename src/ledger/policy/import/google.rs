//! Google Artifact Registry: `gcloud artifacts repositories list --format=json`, or `GET /v1/projects/PROJECT/locations/LOCATION/repositories`.
//!
//! A repository has one flag, `dockerConfig.immutableTags`: its tags may be created, but not moved or deleted.

use serde::Deserialize;

use super::{ImportError, Imported, Place, grouped, parse, rule};

const EXPECTED: &str = "what gcloud artifacts repositories list --format=json prints";

#[derive(Deserialize)]
#[serde(untagged)]
enum Export {
    Listed(Vec<Repository>),
    Answered { repositories: Vec<Repository> },
    One(Box<Repository>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Repository {
    name: String,
    format: String,
    docker_config: Option<DockerConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DockerConfig {
    #[serde(default)]
    immutable_tags: bool,
}

pub(super) fn import(json: &str, _place: &Place) -> Result<Imported, ImportError> {
    let (mut rules, mut notes) = (Vec::new(), Vec::new());
    let repositories = match parse(json, EXPECTED)? {
        Export::Listed(repositories) | Export::Answered { repositories } => repositories,
        Export::One(repository) => vec![*repository],
    };
    for repository in repositories {
        let name = &repository.name;
        if repository.format != "DOCKER" {
            notes.push(format!("{name} holds no container images, and is left out"));
        } else if repository.docker_config.is_some_and(|config| config.immutable_tags) {
            let ["projects", project, "locations", location, "repositories", id] = *name.split('/').collect::<Vec<_>>()
            else {
                let problem = format!("{name:?} is not projects/PROJECT/locations/LOCATION/repositories/REPOSITORY");
                return Err(ImportError::Form { expected: EXPECTED, problem });
            };
            let registry = format!("{location}-docker.pkg.dev");
            // A project in a domain, example.com:project, is a folder in the names of images.
            let path = format!("{}/{id}", project.replace(':', "/"));
            rules.push(rule(format!("google/{path}"), &registry, &[format!("{path}/**")]));
        } else {
            notes.push(format!("the tags of {name} are mutable"));
        }
    }
    Ok(Imported::new(grouped(rules), notes))
}
