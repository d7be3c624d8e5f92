//! One valid statement of each kind, with every field that may be set set.

use tagledger::ledger::note::Skey;
use tagledger::proto;
use tagledger::proto::statement::Kind;

/// A digest: `sha256:` and 64 times this digit.
pub(crate) fn sha256(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

/// The kinds, by the name of their field.
pub(crate) fn of_each_kind() -> Vec<(&'static str, proto::Statement)> {
    [
        ("tag_push", push()),
        ("tag_delete", delete()),
        ("manifest_delete", manifest_delete()),
        ("tag_observed", observed()),
        ("deployment", deployment()),
        ("attestation", attestation()),
        ("policy_change", policy_change()),
        ("principal_change", principal_change()),
    ]
    .map(|(name, kind)| (name, full(kind)))
    .to_vec()
}

/// A statement with this kind and all the fields that every statement may carry.
pub(crate) fn full(kind: Kind) -> proto::Statement {
    let attribute = |key: &str, value: &str| proto::Attribute { key: key.into(), value: value.into() };
    proto::Statement {
        event_id: "build-1234/push-1".into(),
        occurred_at_us: 1_767_225_600_000_000,
        actor: "robot$ci".into(),
        source: "ci.example".into(),
        ci_run: "https://ci.example/runs/1234".into(),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        attributes: vec![attribute("commit", "9f86d08"), attribute("müsli", "zähne")],
        kind: Some(kind),
    }
}

/// A push that asks.
pub(crate) fn push() -> Kind {
    Kind::TagPush(proto::TagPush {
        registry: "registry.example:5000".into(),
        repository: "team/app".into(),
        tag: "v1".into(),
        digest: sha256('a'),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        disposition: proto::Disposition::Requested.into(),
        settles: 0,
    })
}

/// A delete that tells.
pub(crate) fn delete() -> Kind {
    Kind::TagDelete(proto::TagDelete {
        registry: "docker.io".into(),
        repository: "library/nginx".into(),
        tag: "1.27".into(),
        disposition: proto::Disposition::Happened.into(),
        settles: 1,
    })
}

/// A deletion by digest that was refused.
pub(crate) fn manifest_delete() -> Kind {
    Kind::ManifestDelete(proto::ManifestDelete {
        registry: "registry.example:5000".into(),
        repository: "team/app".into(),
        digest: format!("sha512:{}", "b".repeat(128)),
        disposition: proto::Disposition::Refused.into(),
        settles: 7,
    })
}

/// A look at a tag.
pub(crate) fn observed() -> Kind {
    Kind::TagObserved(proto::TagObserved {
        registry: "[::1]:5000".into(),
        repository: "team/app".into(),
        tag: "v1".into(),
        digest: sha256('c'),
        checks_entry: 300,
        last_seen_us: 1_790_000_000_000_000,
        first_seen_us: 1_790_000_060_000_000,
    })
}

/// A container that started.
pub(crate) fn deployment() -> Kind {
    Kind::Deployment(proto::Deployment {
        environment: "prod".into(),
        cluster: "eu-1".into(),
        namespace: "shop".into(),
        workload: "checkout".into(),
        container: "web".into(),
        image: Some(proto::Image {
            registry: "registry.example:5000".into(),
            repository: "team/app".into(),
            tag: "v1".into(),
            digest: sha256('d'),
        }),
        phase: proto::deployment::Phase::Started.into(),
    })
}

/// A signature that was checked.
pub(crate) fn attestation() -> Kind {
    Kind::Attestation(proto::Attestation {
        digest: sha256('e'),
        predicate_type: "https://slsa.dev/provenance/v1".into(),
        envelope_digest: sha256('f'),
        signer: "https://ci.example/workflow".into(),
        result: proto::attestation::Result::Verified.into(),
    })
}

/// Other rules.
pub(crate) fn policy_change() -> Kind {
    let policy = "# Releases stay.\n[[rule]]\nid = \"releases\"\nregistries = [\n\t'docker.io', \"registry.example:5000\",\n]\ntags = ['v*']\n";
    let replaces = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    Kind::PolicyChange(proto::PolicyChange { policy: policy.into(), replaces: replaces.into() })
}

/// Somebody who writes and administers, with every kind of credential.
pub(crate) fn principal_change() -> Kind {
    let grant = |patterns: &[&str], kinds: &[i32]| proto::Grant {
        repositories: patterns.iter().map(|&pattern| pattern.into()).collect(),
        kinds: kinds.to_vec(),
    };
    let principal = proto::Principal {
        roles: vec![1, 2, 4],
        grants: vec![
            grant(&["docker.io/library/**", "registry.example:5000/{team,tools}/*"], &[1, 5]),
            grant(&["**"], &[]),
        ],
        requires: vec![1, 2, 3],
        token_sha256: vec![vec![1; 32], vec![2; 32]],
        certificate_names: vec!["ci.example".into(), "spiffe://example/ci".into()],
        keys: vec![Skey::from_seed("ci.example".parse().expect("a name"), &[3; 32]).vkey().to_string()],
    };
    let change = Some(proto::principal_change::Change::Principal(principal));
    Kind::PrincipalChange(proto::PrincipalChange { name: "ci.team-1_a".into(), change })
}
