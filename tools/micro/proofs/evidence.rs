//! Evidence about one tag that changed very often, made and checked.
//!
//! The ledger is written row by row, for recording so much would take an hour. The tag's own entries are what a ledger
//! records, signed and evenly spread over the log; of all other entries, none of which is ever shown, there are only the
//! tree's tiles and the few that are in none yet, and of the other subjects only rows. The log's tree, the tag's history, the map and the commitment that closes the
//! log are real: [`Ledger::open`] checks them, and so does every answer.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use tagledger::client::saved;
use tagledger::engine::clock::Bounds;
use tagledger::engine::recovery::load_map;
use tagledger::engine::{Ledger, Options};
use tagledger::ledger::answer::{Answer, Claimed, Finding, Part, Question};
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{entry_hash, sign_commitment, sign_record};
use tagledger::ledger::history::history_leaf;
use tagledger::ledger::map::EMPTY;
use tagledger::ledger::merkle::Hash;
use tagledger::ledger::names::TagRef;
use tagledger::ledger::note::Skey;
use tagledger::ledger::subject::Subject;
use tagledger::ledger::transition::Binding;
use tagledger::proto::{self, SubjectKind};
use tagledger::store::log_tree::LogTree;
use tagledger::store::rocks::RocksStore;
use tagledger::store::rows::{self, Head, SubjectRow, Version};
use tagledger::store::{Batch, Store as _};

use super::map::{made_up, put_subjects};
use super::measure::{Figure, Limits, Progress, Random, Report, Samples};
use super::{Arguments, Failure, made, settle, warm};

/// Changes in one commit while the ledger is made.
const CHANGES: usize = 100_000;
/// When entry 0 was recorded, and the time between two entries, in microseconds.
const BEGIN_US: u64 = 1_750_000_000_000_000;
const STEP_US: u64 = 1_000;
/// Entries after the last full tile of this width are read when a ledger is opened.
const TILE: u64 = 16;
/// Versions on a page of the history.
const PAGE: u64 = 100;

/// How large the ledger is, and so where its entries are.
#[derive(Clone, Copy)]
struct Shape {
    entries: u64,
    versions: u64,
    subjects: u64,
}

impl Shape {
    /// The entry of a version of the tag.
    fn index(self, version: u64) -> u64 {
        let (between, version) = (u128::from(self.entries - 2), u128::from(version));
        1 + u64::try_from(version * between / u128::from(self.versions)).expect("below the number of entries")
    }

    fn time_us(index: u64) -> u64 {
        BEGIN_US + index * STEP_US
    }
}

fn name(tag: &str) -> Result<TagRef, Failure> {
    Ok(format!("registry.example:5000/team/service:{tag}").parse()?)
}

fn skey() -> Result<Skey, Failure> {
    Ok(Skey::from_seed("ledger.example/benchmark".parse()?, &[9; 32]))
}

/// The entry of a version, and what it binds the tag to: each time something else.
fn push(tag: &TagRef, version: u64, index: u64) -> Result<(proto::Record, Binding), Failure> {
    let digest = format!("sha256:{}", hex::encode(made_up("manifest", version)));
    let statement = proto::Statement {
        kind: Some(proto::statement::Kind::TagPush(proto::TagPush {
            registry: tag.registry.to_string(),
            repository: tag.repository.to_string(),
            tag: tag.tag.to_string(),
            digest: digest.clone(),
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            disposition: proto::Disposition::Happened.into(),
            settles: 0,
        })),
        event_id: format!("pipeline-{version}"),
        occurred_at_us: i64::try_from(Shape::time_us(index))?,
        ci_run: format!("https://ci.example/team/service/-/pipelines/{version}"),
        ..proto::Statement::default()
    };
    let named = |kind: SubjectKind, version| proto::Subject { kind: kind.into(), version, name: String::new() };
    let mut subjects = vec![named(SubjectKind::Tag, version), named(SubjectKind::Digest, 0)];
    if version == 0 {
        subjects.extend([named(SubjectKind::TagsOf, 0), named(SubjectKind::Repositories, 0)]);
    }
    let record = proto::Record {
        index,
        recorded_at_us: Shape::time_us(index),
        statement: statement.encode_to_vec(),
        principal: "ci".into(),
        assurance: proto::Assurance::Authenticated.into(),
        producer: None,
        outcome: proto::Outcome::Applied.into(),
        rule: String::new(),
        detail: String::new(),
        subjects,
    };
    Ok((record, Binding::Bound { digest: digest.parse()?, set_by: index }))
}

/// Rows on their way to the store.
struct Writer {
    store: RocksStore,
    batch: Batch,
    tree: LogTree,
}

impl Writer {
    /// An entry, stored with the tree or only in it.
    fn append(&mut self, entry: &[u8], is_stored: bool) -> Hash {
        let (batch, hash) = (&mut self.batch, entry_hash(entry));
        if is_stored {
            rows::put_entry(batch, self.tree.size(), &hash, entry);
        }
        self.tree.append(hash, batch, |_| {});
        hash
    }

