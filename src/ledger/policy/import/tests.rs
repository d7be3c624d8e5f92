//! Exports of the shapes that the registries document, and what is not one.

use super::{Format, Imported, Place, import};
use crate::ledger::names::{Registry, Repository, TagRef};
use crate::ledger::policy::{Change, Outlook, Policy};

fn place(registry: &str, under: &str) -> Place {
    let registry: Registry = registry.parse().expect("a registry");
    let under = (!under.is_empty()).then(|| Repository::parse(&registry, under).expect("a repository"));
    Place { registry: Some(registry), under }
}

fn read(format: Format, json: &str, place: &Place) -> (Imported, Policy) {
    let imported = import(format, json, place).unwrap_or_else(|error| panic!("{format:?}: {error}"));
    let policy = Policy::parse(&imported.document.to_text()).expect("it was checked");
    (imported, policy)
}

/// The rule that forbids to overwrite the tag, and the one that forbids to delete it.
fn forbidden(policy: &Policy, tag: &str) -> [String; 2] {
    let tag: TagRef = tag.parse().expect("a reference");
    [Change::Overwrite, Change::Delete].map(|change| match policy.outlook(&tag, change) {
        Outlook::ForbiddenBy(rule) => rule.to_owned(),
        Outlook::Allowed | Outlook::AllowedBy(_) => String::new(),
        other @ Outlook::NeedsPromotion(_) => panic!("{other:?}"),
    })
}

fn both(rule: &str) -> [String; 2] {
    [rule.to_owned(), rule.to_owned()]
}

fn neither() -> [String; 2] {
    both("")
}

#[test]
fn harbor_rules_hold_within_their_project() {
    let json = r#"[
        {"id": 1, "disabled": false, "action": "immutable", "template": "immutable_template", "priority": 0,
         "tag_selectors": [{"kind": "doublestar", "decoration": "matches", "pattern": "v*", "extras": "{\"untagged\":false}"}],
         "scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}]}},
        {"id": 2, "action": "immutable",
         "tag_selectors": [{"kind": "doublestar", "decoration": "excludes", "pattern": "{latest,dev-*}"}],
         "scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoExcludes", "pattern": "{web,sandbox/**}"}]}},
        {"id": 3, "disabled": true, "action": "immutable",
         "tag_selectors": [{"kind": "doublestar", "decoration": "matches", "pattern": "**"}],
         "scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}]}}]"#;
    let (imported, policy) = read(Format::Harbor, json, &place("harbor.example", "team"));
    assert_eq!(imported.notes, ["rule 3 is disabled, and left out"]);
    assert_eq!(forbidden(&policy, "harbor.example/team/web:v1"), both("harbor/team/1"));
    assert_eq!(forbidden(&policy, "harbor.example/team/web:x"), neither());
    assert_eq!(forbidden(&policy, "harbor.example/team/api:x"), both("harbor/team/2"));
    assert_eq!(forbidden(&policy, "harbor.example/team/api:dev-1"), neither());
    assert_eq!(forbidden(&policy, "harbor.example/team/sandbox/a:x"), neither());
    assert_eq!(forbidden(&policy, "harbor.example/other/web:v1"), neither());
    assert_eq!(forbidden(&policy, "other.example/team/web:v1"), neither());
}

#[test]
fn docker_hub_expressions_are_found_anywhere() {
    let json = r#"{"user": "acme", "name": "app", "namespace": "acme", "is_private": false, "star_count": 0,
        "immutable_tags_settings": {"enabled": true, "rules": ["^[0-9]+\\.[0-9]+$", "stable"]}}"#;
    let (_, policy) = read(Format::DockerHub, json, &Place::default());
    assert_eq!(forbidden(&policy, "docker.io/acme/app:1.0"), both("dockerhub/acme/app"));
    assert_eq!(forbidden(&policy, "docker.io/acme/app:very-stable-1"), both("dockerhub/acme/app"));
    assert_eq!(forbidden(&policy, "docker.io/acme/app:1.0-rc"), neither());
    let odd = json.replace("stable", r"(?i)\\bRC\\b|^[[:alpha:]]+(?P<build>-\\d{2,})?\\z|[]{}]");
    let (_, policy) = read(Format::DockerHub, &odd, &Place::default());
    let of = |tag: &str| forbidden(&policy, &format!("docker.io/acme/app:{tag}"));
    assert_eq!((of("v1-rc.2"), of("main-17")), (both("dockerhub/acme/app"), both("dockerhub/acme/app")));
    assert_eq!((of("v1-rc2"), of("main-1")), (neither(), neither()));
    let mutable = json.replace("true, \"rules\"", "false, \"rules\"");
    let (imported, policy) = read(Format::DockerHub, &mutable, &Place::default());
    assert_eq!((policy.rules().len(), imported.notes.len()), (0, 1));
}

