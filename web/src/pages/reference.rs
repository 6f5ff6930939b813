//! The API for people: every endpoint of the OpenAPI document on one page.

use askama::Template;
use axum::response::Response;
use utoipa::openapi::{PathItem, path::Operation};

use super::{Layout, render};
use crate::{api, failure::Failure};

#[derive(Template)]
#[template(path = "reference.html")]
struct ReferencePage {
    layout: Layout,
    groups: Vec<Group>,
}

struct Group {
    name: String,
    endpoints: Vec<Endpoint>,
}

struct Endpoint {
    method: &'static str,
    path: String,
    summary: String,
    description: String,
    answers: Vec<(String, String)>,
}

/// `GET /api`
pub(crate) async fn page() -> Result<Response, Failure> {
    let document = api::document();
    let mut groups: Vec<Group> = Vec::new();
    for (path, item) in &document.paths.paths {
        for (method, operation) in operations(item) {
            let name = operation
                .tags
                .iter()
                .flatten()
                .next()
                .cloned()
                .unwrap_or_default();
            let endpoint = Endpoint {
                method,
                path: path.clone(),
                summary: operation.summary.clone().unwrap_or_default(),
                description: operation.description.clone().unwrap_or_default(),
                answers: answers(operation),
            };
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    name,
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    render(&ReferencePage {
        layout: Layout::new("api", "API"),
        groups,
    })
}

fn operations(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("DELETE", &item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.as_ref().map(|operation| (method, operation)))
}

fn answers(operation: &Operation) -> Vec<(String, String)> {
    operation
        .responses
        .responses
        .iter()
        .map(|(status, response)| {
            let words = match response {
                utoipa::openapi::RefOr::T(response) => response.description.clone(),
                utoipa::openapi::RefOr::Ref(_) => String::new(),
            };
            (status.clone(), words)
        })
        .collect()
}
