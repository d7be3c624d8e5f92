//! Statements as registries, pipelines and clusters make them, the same ones for the same seed.
//!
//! Tags, repositories and workloads are drawn by Zipf's law (exponent 1): a few are in nearly every statement, most hardly ever.
//! Of a hundred statements ten name a tag for the first time, ten push what the tag points to already, five tell what runs, three
//! ask to overwrite a tag that the policy forbids to change, and the rest move a tag: six of ten to a digest that nobody
//! knew, four to the one pushed to that repository last, as `latest` follows a version.

use prost::Message as _;
use tagledger::proto::{self, statement::Kind};

/// What the registry is called.
pub(crate) const REGISTRY: &str = "registry.example.com";
/// The rules that the traffic runs into.
pub(crate) const POLICY: &str = "[[rule]]\nid = \"releases\"\nrepositories = [\"prod/**\"]\ntags = [\"v*\"]\n";
const REPOSITORIES: u64 = 5_000;
const WORKLOADS: u64 = 2_000;
const ENVIRONMENTS: [&str; 4] = ["prod", "staging", "qa", "dev"];
const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Every such statement names a new tag.
const NEW_TAG_EVERY: u64 = 10;
/// Of the newest tags, this many may not be recorded yet: many clients at once have their first pushes under way.
const UNDER_WAY: u64 = 1_000;
/// 2026-01-01.
const EPOCH_US: i64 = 1_767_225_600_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A rank below `end` by Zipf's law with exponent 1.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "ranks are small"
    )]
    pub(crate) fn zipf(&mut self, end: u64) -> u64 {
        let uniform = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (((end + 1) as f64).powf(uniform) as u64 - 1).min(end - 1)
    }
}

/// A name of the traffic, from its number alone.
#[derive(Debug, Clone, Copy)]
struct TagName(u64);

impl TagName {
    fn repository_number(self) -> u64 {
        Random(self.0 ^ 0x7461_6773).zipf(REPOSITORIES)
    }

    fn repository(self) -> String {
        let number = self.repository_number();
        let team = number % 97;
        if number.is_multiple_of(3) {
            format!("prod/team-{team}/service-{number}")
        } else {
            format!("team-{team}/service-{number}")
        }
    }

    /// Whether the policy keeps it as it is.
    fn is_kept(self) -> bool {
        self.repository_number().is_multiple_of(3) && self.0 % 4 == 1
    }

    fn tag(self) -> String {
        match self.0 % 4 {
            1 => format!("v1.{}.{}", self.0 / 100, self.0 % 100),
            2 => format!("sha-{:010x}", Random(self.0).next() >> 24),
            3 => format!("branch-{}", self.0),
            _ => format!("build-{}", self.0),
        }
    }
}

/// Where the traffic is, and what it made of the tags so far.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    seed: u64,
    /// Statements made so far.
    pub(crate) made: u64,
    /// For each tag the number of its digest.
    tags: Vec<u32>,
    /// For each repository the number of the digest pushed last.
    pushed: Vec<u32>,
    digests: u32,
}

/// A statement and what it says in short.
pub(crate) struct Made {
    pub(crate) statement: Vec<u8>,
    /// It asks for what the policy forbids.
    pub(crate) is_denied: bool,
}

impl Traffic {
    /// Traffic after so many statements.
    pub(crate) fn after(seed: u64, made: u64) -> Self {
        let mut traffic = Self { seed, made: 0, tags: Vec::new(), pushed: vec![0; REPOSITORIES as usize], digests: 0 };
        while traffic.made < made {
            traffic.choose();
        }
        traffic
    }

    /// Tags named so far.
    pub(crate) fn tags(&self) -> u64 {
        self.tags.len() as u64
    }

    /// A tag named so far, by Zipf's law: registry, repository, tag.
    pub(crate) fn some_tag(&self, random: &mut Random) -> (String, String, String) {
        let name = TagName(random.zipf(self.tags()));
        (REGISTRY.into(), name.repository(), name.tag())
    }

    /// What comes next: a tag, the number of a digest, and which of the sorts it is.
    fn choose(&mut self) -> (TagName, u32, Sort) {
        let number = self.made;
        self.made += 1;
        let mut random = Random(self.seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        if number.is_multiple_of(NEW_TAG_EVERY) {
            let name = TagName(self.tags());
            self.digests += 1;
            self.tags.push(self.digests);
            self.pushed[name.repository_number() as usize] = self.digests;
            return (name, self.digests, Sort::Push);
        }
        let name = TagName(random.zipf(self.tags()));
        let is = self.tags[name.0 as usize];
        match random.below(90) {
            0..10 => (name, is, Sort::Push),
            10..15 => (name, is, Sort::Deployment),
            15..18 => {
                // Some release, if there is one that is surely recorded.
                let first = name.0 - name.0 % 4;
                let kept =
                    (first..self.tags().saturating_sub(UNDER_WAY)).map(TagName).take(64).find(|name| name.is_kept());
                match kept {
                    Some(kept) => (kept, u32::MAX - self.digests, Sort::Denied),
                    None => (name, is, Sort::Push),
                }
            }
            _ if name.is_kept() => (name, is, Sort::Push),
            _ => {
                let repository = name.repository_number() as usize;
                if random.below(10) < 6 {
                    self.digests += 1;
                    self.pushed[repository] = self.digests;
                }
                self.tags[name.0 as usize] = self.pushed[repository];
                (name, self.pushed[repository], Sort::Push)
            }
        }
    }

    /// The next statement.
    pub(crate) fn next(&mut self) -> Made {
        let number = self.made;
        let (name, digest, sort) = self.choose();
        let (registry, repository, tag) = (REGISTRY.to_owned(), name.repository(), name.tag());
        let digest = digest_of(digest);
        let kind = match sort {
            Sort::Push | Sort::Denied => Kind::TagPush(proto::TagPush {
                registry,
                repository,
                tag,
                digest,
                media_type: MEDIA_TYPE.into(),
                disposition: match sort {
                    Sort::Denied => proto::Disposition::Requested.into(),
                    _ => proto::Disposition::Happened.into(),
                },
                settles: 0,
            }),
            Sort::Deployment => {
                let mut random = Random(self.seed ^ number);
                let workload = random.zipf(WORKLOADS);
                Kind::Deployment(proto::Deployment {
                    environment: ENVIRONMENTS[random.zipf(4) as usize].into(),
                    cluster: format!("eu-{}", workload % 3),
                    namespace: format!("team-{}", workload % 97),
                    workload: format!("service-{workload}"),
                    container: String::new(),
                    image: Some(proto::Image { registry, repository, tag, digest }),
                    phase: proto::deployment::Phase::Started.into(),
                })
            }
        };
        let statement = proto::Statement {
            kind: Some(kind),
            event_id: format!("{:016x}-{number}", self.seed),
            occurred_at_us: EPOCH_US + i64::try_from(number).expect("small") * 1_000,
            actor: format!("robot$ci-{}", name.repository_number() % 97),
            ..proto::Statement::default()
        };
        Made { statement: statement.encode_to_vec(), is_denied: matches!(sort, Sort::Denied) }
    }
}

enum Sort {
    Push,
    Deployment,
    Denied,
}

fn digest_of(number: u32) -> String {
    let mut random = Random(u64::from(number) ^ 0x6469_6765_7374);
    let mut text = String::from("sha256:");
    for _ in 0..4 {
        text.push_str(&format!("{:016x}", random.next()));
    }
    text
}