#[test]
fn quay_expressions_match_from_the_beginning() {
    let json = r#"{"policies": [
        {"uuid": "4d1b", "tagPattern": "v[0-9]|rel-", "tagPatternMatches": true},
        {"uuid": "9c77", "tagPattern": "(dev|test)-.*", "tagPatternMatches": false}]}"#;
    let (_, policy) = read(Format::Quay, json, &place("quay.io", "team/app"));
    assert_eq!(forbidden(&policy, "quay.io/team/app:v1.0"), both("quay/4d1b"));
    assert_eq!(forbidden(&policy, "quay.io/team/app:xv1"), both("quay/9c77"));
    assert_eq!(forbidden(&policy, "quay.io/team/app:dev-v1"), neither());
    assert_eq!(forbidden(&policy, "quay.io/team/app2:v1"), neither());
    let (_, policy) = read(Format::Quay, json, &place("quay.io", "team"));
    assert_eq!(forbidden(&policy, "quay.io/team/app2:v1"), both("quay/4d1b"));
    let json = r#"{"policies": [{"uuid": "a", "tagPattern": "(?i)v1|rc\\b"}]}"#;
    let (_, policy) = read(Format::Quay, json, &place("quay.io", "team"));
    let of = |tag: &str| forbidden(&policy, &format!("quay.io/team/app:{tag}"));
    assert_eq!((of("V1.0"), of("RC-1")), (both("quay/a"), both("quay/a")));
    assert_eq!((of("xV1"), of("xrc"), of("RC1")), (neither(), neither(), neither()));
}

#[test]
fn gitlab_rules_without_access_levels_are_those_that_make_immutable() {
    let json = r#"[
        {"id": 1, "project_id": 7, "tag_name_pattern": "^v\\d+$", "minimum_access_level_for_push": null,
         "minimum_access_level_for_delete": null},
        {"id": 2, "project_id": 7, "tag_name_pattern": "latest", "minimum_access_level_for_push": "owner",
         "minimum_access_level_for_delete": "owner"}]"#;
    let (imported, policy) = read(Format::GitLab, json, &place("registry.gitlab.example", "group/project"));
    assert_eq!(imported.notes.len(), 1);
    for repository in ["group/project", "group/project/web/api"] {
        let tag = format!("registry.gitlab.example/{repository}:v1");
        assert_eq!(forbidden(&policy, &tag), both("gitlab/group/project/1"));
        assert_eq!(forbidden(&policy, &tag.replace("v1", "latest")), neither());
    }
}

#[test]
fn google_repositories_have_one_flag() {
    let json = r#"[
        {"name": "projects/acme/locations/europe-west3/repositories/prod", "format": "DOCKER",
         "dockerConfig": {"immutableTags": true}, "mode": "STANDARD_REPOSITORY"},
        {"name": "projects/acme/locations/europe-west3/repositories/dev", "format": "DOCKER", "dockerConfig": {}},
        {"name": "projects/acme/locations/europe-west3/repositories/npm", "format": "NPM"}]"#;
    let (imported, policy) = read(Format::Google, json, &Place::default());
    assert_eq!(imported.notes.len(), 2);
    let registry = "europe-west3-docker.pkg.dev";
    assert_eq!(forbidden(&policy, &format!("{registry}/acme/prod/app:v1")), both("google/acme/prod"));
    assert_eq!(forbidden(&policy, &format!("{registry}/acme/dev/app:v1")), neither());
    assert_eq!(read(Format::Google, &format!("{{\"repositories\": {json}}}"), &Place::default()).1, policy);
}

