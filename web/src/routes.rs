//! Every address, in one table, so that tests can walk over all of them.

use axum::{
    Router,
    handler::Handler,
    http::Method,
    routing::{MethodFilter, on},
};

use crate::{WebState, api, assets, health, pages};

/// A method and a path that are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with `{names}`.
    pub path: &'static str,
}

/// Everything the router serves.
pub fn routes() -> Vec<Route> {
    table().routes
}

pub(crate) fn build() -> Router<WebState> {
    table().router
}

struct Table {
    router: Router<WebState>,
    routes: Vec<Route>,
}

impl Table {
    fn get<H, T>(self, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, WebState>,
        T: 'static,
    {
        self.add(Method::GET, MethodFilter::GET, path, handler)
    }

    fn post<H, T>(self, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, WebState>,
        T: 'static,
    {
        self.add(Method::POST, MethodFilter::POST, path, handler)
    }

    fn put<H, T>(self, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, WebState>,
        T: 'static,
    {
        self.add(Method::PUT, MethodFilter::PUT, path, handler)
    }

    fn delete<H, T>(self, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, WebState>,
        T: 'static,
    {
        self.add(Method::DELETE, MethodFilter::DELETE, path, handler)
    }

    fn add<H, T>(
        mut self,
        method: Method,
        filter: MethodFilter,
        path: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, WebState>,
        T: 'static,
    {
        self.routes.push(Route { method, path });
        self.router = self.router.route(path, on(filter, handler));
        self
    }
}

fn table() -> Table {
    Table {
        router: Router::new(),
        routes: Vec::new(),
    }
    .get("/", pages::home::page)
    .get("/events", pages::home::events)
    .get("/dags", pages::dags::page)
    .get("/dags/events", pages::dags::events)
    .get("/dags/{dag}", pages::dag::page)
    .get("/dags/{dag}/events", pages::dag::events)
    .post("/dags/{dag}/trigger", pages::actions::trigger)
    .post("/dags/{dag}/pause", pages::actions::pause)
    .post("/dags/{dag}/unpause", pages::actions::unpause)
    .get("/dags/{dag}/backfills", pages::backfills::page)
    .get("/dags/{dag}/backfills/events", pages::backfills::events)
    .post("/dags/{dag}/backfills", pages::backfills::create)
    .post("/backfills/{backfill}/pause", pages::backfills::pause)
    .post("/backfills/{backfill}/resume", pages::backfills::resume)
    .post("/backfills/{backfill}/cancel", pages::backfills::cancel)
    .get("/runs", pages::runs::page)
    .get("/runs/events", pages::runs::events)
    .get("/runs/{run}", pages::run::page)
    .get("/runs/{run}/events", pages::run::events)
    .post("/runs/{run}/cancel", pages::actions::cancel)
    .get("/runs/{run}/clear", pages::clear::page)
    .post("/runs/{run}/clear", pages::clear::confirm)
    .post("/runs/{run}/mark", pages::actions::mark_run)
    .post("/runs/{run}/note", pages::actions::note_run)
    .get("/runs/{run}/tasks/{task}", pages::task::page)
    .get("/runs/{run}/tasks/{task}/events", pages::task::events)
    .post("/runs/{run}/tasks/{task}/mark", pages::actions::mark_task)
    .post("/runs/{run}/tasks/{task}/note", pages::actions::note_task)
    .get("/datasets", pages::datasets::page)
    .get("/datasets/events", pages::datasets::events)
    .get("/reports", pages::reports::page)
    .get("/reports/{report}", pages::reports::runs)
    .get("/reports/{report}/{kept}", pages::reports::show)
    .get("/reports/{report}/{kept}/{format}", pages::reports::file)
    .get("/pools", pages::pools::page)
    .get("/pools/events", pages::pools::events)
    .post("/pools", pages::pools::set)
    .post("/pools/{pool}/delete", pages::pools::delete)
    .get("/connections", pages::connections::page)
    .post("/connections", pages::connections::set)
    .post(
        "/connections/{connection}/delete",
        pages::connections::delete,
    )
    .post("/connections/{connection}/test", pages::connections::test)
    .get("/variables", pages::variables::page)
    .post("/variables", pages::variables::set)
    .post("/variables/{variable}/delete", pages::variables::delete)
    .get("/streams", pages::streams::page)
    .get("/streams/events", pages::streams::events)
    .get("/workers", pages::workers::page)
    .get("/workers/events", pages::workers::events)
    .get("/notifications", pages::notifications::page)
    .get("/notifications/events", pages::notifications::events)
    .post(
        "/notifications/{message}/retry",
        pages::notifications::retry,
    )
    .get("/api", pages::reference::page)
    .get("/api/v1/openapi.json", api::openapi)
    .get("/api/v1/dags", api::dags::list)
    .get("/api/v1/dags/{dag}", api::dags::show)
    .get("/api/v1/dags/{dag}/next", api::dags::next)
    .post("/api/v1/dags/{dag}/runs", api::dags::trigger)
    .post("/api/v1/dags/{dag}/pause", api::dags::pause)
    .post("/api/v1/dags/{dag}/unpause", api::dags::unpause)
    .post("/api/v1/dags/{dag}/backfills", api::backfills::create)
    .post(
        "/api/v1/dags/{dag}/backfills/dry-run",
        api::backfills::dry_run,
    )
    .get("/api/v1/backfills", api::backfills::list)
    .get("/api/v1/backfills/{backfill}", api::backfills::show)
    .get("/api/v1/backfills/{backfill}/dates", api::backfills::dates)
    .post("/api/v1/backfills/{backfill}/pause", api::backfills::pause)
    .post(
        "/api/v1/backfills/{backfill}/resume",
        api::backfills::resume,
    )
    .post(
        "/api/v1/backfills/{backfill}/cancel",
        api::backfills::cancel,
    )
    .get("/api/v1/runs", api::runs::list)
    .get("/api/v1/runs/{run}", api::runs::show)
    .post("/api/v1/runs/{run}/cancel", api::runs::cancel)
    .post("/api/v1/runs/{run}/clear", api::runs::clear)
    .post("/api/v1/runs/{run}/mark", api::runs::mark)
    .get("/api/v1/runs/{run}/notes", api::runs::notes)
    .put("/api/v1/runs/{run}/note", api::runs::set_note)
    .get("/api/v1/runs/{run}/tasks", api::tasks::list)
    .get("/api/v1/runs/{run}/tasks/{task}", api::tasks::show)
    .post("/api/v1/runs/{run}/tasks/{task}/clear", api::tasks::clear)
    .post("/api/v1/runs/{run}/tasks/{task}/retry", api::tasks::retry)
    .get("/api/v1/runs/{run}/tasks/{task}/why", api::tasks::why)
    .put("/api/v1/runs/{run}/tasks/{task}/note", api::tasks::set_note)
    .get("/api/v1/runs/{run}/tasks/{task}/log", api::tasks::log)
    .get("/api/v1/runs/{run}/tasks/{task}/output", api::tasks::output)
    .get(
        "/api/v1/runs/{run}/tasks/{task}/rendered",
        api::tasks::rendered,
    )
    .get("/api/v1/runs/{run}/datasets", api::datasets::of_run)
    .get("/api/v1/datasets", api::datasets::list)
    .get("/api/v1/datasets/events", api::datasets::events)
    .post("/api/v1/datasets/events", api::datasets::push)
    .get("/api/v1/reports", api::reports::list)
    .get("/api/v1/reports/{report}", api::reports::runs)
    .get("/api/v1/pools", api::pools::list)
    .get("/api/v1/pools/{pool}", api::pools::show)
    .put("/api/v1/pools/{pool}", api::pools::set)
    .delete("/api/v1/pools/{pool}", api::pools::delete)
    .get("/api/v1/connections", api::connections::list)
    .get("/api/v1/connections/{connection}", api::connections::show)
    .put("/api/v1/connections/{connection}", api::connections::set)
    .delete("/api/v1/connections/{connection}", api::connections::delete)
    .post(
        "/api/v1/connections/{connection}/test",
        api::connections::test,
    )
    .get("/api/v1/variables", api::variables::list)
    .get("/api/v1/variables/{variable}", api::variables::show)
    .put("/api/v1/variables/{variable}", api::variables::set)
    .delete("/api/v1/variables/{variable}", api::variables::delete)
    .get("/api/v1/streams", api::streams::list)
    .get("/api/v1/workers", api::workers::list)
    .get("/api/v1/workers/{worker}", api::workers::show)
    .get("/api/v1/notifications", api::notifications::list)
    .post(
        "/api/v1/notifications/{message}/retry",
        api::notifications::retry,
    )
    .get(
        "/api/v1/runs/{run}/deadlines",
        api::notifications::deadlines,
    )
    .get("/assets/{file}", assets::serve)
    .get("/healthz", health::healthz)
    .get("/readyz", health::readyz)
    .get("/metrics", health::metrics)
}
