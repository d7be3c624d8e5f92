//! Asking what was, over gRPC.

use prost::Message;
use tonic::{Request, Response, Status};

use super::Fields;
use crate::api::status;
use crate::api::turns::at_length;
use crate::engine::Ledger;
use crate::engine::query::{QueryError, Reader, fitting};
use crate::ledger::names::{Digest, Registry, Repository};
use crate::ledger::statement::TagName;
use crate::proto::query_service_server::QueryService;
use crate::proto::{
    DiffEnvironmentRequest, DiffEnvironmentResponse, DiffRepositoryRequest, DiffRepositoryResponse, GetPolicyRequest,
    GetPolicyResponse, ListDigestSightingsRequest, ListDigestSightingsResponse, ListPrincipalChangesRequest,
    ListPrincipalChangesResponse, ListRepositoriesRequest, ListRepositoriesResponse, ListRunningRequest,
    ListRunningResponse, ListTagHistoryRequest, ListTagHistoryResponse, ListTagsRequest, ListTagsResponse,
    ProveSubjectRequest, ProveSubjectResponse, ResolveTagRequest, ResolveTagResponse,
};

pub(super) struct Query {
    pub(super) ledger: Ledger,
}

impl Query {
    fn ask<T>(&self, question: impl FnOnce(&Reader<'_>) -> Result<T, QueryError>) -> Result<Response<T>, Status> {
        let answer = self.ledger.read(question).map_err(|error| status::of_read(&error))?;
        answer.map(Response::new).map_err(|error| status::of_query(&error))
    }

    /// The same for an answer in pages, with the size of the page that is to be asked for.
    async fn page<T: Message>(
        &self,
        size: u32,
        question: impl Fn(&Reader<'_>, u32) -> Result<T, QueryError>,
    ) -> Result<Response<T>, Status> {
        at_length(|| self.ask(|reader| fitting(size, |size| question(reader, size)))).await
    }
}

#[tonic::async_trait]
impl QueryService for Query {
    async fn resolve_tag(&self, request: Request<ResolveTagRequest>) -> Result<Response<ResolveTagResponse>, Status> {
        let request = request.into_inner();
        let tag = tag(&request.registry, &request.repository, &request.tag)?;
        self.ask(|reader| reader.resolve(&tag, &request))
    }

    async fn list_tag_history(
        &self,
        request: Request<ListTagHistoryRequest>,
    ) -> Result<Response<ListTagHistoryResponse>, Status> {
        let request = request.into_inner();
        let tag = tag(&request.registry, &request.repository, &request.tag)?;
        self.page(request.page_size, |reader, page_size| {
            reader.tag_history(&tag, &ListTagHistoryRequest { page_size, ..request.clone() })
        })
        .await
    }

    async fn list_tags(&self, request: Request<ListTagsRequest>) -> Result<Response<ListTagsResponse>, Status> {
        let request = request.into_inner();
        let (registry, repository) = place(&request.registry, &request.repository)?;
        self.page(request.page_size, |reader, page_size| {
            reader.tags(&registry, &repository, &ListTagsRequest { page_size, ..request.clone() })
        })
        .await
    }

    async fn list_repositories(
        &self,
        request: Request<ListRepositoriesRequest>,
    ) -> Result<Response<ListRepositoriesResponse>, Status> {
        let request = request.into_inner();
        self.page(request.page_size, |reader, page_size| {
            reader.repositories(&ListRepositoriesRequest { page_size, ..request.clone() })
        })
        .await
    }

    async fn list_digest_sightings(
        &self,
        request: Request<ListDigestSightingsRequest>,
    ) -> Result<Response<ListDigestSightingsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let digest = fields.name::<Digest>("digest", &request.digest);
        let digest = fields.finish(digest)?;
        self.page(request.page_size, |reader, page_size| {
            reader.sightings(&digest, &ListDigestSightingsRequest { page_size, ..request.clone() })
        })
        .await
    }

    async fn list_running(
        &self,
        request: Request<ListRunningRequest>,
    ) -> Result<Response<ListRunningResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.text("environment", &request.environment, 0);
        fields.text("workload", &request.workload, 0);
        fields.finish(Some(()))?;
        self.page(request.page_size, |reader, page_size| {
            reader.running(&ListRunningRequest { page_size, ..request.clone() })
        })
        .await
    }

    async fn diff_repository(
        &self,
        request: Request<DiffRepositoryRequest>,
    ) -> Result<Response<DiffRepositoryResponse>, Status> {
        let request = request.into_inner();
        let (registry, repository) = place(&request.registry, &request.repository)?;
        self.page(request.page_size, |reader, page_size| {
            reader.diff_repository(&registry, &repository, &DiffRepositoryRequest { page_size, ..request.clone() })
        })
        .await
    }

    async fn diff_environment(
        &self,
        request: Request<DiffEnvironmentRequest>,
    ) -> Result<Response<DiffEnvironmentResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        fields.text("environment", &request.environment, 1);
        fields.finish(Some(()))?;
        self.page(request.page_size, |reader, page_size| {
            reader.diff_environment(&DiffEnvironmentRequest { page_size, ..request.clone() })
        })
        .await
    }

    async fn get_policy(&self, request: Request<GetPolicyRequest>) -> Result<Response<GetPolicyResponse>, Status> {
        let request = request.into_inner();
        self.ask(|reader| reader.policy_at(&request))
    }

    async fn list_principal_changes(
        &self,
        request: Request<ListPrincipalChangesRequest>,
    ) -> Result<Response<ListPrincipalChangesResponse>, Status> {
        let request = request.into_inner();
        self.page(request.page_size, |reader, page_size| {
            reader.principal_changes(&ListPrincipalChangesRequest { page_size, ..request.clone() })
        })
        .await
    }

    async fn prove_subject(
        &self,
        request: Request<ProveSubjectRequest>,
    ) -> Result<Response<ProveSubjectResponse>, Status> {
        let request = request.into_inner();
        at_length(|| self.ask(|reader| reader.prove_subject(&request))).await
    }
}

fn tag(registry: &str, repository: &str, tag: &str) -> Result<TagName, Status> {
    let mut fields = Fields::default();
    let place = fields.place(registry, repository);
    let tag = fields.name("tag", tag);
    let name = place.zip(tag).map(|((registry, repository), tag)| TagName { registry, repository, tag });
    fields.finish(name)
}

fn place(registry: &str, repository: &str) -> Result<(Registry, Repository), Status> {
    let mut fields = Fields::default();
    let place = fields.place(registry, repository);
    fields.finish(place)
}