#[test]
fn ecr_repositories_are_immutable_with_and_without_exclusions() {
    let repository = |name: &str, mutability: &str, filters: &str| {
        format!(
            r#"{{"repositoryArn": "arn:aws:ecr:eu-central-1:1:repository/{name}", "registryId": "1", "repositoryName": "{name}",
                "repositoryUri": "1.dkr.ecr.eu-central-1.amazonaws.com/{name}", "imageTagMutability": "{mutability}"{filters}}}"#
        )
    };
    let filters = r#", "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "dev-*"}]"#;
    let json = format!(
        "{{\"repositories\": [{}, {}, {}, {}]}}",
        repository("open", "MUTABLE", ""),
        repository("shut", "IMMUTABLE", ""),
        repository("team/most", "IMMUTABLE_WITH_EXCLUSION", filters),
        repository("team/few", "MUTABLE_WITH_EXCLUSION", filters)
    );
    let (imported, policy) = read(Format::Ecr, &json, &Place::default());
    assert_eq!(imported.notes, ["the tags of open are mutable"]);
    let of = |name: &str| forbidden(&policy, &format!("1.dkr.ecr.eu-central-1.amazonaws.com/{name}"));
    let overwrite = |rule: &str| [rule.to_owned(), String::new()];
    assert_eq!(of("open:v1"), neither());
    assert_eq!(of("shut:v1"), overwrite("ecr/shut"));
    assert_eq!((of("team/most:v1"), of("team/most:dev-1")), (overwrite("ecr/team/most"), neither()));
    assert_eq!((of("team/few:v1"), of("team/few:dev-1")), (neither(), overwrite("ecr/team/few")));
}

#[test]
fn repositories_with_the_same_settings_share_a_rule_however_many_and_however_long_their_names_are() {
    let registry = "1.dkr.ecr.eu-central-1.amazonaws.com";
    let filters = r#", "imageTagMutabilityExclusionFilters": [{"filterType": "WILDCARD", "filter": "dev-*"}]"#;
    let repository = |name: &str, mutability: &str, filters: &str| {
        format!(
            r#"{{"repositoryName": "{name}", "repositoryUri": "{registry}/{name}", "imageTagMutability": "{mutability}"{filters}}}"#
        )
    };
    let many = (0..1500).map(|number| repository(&format!("team-{number}/app"), "IMMUTABLE", ""));
    let most = (0..2).map(|number| repository(&format!("most-{number}"), "IMMUTABLE_WITH_EXCLUSION", filters));
    let json = format!("{{\"repositories\": [{}]}}", many.chain(most).collect::<Vec<_>>().join(","));
    let (imported, policy) = read(Format::Ecr, &json, &Place::default());
    let ids: Vec<&str> = imported.document.rule.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids, ["ecr/team-0/app+1499", "ecr/most-0+1"]);
    let overwrite = |name: &str| forbidden(&policy, &format!("{registry}/{name}"))[0].clone();
    assert_eq!((overwrite("team-0/app:dev-1"), overwrite("team-1499/app:v1")), (ids[0].into(), ids[0].into()));
    assert_eq!((overwrite("most-1:v1"), overwrite("most-1:dev-1")), (ids[1].into(), String::new()));
    assert_eq!(overwrite("team-1500/app:v1"), "");
    // Names are longer than ids may be.
    let long = |end: &str| format!("{}/{end}", "a".repeat(200));
    let [one, other] = [("one", "IMMUTABLE", ""), ("other", "MUTABLE_WITH_EXCLUSION", filters)]
        .map(|(end, mutability, filters)| repository(&long(end), mutability, filters));
    let json = format!("{{\"repositories\": [{one}, {other}]}}");
    let (imported, policy) = read(Format::Ecr, &json, &Place::default());
    let [one, other] = [&imported.document.rule[0].id, &imported.document.rule[1].id];
    assert!(one.len() == 128 && one.starts_with("ecr/aaa") && one != other, "{one} {other}");
    assert_eq!(&forbidden(&policy, &format!("{registry}/{}:v1", long("one")))[0], one);
    let google = |number: usize| {
        format!(
            r#"{{"name": "projects/acme/locations/eu/repositories/r{number}", "format": "DOCKER", "dockerConfig": {{"immutableTags": true}}}}"#
        )
    };
    let json = format!("[{}]", (0..1500).map(google).collect::<Vec<_>>().join(","));
    let (imported, policy) = read(Format::Google, &json, &Place::default());
    assert_eq!(imported.document.rule.len(), 1);
    assert_eq!(forbidden(&policy, "eu-docker.pkg.dev/acme/r1499/app:v1"), both("google/acme/r0+1499"));
}

