//! Asking a question: all pages of it, checked, with the claims kept for whoever wants to check again.

use std::collections::HashSet;

use prost::Message as _;

use super::trust::Remembered;
use super::{ClientError, RemoteLedger};
use crate::ledger::answer::{
    Answer, Claimed, Claims, Growth, Member, MemberChange, MemberState, Page, Part, Question, StateClaim, VersionClaim,
    WorkloadName,
};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::evidence::hashes;
use crate::proto::{self, get_entry_request::By};

/// Most items of one page.
const MAX_PAGE_SIZE: u64 = 1000;
/// Most pages in a row that bring nothing. An honest server looks at 4,000 members for one, so 4 million in a row may be of
/// no interest.
const MAX_EMPTY_PAGES: usize = 1000;
/// Most items of one answer.
pub(super) const MAX_ITEMS: usize = 250_000;
/// Most bytes of evidence of one answer. Its file is larger by half, and still one that `verify` reads.
pub(super) const MAX_LENGTH: usize = 160 * 1024 * 1024;

/// One page as it came, and where the next begins.
struct Turned {
    page: Page,
    next: String,
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
        self.length += turned.page.evidence.encoded_len();
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
        let known = self.remembered()?;
        let pages = self.pages(question).await?;
        let growth = self.growth_of(&pages).await?;
        let claimed = Claimed { question: question.clone(), pages, growth };
        let answer = claimed.check(self.vkey())?;
        // The pages are of one log, up to the largest checkpoint among them; that one must be of the log known so far.
        self.observe(answer.entries.note()).await?;
        let behind = known.map(|known| self.behind(known, &answer, &claimed.pages)).transpose()?.flatten();
        Ok(((answer, claimed), behind))
    }

    /// A page from before what was known when it was asked for, if what came since could change the answer.
    fn behind(&self, known: Remembered, answer: &Answer, pages: &[Page]) -> Result<Option<Behind>, ClientError> {
        for page in pages {
            let note = &page.evidence.checkpoint;
            let size = Checkpoint::open(note, self.vkey())?.size;
            if size < known.checkpoint.size && answer.could_change_after(size) {
                return Ok(Some(Behind { known, note: note.clone(), size }));
            }
        }
        Ok(None)
    }

    async fn pages(&self, question: &Question) -> Result<Vec<Page>, ClientError> {
        let (mut pages, mut token) = (Vec::new(), String::new());
        let mut left = question.limit();
        let mut turning = Turning::default();
        loop {
            let size = left.map_or(MAX_PAGE_SIZE, |left| left.min(MAX_PAGE_SIZE));
            let page_size = u32::try_from(size).expect("a page is small");
            let turned = self.page(question, page_size, &token).await?;
            turning.turn(&turned)?;
            pages.push(turned.page);
            let items = u64::try_from(turned.items).expect("a page is small");
            left = left.map(|left| left.saturating_sub(items));
            if turned.next.is_empty() || left == Some(0) {
                return Ok(pages);
            }
            token = turned.next;
        }
    }

    /// Proofs between the checkpoints of pages, as far as they differ, in the order in which they are put together.
    async fn growth_of(&self, pages: &[Page]) -> Result<Vec<Growth>, ClientError> {
        let mut growth: Vec<Growth> = Vec::new();
        let mut largest: Option<u64> = None;
        for page in pages {
            let size = Checkpoint::open(&page.evidence.checkpoint, self.vkey())?.size;
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
        let page_token = token.to_owned();
        match question {
            Question::TagAt { tag, at_us } => {
                let request = proto::ResolveTagRequest {
                    registry: tag.registry.to_string(),
                    repository: tag.repository.to_string(),
                    tag: tag.tag.to_string(),
                    at_us: on_wire(*at_us),
                    without_evidence: false,
                };
                let response = self.queries().resolve_tag(request).await?.into_inner();
                let state = state(response.digest, response.state);
                let states = vec![MemberState { member: Member::Tag(tag.tag.clone()), state }];
                let claims = Claims::States { as_of_us: response.as_of_us, states };
                turned(claims, response.evidence, String::new(), 1)
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
                    without_evidence: false,
                };
                let response = self.queries().list_tag_history(request).await?.into_inner();
                versions(response.versions, response.total, response.evidence, response.next_page_token)
            }
            Question::Sightings { digest, .. } => {
                let request = proto::ListDigestSightingsRequest {
                    digest: digest.to_string(),
                    page_size,
                    page_token,
                    without_evidence: false,
                };
                let response = self.queries().list_digest_sightings(request).await?.into_inner();
                versions(response.versions, response.total, response.evidence, response.next_page_token)
            }
            Question::TagsAt { repository, at_us, include_unbound, .. } => {
                let request = proto::ListTagsRequest {
                    registry: repository.registry.to_string(),
                    repository: repository.repository.to_string(),
                    at_us: on_wire(*at_us),
                    page_size,
                    page_token,
                    include_unbound: *include_unbound,
                    without_evidence: false,
                };
                let response = self.queries().list_tags(request).await?.into_inner();
                let member = |found: proto::TagState| {
                    Ok(MemberState { member: tag_member(&found.tag)?, state: state(found.digest, found.state) })
                };
                let states: Vec<_> = response.tags.into_iter().map(member).collect::<Result<_, ClientError>>()?;
                let items = states.len();
                let claims = Claims::States { as_of_us: response.as_of_us, states };
                turned(claims, response.evidence, response.next_page_token, items)
            }
            Question::RunningAt { environment, workload, at_us, include_stopped, .. } => {
                let request = proto::ListRunningRequest {
                    environment: environment.clone(),
                    workload: workload.clone(),
                    at_us: on_wire(*at_us),
                    page_size,
                    page_token,
                    include_stopped: *include_stopped,
                    without_evidence: false,
                };
                let response = self.queries().list_running(request).await?.into_inner();
                let member = |found: proto::WorkloadState| {
                    Ok(MemberState {
                        member: workload_member(found.workload)?,
                        state: state(found.digest, found.state),
                    })
                };
                let states: Vec<_> = response.workloads.into_iter().map(member).collect::<Result<_, ClientError>>()?;
                let items = states.len();
                let claims = Claims::States { as_of_us: response.as_of_us, states };
                turned(claims, response.evidence, response.next_page_token, items)
            }
            Question::RepositoryDiff { repository, from_us, to_us, .. } => {
                let request = proto::DiffRepositoryRequest {
                    registry: repository.registry.to_string(),
                    repository: repository.repository.to_string(),
                    from_us: on_wire(*from_us),
                    to_us: on_wire(*to_us),
                    page_size,
                    page_token,
                    without_evidence: false,
                };
                let response = self.queries().diff_repository(request).await?.into_inner();
                let member = |found: proto::TagChange| {
                    Ok(MemberChange {
                        member: tag_member(&found.tag)?,
                        from: state(found.from_digest, found.from),
                        to: state(found.to_digest, found.to),
                    })
                };
                let changes = response.changes.into_iter().map(member).collect::<Result<_, ClientError>>()?;
                changed(response.as_of_us, changes, response.evidence, response.next_page_token)
            }
            Question::EnvironmentDiff { environment, from_us, to_us, .. } => {
                let request = proto::DiffEnvironmentRequest {
                    environment: environment.clone(),
                    from_us: on_wire(*from_us),
                    to_us: on_wire(*to_us),
                    page_size,
                    page_token,
                    without_evidence: false,
                };
                let response = self.queries().diff_environment(request).await?.into_inner();
                let member = |found: proto::WorkloadChange| {
                    Ok(MemberChange {
                        member: workload_member(found.workload)?,
                        from: state(found.from_digest, found.from),
                        to: state(found.to_digest, found.to),
                    })
                };
                let changes = response.changes.into_iter().map(member).collect::<Result<_, ClientError>>()?;
                changed(response.as_of_us, changes, response.evidence, response.next_page_token)
            }
            Question::Entry { index } => self.entry_page(By::Index(*index), Claims::Entry).await,
            Question::Leaf { hash } => self.entry_page(By::LeafHash(hash.to_vec()), Claims::Entry).await,
            Question::Inclusion { index, tree_size } => self.inclusion_page(*index, *tree_size).await,
        }
    }

    async fn entry_page(&self, by: By, claims: Claims) -> Result<Turned, ClientError> {
        let response = self.log().get_entry(proto::GetEntryRequest { by: Some(by) }).await?.into_inner();
        turned(claims, response.evidence, String::new(), 1)
    }

    /// The entry as of the newest checkpoint, its path in the tree asked for, and that the one continues the other.
    async fn inclusion_page(&self, index: u64, asked_size: u64) -> Result<Turned, ClientError> {
        let mut turned = self.entry_page(By::Index(index), Claims::Entry).await?;
        let newest = Checkpoint::open(&turned.page.evidence.checkpoint, self.vkey())?;
        let tree_size = if asked_size == 0 { newest.size } else { asked_size };
        let request = proto::GetInclusionProofRequest { index, tree_size };
        let inclusion = self.log().get_inclusion_proof(request).await?.into_inner();
        let consistency =
            self.growth(tree_size, newest.size).await.map_err(|error| error.between(tree_size, newest.size))?;
        let root =
            <[u8; 32]>::try_from(&inclusion.root[..]).map_err(|_| ClientError::Incomplete("root of 32 bytes"))?;
        turned.page.claims = Claims::Inclusion { tree_size, root, path: hashes(&inclusion.hashes)?, consistency };
        Ok(turned)
    }
}