    fn commit(&mut self) -> Result<(), Failure> {
        Ok(self.store.commit(0, std::mem::take(&mut self.batch))?)
    }
}

fn make(path: &Path, shape: Shape) -> Result<(), Failure> {
    let (skey, tag) = (skey()?, name("latest")?);
    let key = Subject::Tag(tag.clone()).key();
    let mut writer = Writer { store: RocksStore::open(path)?, batch: Batch::default(), tree: LogTree::default() };
    put_subjects(&writer.store, shape.subjects - 1)?;

    rows::put_identity(&mut writer.batch, skey.origin().as_str());
    let mut row = SubjectRow::default();
    let mut progress = Progress::new("making entries", shape.entries);
    for index in 0..shape.entries - 1 {
        let version = row.history.size();
        if index == 0 {
            let genesis = commitment(0, EMPTY, 0);
            let entry = sign_commitment(&genesis, &skey);
            writer.append(&entry, true);
        } else if version < shape.versions && shape.index(version) == index {
            let (record, binding) = push(&tag, version, index)?;
            let entry = sign_record(&record, &skey);
            let hash = writer.append(&entry, true);
            let stored = Version { index, recorded_at_us: record.recorded_at_us, effective: 1 + index };
            let (leaf, mut completed) = (history_leaf(index, &hash, stored.effective), Vec::new());
            row.history.append(leaf, |node| completed.extend((node.level > 0).then_some(node.hash)));
            rows::put_version(&mut writer.batch, &key, version, &stored, &completed);
            row.binding = binding;
        } else {
            writer.append(&made_up("entry", index), index >= shape.entries - shape.entries % TILE);
        }
        if writer.batch.len() >= CHANGES {
            writer.commit()?;
            progress.at(index);
        }
    }
    rows::put_subject(&mut writer.batch, &key, &row);
    writer.commit()?;

    let (top, _) = load_map(&writer.store, writer.store.scratch()?, shape.subjects)?;
    let closing = commitment(shape.entries - 1, top.root(), top.size());
    let entry = sign_commitment(&closing, &skey);
    writer.append(&entry, true);
    let checkpoint = Checkpoint { size: writer.tree.size(), root: writer.tree.root() }.sign(&skey);
    let head = Head { size: writer.tree.size(), recorded_at_us: closing.recorded_at_us, checkpoint };
    rows::put_head(&mut writer.batch, &head);
    writer.commit()?;
    settle();
    Ok(())
}

fn commitment(index: u64, map_root: Hash, map_size: u64) -> proto::Commitment {
    proto::Commitment { index, recorded_at_us: Shape::time_us(index), map_root: map_root.to_vec(), map_size }
}

pub(crate) fn measure(
    arguments: &Arguments,
    directory: &Path,
    limits: &Limits,
    report: &Report,
) -> Result<(), Failure> {
    let Arguments { entries, versions, ledger_subjects: subjects, questions, .. } = *arguments;
    if versions > entries.saturating_sub(2) {
        return Err(
            "there are more versions than entries for them: the first and the last entry are commitments".into()
        );
    }
    let shape = Shape { entries, versions, subjects };
    let group = format!("ledger of {entries} entries and {subjects} subjects, one tag with {versions} versions");
    report.group(&group);
    let path = directory.join(format!("evidence-{entries}-{versions}-{subjects}"));
    let path = made(&path, |path| make(path, shape))?;
    let started = std::time::Instant::now();
    let ledger = Ledger::open(Options {
        store: Arc::new(RocksStore::open(&path)?),
        keys: tagledger::engine::signer::only(&skey()?),
        key_overlap_us: 0,
        has_begun: true,
        high_water: None,
        clock: Arc::new(move || Shape::time_us(entries)),
        clock_bounds: Bounds::default(),
        kept_map: None,
    })?;
    report.figure(&group, &Figure::new("opened", "s", started.elapsed().as_secs_f64()));
    settle();
    warm(&path)?;

    let asked = Asked { ledger: &ledger, shape, limits, report, group: &group };
    asked.states(questions)?;
    asked.absences(questions)?;
    asked.histories(questions.div_ceil(10))?;

    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(ledger.close());
    Ok(())
}

/// Questions to a ledger.
struct Asked<'a> {
    ledger: &'a Ledger,
    shape: Shape,
    limits: &'a Limits,
    report: &'a Report,
    group: &'a str,
}