#[test]
fn acr_locks_are_by_tag_and_by_repository() {
    let tag = |name: &str, write: bool, delete: bool| {
        format!(
            r#"{{"name": "{name}", "digest": "sha256:0", "signed": false, "changeableAttributes":
                {{"deleteEnabled": {delete}, "writeEnabled": {write}, "readEnabled": true, "listEnabled": true}}}}"#
        )
    };
    let tags = [
        tag("v1", false, false),
        tag("v2", false, false),
        tag("w", false, true),
        tag("d", true, false),
        tag("x", true, true),
    ];
    let json = format!(r#"{{"registry": "acme.azurecr.io", "imageName": "team/app", "tags": [{}]}}"#, tags.join(","));
    let (imported, policy) = read(Format::Acr, &json, &Place::default());
    let page = "only this page of the tags of team/app was read; import every page, following the Link header";
    assert_eq!(imported.notes, [page]);
    let of = |policy: &Policy, tag: &str| forbidden(policy, &format!("acme.azurecr.io/team/app:{tag}"));
    assert_eq!(of(&policy, "v2"), both("acr/team/app/locked"));
    assert_eq!(of(&policy, "w"), ["acr/team/app/write-locked".to_owned(), String::new()]);
    assert_eq!(of(&policy, "d"), [String::new(), "acr/team/app/delete-locked".to_owned()]);
    assert_eq!(of(&policy, "x"), neither());
    let json = r#"{"registry": "acme.azurecr.io", "imageName": "team/app", "manifestCount": 1, "tagCount": 1, "changeableAttributes":
        {"deleteEnabled": true, "listEnabled": true, "readEnabled": true, "writeEnabled": false}}"#;
    let (imported, policy) = read(Format::Acr, json, &Place::default());
    assert!(imported.notes.is_empty(), "{:?}", imported.notes);
    let new = "acme.azurecr.io/team/app:new".parse().expect("a reference");
    assert_eq!(policy.outlook(&new, Change::Create), Outlook::ForbiddenBy("acr/team/app/no-writes"));
    assert_eq!(policy.outlook(&new, Change::Delete), Outlook::Allowed);
    let json = format!(r#"{{"registry": "acme.azurecr.io", "imageName": "a", "tags": [{}]}}"#, tag("x", true, true));
    let (imported, _) = read(Format::Acr, &json, &Place::default());
    let [unlocked, page] = imported.notes.as_slice() else { panic!("{:?}", imported.notes) };
    assert_eq!(unlocked, "nothing of a is locked");
    assert!(page.starts_with("only this page of the tags of a was read"), "{page}");
}

#[test]
fn nexus_write_once_lets_latest_be_redeployed_if_it_says_so() {
    let json = |policy: &str, latest: &str| {
        format!(
            r#"{{"name": "docker-hosted", "url": "http://nexus.example/repository/docker-hosted", "online": true,
                "storage": {{"blobStoreName": "default", "strictContentTypeValidation": true, "writePolicy": "{policy}"{latest}}},
                "cleanup": null, "docker": {{"v1Enabled": false}}, "format": "docker", "type": "hosted"}}"#
        )
    };
    let at = place("nexus.example:5000", "");
    let (_, policy) = read(Format::Nexus, &json("ALLOW_ONCE", ", \"latestPolicy\": true"), &at);
    let overwrite = [String::from("nexus/docker-hosted"), String::new()];
    assert_eq!(forbidden(&policy, "nexus.example:5000/team/app:v1"), overwrite);
    assert_eq!(forbidden(&policy, "nexus.example:5000/team/app:latest"), neither());
    let (_, policy) = read(Format::Nexus, &json("allow_once", ""), &at);
    assert_eq!(forbidden(&policy, "nexus.example:5000/team/app:latest"), overwrite);
    let (_, policy) = read(Format::Nexus, &json("DENY", ""), &at);
    assert_eq!(forbidden(&policy, "nexus.example:5000/app:v1"), both("nexus/docker-hosted"));
    let (imported, _) = read(Format::Nexus, &format!("[{}]", json("ALLOW", "")), &at);
    assert_eq!(imported.notes, ["the tags of docker-hosted are mutable"]);
}