fn turned(
    claims: Claims,
    evidence: Option<proto::Evidence>,
    next: String,
    items: usize,
) -> Result<Turned, ClientError> {
    let evidence = evidence.ok_or(ClientError::Incomplete("evidence"))?;
    Ok(Turned { page: Page { claims, evidence }, next, items })
}

fn versions(
    versions: Vec<proto::Version>,
    total: u64,
    evidence: Option<proto::Evidence>,
    next: String,
) -> Result<Turned, ClientError> {
    let items = versions.len();
    let versions = versions.into_iter().map(version).collect();
    turned(Claims::Versions { versions, total }, evidence, next, items)
}

fn changed(
    as_of_us: u64,
    changes: Vec<MemberChange>,
    evidence: Option<proto::Evidence>,
    next: String,
) -> Result<Turned, ClientError> {
    let items = changes.len();
    turned(Claims::Changes { as_of_us, changes }, evidence, next, items)
}

fn state(digest: String, state: Option<proto::StateAt>) -> StateClaim {
    let proto::StateAt { at, next } = state.unwrap_or_default();
    StateClaim { digest, at: at.map(version), next: next.map(version) }
}

fn version(version: proto::Version) -> VersionClaim {
    let proto::Version { version, index, recorded_at_us, effective } = version;
    VersionClaim { version, index, recorded_at_us, effective }
}

fn tag_member(tag: &str) -> Result<Member, ClientError> {
    tag.parse().map(Member::Tag).map_err(|_| ClientError::Incomplete("valid tag in its list"))
}

fn workload_member(workload: Option<proto::Workload>) -> Result<Member, ClientError> {
    let proto::Workload { environment, cluster, namespace, workload, container } =
        workload.ok_or(ClientError::Incomplete("workload in its list"))?;
    Ok(Member::Workload(WorkloadName { environment, cluster, namespace, workload, container }))
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
        Turned { page: Page { claims: Claims::Entry, evidence }, next: next.to_owned(), items }
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
