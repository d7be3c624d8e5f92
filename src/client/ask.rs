//! Asking a question: all pages of it, checked, with the claims kept for whoever wants to check again.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use prost::Message as _;

use super::trust::Remembered;
use super::{ClientError, RemoteLedger, saved};
use crate::ledger::answer::{Answer, AnswerError, Claimed, Growth, Part, Question};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::evidence::hashes;
use crate::ledger::keys::Keys as _;
use crate::proto::{self, get_entry_request::By, subject_proof::Terminal};

/// Most items of one page.
const MAX_PAGE_SIZE: u64 = 1000;
/// Most pages in a row that bring nothing. Each goes through a thousand members, so a million in a row may be of no interest.
const MAX_EMPTY_PAGES: usize = 1000;
/// Most items of one answer.
pub(super) const MAX_ITEMS: usize = 250_000;
/// Most bytes of evidence of one answer. Its file is larger by half, and still one that `verify` reads.
pub(super) const MAX_LENGTH: usize = 160 * 1024 * 1024;

/// One page as it came, and where the next begins.
struct Turned {
    evidence: proto::Evidence,
    next: String,
    /// As many as the server says it holds; the evidence decides.
    items: usize,
}

/// An answer from a log that is smaller than one known before.
struct Behind {
    known: Remembered,
    note: String,
    size: u64,
}

/// What was turned so far: a server may not make this go on for ever, nor fill the memory.
#[derive(Default)]
struct Turning {
    tokens: HashSet<String>,
    empty_in_a_row: usize,
    items: usize,
    length: usize,
}

impl Turning {
    fn turn(&mut self, turned: &Turned) -> Result<(), ClientError> {
        self.empty_in_a_row = if turned.items == 0 { self.empty_in_a_row + 1 } else { 0 };
        self.items += turned.items;
        self.length += turned.evidence.encoded_len();
        if self.items > MAX_ITEMS || self.length > MAX_LENGTH {
            return Err(ClientError::TooMuch);
        }
        if turned.next.is_empty() {
            return Ok(());
        }
        if self.empty_in_a_row >= MAX_EMPTY_PAGES {
            return Err(ClientError::Endless("a thousand pages in a row held nothing"));
        }
        if !self.tokens.insert(turned.next.clone()) {
            return Err(ClientError::Endless("it leads back to a page that it gave before"));
        }
        Ok(())
    }
}

impl RemoteLedger {
    /// Asks, and returns the answer if it verifies, with what it was derived from.
    pub async fn ask(&self, question: Question) -> Result<(Answer, Claimed), ClientError> {
        let (mut asked, mut behind) = self.ask_once(&question).await?;
        if behind.is_some() {
            (asked, behind) = self.ask_once(&question).await?;
        }
        match behind {
            None => Ok(asked),
            Some(Behind { known, note, size }) => Err(self.rollback(&known, size, &note)),
        }
    }

    /// The answer, and what shows that it is out of date, if it is.
    async fn ask_once(&self, question: &Question) -> Result<((Answer, Claimed), Option<Behind>), ClientError> {
        let known = self.remembered().await?;
        let mut claimed = Claimed::new(question.clone(), self.pages(question).await?);
        claimed.growth = self.growth_of(&claimed.pages).await?;
        if let Question::Inclusion { index, tree_size } = question {
            self.add_inclusion(*index, *tree_size, &mut claimed).await?;
        }
        let checked = self.checked(|keys| claimed.check(keys)).await?;
        // Also what is refused is kept with what shows whose it is.
        claimed.keys = self.shown_keys();
        let answer = checked.map_err(|error| self.refused(&claimed, error))?;
        // The pages are of one log, up to the largest checkpoint among them; that one must be of the log known so far.
        self.observe(answer.entries.note()).await?;
        let behind = known.map(|known| self.behind(known, &answer, &claimed.pages)).transpose()?.flatten();
        Ok(((answer, claimed), behind))
    }

    /// Keeps what was served: it is signed, and may be a proof of misbehaviour.
    fn refused(&self, claimed: &Claimed, error: AnswerError) -> ClientError {
        match self.trust_folder().keep_refused(self.keys().first().origin(), &saved::to_text(claimed)) {
            Ok(kept) => ClientError::Refused { error, kept },
            Err(failed) => failed.into(),
        }
    }