#[test]
fn what_is_no_export_or_says_what_a_policy_cannot_is_refused_with_the_reason() {
    let at = place("r.example", "team");
    let selector = |kind: &str, decoration: &str| {
        format!(
            r#"[{{"id": 1, "tag_selectors": [{{"kind": "{kind}", "decoration": "{decoration}", "pattern": "v*"}}],
                "scope_selectors": {{"repository": [{{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}}]}}}}]"#
        )
    };
    let harbor = |kind: &str, decoration: &str| (Format::Harbor, selector(kind, decoration));
    let dockerhub = |settings: &str| {
        let json = format!(r#"{{"name": "a", "namespace": "b", "immutable_tags_settings": {settings}}}"#);
        (Format::DockerHub, json)
    };
    let quay =
        |pattern: &str| (Format::Quay, format!(r#"{{"policies": [{{"uuid": "u", "tagPattern": "{pattern}"}}]}}"#));
    let ecr = |mutability: &str| {
        let json = format!(
            r#"{{"repositories": [{{"repositoryName": "a", "repositoryUri": "r/a", "imageTagMutability": "{mutability}"}}]}}"#
        );
        (Format::Ecr, json)
    };
    for ((format, json), words) in [
        ((Format::Harbor, "{}".to_owned()), "not what Harbor answers to GET /api/v2.0/projects"),
        (harbor("regex", "matches"), "of kind \"regex\", not doublestar"),
        (harbor("doublestar", "nearly"), "selects tags by \"nearly\""),
        ((Format::Harbor, selector("doublestar", "matches").replace("repository", "project")), "has 0 selectors"),
        (dockerhub(r#"{"enabled": true, "rules": []}"#), "without a rule"),
        (dockerhub(r#"{"enabled": true, "rules": ["a"], "mode": "x"}"#), "unknown field `mode`"),
        (dockerhub(r#"{"enabled": true, "rules": ["(?x)v1"]}"#), "has a group with an option"),
        (quay("v(?=1)"), "looks ahead"),
        (quay("v{,2}"), "one thing at Quay (Python) and another in a policy (RE2)"),
        (quay("v1{02}"), "one thing at Quay"),
        (quay("v1{1,02}"), "one thing at Quay"),
        (quay("[[:digit:]]"), "one thing at Quay"),
        (quay(r"\\12"), "one thing at Quay"),
        (quay("v[0-9"), "has a set that does not end"),
        (ecr("FROZEN"), "the mutability \"FROZEN\" with 0 exclusion filters"),
        (ecr("IMMUTABLE_WITH_EXCLUSION"), "\"IMMUTABLE_WITH_EXCLUSION\" with 0 exclusion filters"),
        ((Format::Google, r#"{"a": 1}"#.to_owned()), "not what gcloud artifacts repositories list"),
        (
            (Format::Nexus, r#"{"name": "a", "format": "docker", "type": "hosted"}"#.to_owned()),
            "does not say its storage",
        ),
        ((Format::Acr, r#"{"tags": []}"#.to_owned()), "missing field `registry`"),
        ((Format::GitLab, "[{}]".to_owned()), "missing field `id`"),
        ((Format::GitLab, "nothing".to_owned()), "not what GitLab answers"),
    ] {
        let error = import(format, &json, &at).expect_err(words).to_string();
        assert!(error.contains(words), "{format:?}: {error}");
    }
    for format in [Format::Harbor, Format::Quay, Format::GitLab, Format::Nexus] {
        let error = import(format, "[]", &Place::default()).expect_err("placeless").to_string();
        assert!(error.contains("--registry"), "{format:?}: {error}");
    }
}
