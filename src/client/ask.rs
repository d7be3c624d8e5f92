//! Asking a question: all pages of it, checked, with the claims kept for whoever wants to check again.

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

/// One page as it came, and where the next begins.
struct Turned {
    page: Page,
    next: String,
    items: usize,
}

impl RemoteLedger {
    /// Asks, and returns the answer if it verifies, with what it was derived from.
    pub async fn ask(&self, question: Question) -> Result<(Answer, Claimed), ClientError> {
        let pages = self.pages(&question).await?;
        let growth = self.growth_of(&pages).await?;
        let claimed = Claimed { question, pages, growth };
        let answer = claimed.check(self.vkey())?;
        // The pages are of one log, up to the largest checkpoint among them; that one must be of the log known so far.
        self.observe(answer.entries.note()).await?;
        Ok((answer, claimed))
    }

    async fn pages(&self, question: &Question) -> Result<Vec<Page>, ClientError> {
        let (mut pages, mut token) = (Vec::new(), String::new());
        let mut left = question.limit();
        loop {
            let size = left.map_or(MAX_PAGE_SIZE, |left| left.min(MAX_PAGE_SIZE));
            let page_size = u32::try_from(size).expect("a page is small");
            let turned = self.page(question, page_size, &token).await?;
            pages.push(turned.page);
            let items = u64::try_from(turned.items).expect("a page is small");
            left = left.map(|left| left.saturating_sub(items));
            // A server that sends us round in circles is not followed.
            if turned.next.is_empty() || left == Some(0) || turned.next == token {
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
                };
                let response = self.queries().list_tag_history(request).await?.into_inner();
                versions(response.versions, response.total, response.evidence, response.next_page_token)
            }
            Question::Sightings { digest, .. } => {
                let request = proto::ListDigestSightingsRequest { digest: digest.to_string(), page_size, page_token };
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