    /// A page from before what was known when it was asked for, if what came since could change the answer.
    fn behind(
        &self,
        known: Remembered,
        answer: &Answer,
        pages: &[proto::Evidence],
    ) -> Result<Option<Behind>, ClientError> {
        for page in pages {
            let note = &page.checkpoint;
            let size = Checkpoint::open(note, &*self.keys())?.size;
            if size < known.checkpoint.size && answer.could_change_after(size) {
                return Ok(Some(Behind { known, note: note.clone(), size }));
            }
        }
        Ok(None)
    }

    async fn pages(&self, question: &Question) -> Result<Vec<proto::Evidence>, ClientError> {
        let (mut pages, mut token) = (Vec::new(), String::new());
        let mut left = question.limit();
        let mut turning = Turning::default();
        loop {
            let size = match question {
                Question::TagHistory { .. } | Question::Sightings { .. } | Question::Principals { .. } => {
                    left.unwrap_or(u64::MAX).min(MAX_PAGE_SIZE)
                }
                // Members gone through, of which few may be items.
                _ => MAX_PAGE_SIZE,
            };
            let page_size = u32::try_from(size).expect("a page is small");
            let turned = self.page(question, page_size, &token).await?;
            turning.turn(&turned)?;
            pages.push(turned.evidence);
            let items = u64::try_from(turned.items).expect("a page is small");
            left = left.map(|left| left.saturating_sub(items));
            if turned.next.is_empty() || left == Some(0) {
                break;
            }
            token = turned.next;
        }
        let spread = spread(&pages);
        // Where a page ends, one catalogue goes on, and perhaps the one that it is listed in.
        if spread.len() > pages.len() {
            return Err(ClientError::Endless("it proves more subjects in parts than it has pages"));
        }
        for (key, versions) in spread {
            let sealed = self.prove_subject(key, versions).await?;
            turning.turn(&sealed)?;
            pages.push(sealed.evidence);
        }
        Ok(pages)
    }

    /// One proof under one commitment of what came in parts under several.
    async fn prove_subject(&self, key: Vec<u8>, versions: Range<u64>) -> Result<Turned, ClientError> {
        let request = proto::ProveSubjectRequest { key, begin: versions.start, end: versions.end };
        let response = self.queries().prove_subject(request).await?.into_inner();
        turned(response.evidence, String::new(), 0)
    }

    /// Proofs between the checkpoints of pages, as far as they differ, in the order in which they are put together.
    async fn growth_of(&self, pages: &[proto::Evidence]) -> Result<Vec<Growth>, ClientError> {
        let mut growth: Vec<Growth> = Vec::new();
        let mut largest: Option<u64> = None;
        for page in pages {
            let size = self.opened(&page.checkpoint).await?.size;
            let before = largest.unwrap_or(size);
            let (older, newer) = (before.min(size), before.max(size));
            if older > 0 && older < newer && !growth.iter().any(|known| known.older == older && known.newer == newer) {
                let hashes = self.growth(older, newer).await.map_err(|error| error.between(older, newer))?;
                growth.push(Growth { older, newer, hashes });
            }
            largest = Some(newer);
        }
        Ok(growth)
    }