impl Asked<'_> {
    /// What the tag was at random times.
    fn states(&self, questions: u64) -> Result<(), Failure> {
        let tag = name("latest")?;
        let ask = |random: &mut Random| {
            let at_us = Shape::time_us(1 + random.below(self.shape.entries - 2));
            let request = proto::ResolveTagRequest { at_us: i64::try_from(at_us)?, ..request(&tag) };
            Ok((Question::TagAt { tag: tag.clone(), at_us }, request))
        };
        let answer = |request: &proto::ResolveTagRequest| {
            Ok(self.ledger.read(|reader| reader.resolve(&tag, request))??.evidence)
        };
        let right = |answer: &Answer| match &answer.finding {
            Finding::State(state) => {
                let (at, index) = (state.at.expect("the first entry is the tag's"), answer.as_of_us.map(index_at));
                at.index == self.shape.index(at.version)
                    && Some(at.index) <= index
                    && state.count == self.shape.versions
            }
            _ => false,
        };
        self.ask("the tag at a time", questions, Some((1000.0, 2000.0)), ask, answer, right)
    }

    /// That unknown tags never were.
    fn absences(&self, questions: u64) -> Result<(), Failure> {
        let ask = |random: &mut Random| {
            let tag = name(&format!("unknown-{}", random.below(u64::MAX)))?;
            Ok((Question::TagAt { tag: tag.clone(), at_us: 0 }, tag))
        };
        let answer = |tag: &TagRef| Ok(self.ledger.read(|reader| reader.resolve(tag, &request(tag)))??.evidence);
        let right = |answer: &Answer| matches!(&answer.finding, Finding::State(state) if state.count == 0);
        self.ask("a tag that never was", questions, Some((1000.0, 2000.0)), ask, answer, right)
    }

    /// A page of the history from random times on.
    fn histories(&self, questions: u64) -> Result<(), Failure> {
        let tag = name("latest")?;
        let page = PAGE.min(self.shape.versions);
        let ask = |random: &mut Random| {
            let since_us = Shape::time_us(self.shape.index(random.below(self.shape.versions - page + 1)));
            let part = Part { since_us, limit: page, ..Part::default() };
            let request = proto::ListTagHistoryRequest {
                registry: tag.registry.to_string(),
                repository: tag.repository.to_string(),
                tag: tag.tag.to_string(),
                since_us: i64::try_from(since_us)?,
                page_size: u32::try_from(page)?,
                ..proto::ListTagHistoryRequest::default()
            };
            Ok((Question::TagHistory { tag: tag.clone(), part }, request))
        };
        let answer = |request: &proto::ListTagHistoryRequest| {
            Ok(self.ledger.read(|reader| reader.tag_history(&tag, request))??.evidence)
        };
        let right = |answer: &Answer| matches!(&answer.finding, Finding::History(history) if history.versions.len() as u64 == page);
        self.ask(&format!("{page} versions"), questions, None, ask, answer, right)
    }

    /// Asks questions, twice as many as are measured: the first half warms what can be warm.
    fn ask<R>(
        &self,
        what: &str,
        questions: u64,
        targets: Option<(f64, f64)>,
        ask: impl Fn(&mut Random) -> Result<(Question, R), Failure>,
        answer: impl Fn(&R) -> Result<Option<proto::Evidence>, Failure>,
        right: impl Fn(&Answer) -> bool,
    ) -> Result<(), Failure> {
        let vkey = self.ledger.vkey();
        let mut random = Random(questions);
        for _ in 0..questions {
            answer(&ask(&mut random)?.1)?;
        }
        let (mut making, mut checking) = (Samples::default(), Samples::default());
        let (mut lengths, mut file_lengths, mut signatures) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..questions {
            let (question, request) = ask(&mut random)?;
            let evidence = making.time(|| answer(&request))?.ok_or("evidence was not left out")?;
            let entries = evidence.entries.iter().map(|entry| entry.entry.len()).sum::<usize>();
            let in_file = evidence.entries.iter().map(|entry| BASE64.encode(&entry.entry).len()).sum::<usize>();
            lengths.push((evidence.encoded_len() - entries) as f64);
            signatures.push(1.0 + evidence.entries.len() as f64);
            let claimed = Claimed::new(question, vec![evidence]);
            file_lengths.push((saved::to_text(&claimed).len() - in_file) as f64);
            let answer = checking.time(|| claimed.check(&vkey))?;
            assert!(right(&answer), "{answer:?}");
        }
        let put = |name: &str, figure: Figure<'_>| {
            self.report.figure(self.group, &Figure { what: &format!("{what}: {name}"), ..figure });
        };
        let bytes = |samples: &Samples| Figure {
            p99: Some(samples.percentile(99)),
            ..Figure::new("", "bytes", samples.median())
        };
        let (making, checking) = (Figure::of("", &making), Figure::of("", &checking));
        let (making, checking, length) = match targets {
            Some((make, check)) => (making.below(make), checking.below(check), bytes(&lengths).below(8192.0)),
            None => (making, checking, bytes(&lengths)),
        };
        put("length besides entries", length);
        put("length of the file, likewise", bytes(&file_lengths));
        put("made", making);
        put("checked", checking.beside("checks of its signatures", signatures.median() * self.limits.verify_us));
        Ok(())
    }
}

fn request(tag: &TagRef) -> proto::ResolveTagRequest {
    proto::ResolveTagRequest {
        registry: tag.registry.to_string(),
        repository: tag.repository.to_string(),
        tag: tag.tag.to_string(),
        ..proto::ResolveTagRequest::default()
    }
}

/// The last entry at a time.
fn index_at(time_us: u64) -> u64 {
    (time_us - BEGIN_US) / STEP_US
}
