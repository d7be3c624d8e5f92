//! Nexus Repository: `GET /service/rest/v1/repositories/docker/hosted/NAME`, or all settings: `GET /service/rest/v1/repositorySettings`.
//!
//! `ALLOW_ONCE` forbids to redeploy a tag, with `latestPolicy` any but `latest`; `DENY` makes a repository read-only. What is deleted
//! may be deployed anew.

use serde::Deserialize;

use super::{ImportError, Imported, Place, parse, rule, words};

const EXPECTED: &str = "what Nexus answers to GET /service/rest/v1/repositories/docker/hosted/NAME";

#[derive(Deserialize)]
#[serde(untagged)]
enum Export {
    All(Vec<Repository>),
    One(Box<Repository>),
}

#[derive(Deserialize)]
struct Repository {
    name: String,
    format: String,
    r#type: String,
    storage: Option<Storage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Storage {
    write_policy: Option<String>,
    #[serde(default)]
    latest_policy: Option<bool>,
}

pub(super) fn import(json: &str, place: &Place) -> Result<Imported, ImportError> {
    let registry =
        place.registry("Nexus' export does not say under which name images are pulled: name it with --registry")?;
    let repositories = [place.under.as_ref().map_or("**".to_owned(), |under| format!("{under}/**"))];
    let (mut rules, mut notes, mut docker) = (Vec::new(), Vec::new(), Vec::new());
    let exported = match parse(json, EXPECTED)? {
        Export::All(all) => all,
        Export::One(one) => vec![*one],
    };
    for Repository { name, format, r#type, storage } in exported {
        if (format.as_str(), r#type.as_str()) != ("docker", "hosted") {
            notes.push(format!("{name} is no hosted repository of container images, and is left out"));
            continue;
        }
        let storage =
            storage.ok_or_else(|| ImportError::Beyond(format!("{name} does not say its storage settings")))?;
        let policy = storage.write_policy.unwrap_or_default().to_ascii_uppercase();
        let mut rule = rule(format!("nexus/{name}"), &registry, &repositories);
        match policy.as_str() {
            "ALLOW" => {
                notes.push(format!("the tags of {name} are mutable"));
                continue;
            }
            "ALLOW_ONCE" => rule.forbid = words(&["overwrite"]),
            "DENY" => rule.forbid = words(&["create", "overwrite", "recreate", "delete"]),
            other => return Err(ImportError::Beyond(format!("{name} has the write policy {other:?}"))),
        }
        if policy == "ALLOW_ONCE" && storage.latest_policy == Some(true) {
            let mut latest = super::rule(format!("nexus/{name}/latest"), &registry, &repositories);
            (latest.tags, latest.allow) = (words(&["latest"]), words(&["overwrite"]));
            rules.push(latest);
        }
        docker.push(name);
        rules.push(rule);
    }
    if docker.len() > 1 {
        let problem = format!(
            "{} are different repositories, and the export does not say under which names their images are pulled: import each by itself",
            docker.join(" and ")
        );
        return Err(ImportError::Beyond(problem));
    }
    Ok(Imported::new(rules, notes))
}