    async fn page(&self, question: &Question, page_size: u32, token: &str) -> Result<Turned, ClientError> {
        let (page_token, without_evidence) = (token.to_owned(), false);
        match question {
            Question::TagAt { tag, at_us } => {
                let request = proto::ResolveTagRequest {
                    registry: tag.registry.to_string(),
                    repository: tag.repository.to_string(),
                    tag: tag.tag.to_string(),
                    at_us: on_wire(*at_us),
                    without_evidence,
                };
                turned(self.queries().resolve_tag(request).await?.into_inner().evidence, String::new(), 1)
            }
            Question::TagHistory { tag, part } => {
                let Part { since_us, until_us, newest_first, .. } = *part;
                let request = proto::ListTagHistoryRequest {
                    registry: tag.registry.to_string(),
                    repository: tag.repository.to_string(),
                    tag: tag.tag.to_string(),
                    since_us: on_wire(since_us),
                    until_us: on_wire(until_us),
                    page_size,
                    page_token,
                    newest_first,
                    without_evidence,
                };
                let response = self.queries().list_tag_history(request).await?.into_inner();
                turned(response.evidence, response.next_page_token, response.versions.len())
            }
            Question::Sightings { digest, part } => {
                let Part { since_us, until_us, newest_first, .. } = *part;
                let request = proto::ListDigestSightingsRequest {
                    digest: digest.to_string(),
                    page_size,
                    page_token,
                    without_evidence,
                    since_us: on_wire(since_us),
                    until_us: on_wire(until_us),
                    newest_first,
                };
                let response = self.queries().list_digest_sightings(request).await?.into_inner();
                turned(response.evidence, response.next_page_token, response.versions.len())
            }
            Question::TagsAt { repository, at_us, include_unbound, .. } => {
                let request = proto::ListTagsRequest {
                    registry: repository.registry.to_string(),
                    repository: repository.repository.to_string(),
                    at_us: on_wire(*at_us),
                    page_size,
                    page_token,
                    include_unbound: *include_unbound,
                    without_evidence,
                };
                let response = self.queries().list_tags(request).await?.into_inner();
                turned(response.evidence, response.next_page_token, response.tags.len())
            }
            Question::RepositoriesAt { at_us, .. } => {
                let at_us = on_wire(*at_us);
                let request = proto::ListRepositoriesRequest { at_us, page_size, page_token, without_evidence };
                let response = self.queries().list_repositories(request).await?.into_inner();
                turned(response.evidence, response.next_page_token, response.repositories.len())
            }
            Question::RunningAt { environment, workload, at_us, include_stopped, .. } => {
                let request = proto::ListRunningRequest {
                    environment: environment.clone(),
                    workload: workload.clone(),
                    at_us: on_wire(*at_us),
                    page_size,
                    page_token,
                    include_stopped: *include_stopped,
                    without_evidence,
                };
                let response = self.queries().list_running(request).await?.into_inner();
                turned(response.evidence, response.next_page_token, response.workloads.len())
            }
            Question::RepositoryDiff { repository, from_us, to_us, .. } => {
                let request = proto::DiffRepositoryRequest {
                    registry: repository.registry.to_string(),
                    repository: repository.repository.to_string(),
                    from_us: on_wire(*from_us),
                    to_us: on_wire(*to_us),
                    page_size,
                    page_token,
                    without_evidence,
                };
                let response = self.queries().diff_repository(request).await?.into_inner();
                turned(response.evidence, response.next_page_token, response.changes.len())
            }
            Question::EnvironmentDiff { environment, from_us, to_us, .. } => {
                let request = proto::DiffEnvironmentRequest {
                    environment: environment.clone(),
                    from_us: on_wire(*from_us),
                    to_us: on_wire(*to_us),
                    page_size,
                    page_token,
                    without_evidence,
                };
                let response = self.queries().diff_environment(request).await?.into_inner();
                turned(response.evidence, response.next_page_token, response.changes.len())
            }
            Question::PolicyAt { at_us } => {
                let request = proto::GetPolicyRequest { at_us: on_wire(*at_us), without_evidence };
                turned(self.queries().get_policy(request).await?.into_inner().evidence, String::new(), 1)
            }
            Question::Principals { at_us } => {
                let at_us = on_wire(*at_us);
                let request = proto::ListPrincipalChangesRequest { at_us, page_size, page_token, without_evidence };
                let response = self.queries().list_principal_changes(request).await?.into_inner();
                turned(response.evidence, response.next_page_token, response.versions.len())
            }
            Question::Entry { index } | Question::Inclusion { index, .. } => self.entry_page(By::Index(*index)).await,
            Question::Leaf { hash } => self.entry_page(By::LeafHash(hash.to_vec())).await,
        }
    }

    async fn entry_page(&self, by: By) -> Result<Turned, ClientError> {
        let response = self.log().get_entry(proto::GetEntryRequest { by: Some(by) }).await?.into_inner();
        turned(response.evidence, String::new(), 1)
    }

    /// The path of an entry in the tree asked for, and that the checkpoint's tree continues that one.
    async fn add_inclusion(&self, index: u64, asked_size: u64, claimed: &mut Claimed) -> Result<(), ClientError> {
        let note = claimed.pages.first().map_or("", |page| &page.checkpoint);
        let newest = self.opened(note).await?.size;
        let tree_size = if asked_size == 0 { newest } else { asked_size };
        let request = proto::GetInclusionProofRequest { index, tree_size };
        claimed.path = hashes(&self.log().get_inclusion_proof(request).await?.into_inner().hashes)?;
        if tree_size < newest {
            let hashes = self.growth(tree_size, newest).await.map_err(|error| error.between(tree_size, newest))?;
            claimed.growth.push(Growth { older: tree_size, newer: newest, hashes });
        }
        Ok(())
    }
}

/// The subjects that several pages prove parts of, with the versions that these show together.
fn spread(pages: &[proto::Evidence]) -> Vec<(Vec<u8>, Range<u64>)> {
    let mut shown: BTreeMap<&[u8], (usize, Range<u64>)> = BTreeMap::new();
    for subject in pages.iter().flat_map(|page| &page.subjects) {
        let Some(Terminal::History(history)) = &subject.terminal else { continue };
        let (Some(first), Some(last)) = (history.leaves.first(), history.leaves.last()) else { continue };
        let (begin, end) = (first.version, last.version.saturating_add(1));
        let (pages, versions) = shown.entry(&subject.key).or_insert((0, begin..end));
        *pages += 1;
        *versions = versions.start.min(begin)..versions.end.max(end);
    }
    let spread = shown.into_iter().filter(|(_, (pages, _))| *pages > 1);
    spread.map(|(key, (_, versions))| (key.to_vec(), versions)).collect()
}

fn turned(evidence: Option<proto::Evidence>, next: String, items: usize) -> Result<Turned, ClientError> {
    let evidence = evidence.ok_or(ClientError::Incomplete("evidence"))?;
    Ok(Turned { evidence, next, items })
}

/// A time as it is sent. What does not fit is beyond every limit, and the server says so.
fn on_wire(time_us: u64) -> i64 {
    i64::try_from(time_us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(items: usize, next: &str, checkpoint: usize) -> Turned {
        let evidence = proto::Evidence { checkpoint: "x".repeat(checkpoint), ..proto::Evidence::default() };
        Turned { evidence, next: next.to_owned(), items }
    }

    #[test]
    fn empty_pages_come_to_an_end() {
        let mut turning = Turning::default();
        for number in 1..MAX_EMPTY_PAGES {
            turning.turn(&page(0, &number.to_string(), 0)).expect("it may still bring something");
        }
        let last = turning.turn(&page(0, "", 0));
        assert!(last.is_ok(), "the end is an end");
        assert!(matches!(turning.turn(&page(0, "more", 0)), Err(ClientError::Endless(_))));
        turning.turn(&page(1, "found", 0)).expect("something");
        turning.turn(&page(0, "again", 0)).expect("counted anew");
    }

    #[test]
    fn a_circle_is_not_followed() {
        let mut turning = Turning::default();
        turning.turn(&page(1, "a", 0)).expect("new");
        turning.turn(&page(1, "b", 0)).expect("new");
        assert!(matches!(turning.turn(&page(1, "a", 0)), Err(ClientError::Endless(_))));
    }

    #[test]
    fn what_is_too_much_to_hold_is_refused() {
        let mut turning = Turning::default();
        for number in 0..MAX_ITEMS / 1000 {
            turning.turn(&page(1000, &number.to_string(), 0)).expect("as much as there may be");
        }
        let error = turning.turn(&page(1, "", 0)).expect_err("one more").to_string();
        assert!(error.contains("more than 250000 items") && error.contains("narrow the question"), "{error}");
        let half = page(1, "", MAX_LENGTH / 2);
        let mut turning = Turning::default();
        turning.turn(&half).expect("there is room");
        assert!(matches!(turning.turn(&half), Err(ClientError::TooMuch)));
    }
}
