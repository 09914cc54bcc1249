//! `/api`: what backends may do, each with a key.
//!
//! Each call is one line of [`calls`]: its name, method, path, scope and handler. A call is answered
//! with the fields of the frames of `docs/protocol.md`, and refused with their error codes.

mod audit;
mod batch;
mod body;
mod connections;
mod current_key;
mod export;
pub(crate) mod keys;
mod messages;
mod moderation;
mod names;
mod nodes;
#[cfg(all(test, feature = "jwt"))]
mod openapi;
mod query;
mod rooms;
#[cfg(test)]
mod schemas;
#[cfg(feature = "jwt")]
mod tokens;
mod users;

use std::future::pending;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{
    DefaultBodyLimit, FromRequestParts, OriginalUri, RawPathParams, Request, State as Shared,
};
use axum::handler::Handler;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use chat_core::UserId;
use futures_util::FutureExt;
use tokio::task::JoinError;

use crate::api_lines::{ApiCall, ApiLine};
use crate::auth::bearer;
use crate::moderation::Actor;
use crate::refusal::{Refusal, of_read};
use crate::routes::{check_body, wrong_method};
use crate::state::State;

use audit::{Audit, Effect, Subject};
use keys::{ActiveKey, ApiScope};

/// The largest body of a call, in bytes, unless a message may be larger.
const MAX_BODY: usize = 1024 * 1024;

/// A call that a key may make.
struct Call {
    /// The name in metrics, and the operation's in the OpenAPI document.
    name: &'static str,
    #[cfg_attr(
        not(all(test, feature = "jwt")),
        expect(dead_code, reason = "compared with the OpenAPI document")
    )]
    method: Method,
    /// The path below `/api`.
    path: &'static str,
    /// The scope that the key needs; `None`: any.
    scope: Option<ApiScope>,
    /// What the log has of it. Default: a `POST` changes something, and a `GET` reads what is personal.
    effect: Effect,
    handler: MethodRouter<Arc<State>>,
}

/// The calls that a batch may have.
fn calls() -> Vec<Call> {
    use ApiScope::{Admin, Moderate, Read, Send};
    use Effect::{Neutral, ReadsPersonal, Sanctions};
    Vec::from([
        Call::post("send", "/rooms/{room}/messages", Send, messages::send),
        Call::post("broadcast", "/broadcast", Send, messages::broadcast),
        Call::post("direct", "/users/{user}/messages", Send, messages::direct),
        Call::get("history", "/rooms/{room}/messages", Read, rooms::history),
        Call::get("rooms", "/rooms", Read, rooms::rooms).with(Neutral),
        Call::get("room", "/rooms/{room}", Read, rooms::room).with(Neutral),
        Call::get("members", "/rooms/{room}/members", Read, rooms::members),
        Call::post("status", "/users/status", Read, users::status).with(ReadsPersonal),
        Call::get("users", "/users", Read, users::users),
        Call::get("user", "/users/{user}", Read, users::user),
        Call::post("join", "/rooms/{room}/join", Moderate, rooms::join),
        Call::post("leave", "/rooms/{room}/leave", Moderate, rooms::leave),
        Call::post("kick", "/rooms/{room}/kick", Moderate, moderation::kick).with(Sanctions),
        Call::post("ban", "/rooms/{room}/ban", Moderate, moderation::ban).with(Sanctions),
        Call::post("unban", "/rooms/{room}/unban", Moderate, moderation::unban).with(Sanctions),
        Call::post("disconnect", "/users/{user}/disconnect", Moderate, moderation::disconnect)
            .with(Sanctions),
        Call::post("unban_user", "/users/{user}/unban", Moderate, moderation::unban_user)
            .with(Sanctions),
        Call::get("bans", "/bans", Moderate, moderation::bans),
        Call::get("nodes", "/nodes", Admin, nodes::nodes).with(Neutral),
        Call::get("samples", "/samples", Admin, nodes::samples).with(Neutral),
        Call::get("connections", "/connections", Admin, connections::connections),
        Call::post("rebalance", "/connections/rebalance", Admin, connections::rebalance),
        Call::get("user_connections", "/users/{user}/connections", Admin, connections::of_user),
        #[cfg(feature = "jwt")]
        Call::post("issue_token", "/tokens", ApiScope::Tokens, tokens::issue),
    ])
}

/// The calls that a batch may not have. `batched` has the routes of the others.
fn calls_alone(batched: Router) -> Vec<Call> {
    let batch = move |caller: Caller, body| batch::batch(batched.clone(), caller, body);
    vec![
        Call::new("batch", Method::POST, "/batch", None, batch).with(Effect::Neutral),
        Call::get("export", "/rooms/{room}/export", ApiScope::Erase, export::export),
        Call::new("key", Method::GET, "/key", None, current_key::key).with(Effect::Neutral),
        Call::new("openapi", Method::GET, "/openapi.json", None, openapi_document)
            .with(Effect::Neutral),
    ]
}

/// Every call with its scope.
static SCOPES: LazyLock<Vec<(&str, Option<ApiScope>)>> = LazyLock::new(|| {
    let all = calls().into_iter().chain(calls_alone(Router::new()));
    all.map(|call| (call.name, call.scope)).collect()
});

/// Begins the counters of what the keys of the server may call, and ends those of keys that were removed.
pub(crate) fn expect_requests(state: &State) {
    let keys = state.api_keys.all();
    state.metrics.keep_api_requests(|name| keys.iter().any(|key| key.name() == name));
    for key in keys.iter() {
        for (call, scope) in &*SCOPES {
            if scope.is_none_or(|scope| key.check_scope(scope).is_ok()) {
                state.metrics.expect_api_request(key.name(), call);
            }
        }
    }
}

/// `GET /openapi.json`: what a test has made from the code.
async fn openapi_document() -> impl IntoResponse {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, JSON)], include_str!("api/openapi.json"))
}

impl Call {
    fn post<H, T>(name: &'static str, path: &'static str, scope: ApiScope, handler: H) -> Self
    where
        H: Handler<T, Arc<State>>,
        T: 'static,
    {
        Self::new(name, Method::POST, path, Some(scope), handler)
    }

    fn get<H, T>(name: &'static str, path: &'static str, scope: ApiScope, handler: H) -> Self
    where
        H: Handler<T, Arc<State>>,
        T: 'static,
    {
        Self::new(name, Method::GET, path, Some(scope), handler)
    }

    fn new<H, T>(
        name: &'static str,
        method: Method,
        path: &'static str,
        scope: Option<ApiScope>,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<State>>,
        T: 'static,
    {
        let (effect, handler) = match method {
            Method::GET => (Effect::ReadsPersonal, get(handler)),
            _ => (Effect::Changes, post(handler)),
        };
        Self { name, method, path, scope, effect, handler }
    }

    fn with(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    fn add_to(self, router: Router<Arc<State>>, state: &Arc<State>) -> Router<Arc<State>> {
        let Self { name, path, scope, effect, handler, .. } = self;
        let rules = CallRules { name, scope, effect, state: Arc::clone(state) };
        let handler = handler.route_layer(from_fn_with_state(rules, admit));
        router.route(&format!("/api{path}"), handler)
    }
}

/// The routes below `/api`. Without a key they are not found.
pub(crate) fn router(state: &Arc<State>) -> Router<Arc<State>> {
    let largest = MAX_BODY.max(state.config.transport.frame_limit());
    let add = |router, call: Call| call.add_to(router, state);
    let batched = calls().into_iter().fold(Router::new(), add);
    let alone = calls_alone(
        batched
            .clone()
            .fallback(async || Refusal::not_found())
            .method_not_allowed_fallback(wrong_method)
            .layer(DefaultBodyLimit::max(largest))
            .with_state(Arc::clone(state)),
    );
    alone
        .into_iter()
        .fold(batched, add)
        .route_layer(from_fn_with_state(Arc::clone(state), authenticate))
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(largest))
        .layer(from_fn_with_state(largest, check_body))
}

/// Lets a request with a valid key pass, with the key as an extension.
async fn authenticate(
    Shared(state): Shared<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response {
    if state.api_keys.is_empty() {
        return Refusal::not_found().into_response();
    }
    let address = state.proxies.client_address(request.headers(), request.extensions());
    let given = given_key(request.headers());
    let key = given.and_then(|given| state.api_keys.find(given));
    let (reason, name, message) = match &key {
        Some(key) if key.has_ended() => {
            ("ended", Some(key.name()), format!("The key \"{}\" has ended.", key.name()))
        }
        Some(key) => {
            request.extensions_mut().insert(Arc::clone(key));
            request.extensions_mut().insert(CallerAddress(address));
            return next.run(request).await;
        }
        None => {
            let message = "A valid API key is required: Authorization: Bearer …".to_owned();
            let reason = if given.is_none_or(str::is_empty) { "missing" } else { "unknown" };
            (reason, given.and_then(|given| state.api_keys.name_in(given)), message)
        }
    };
    state.client_lines.key_rejected(reason, name, address);
    state.metrics.limited("api_key");
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response()
}

fn given_key(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    bearer(headers)
}

/// The address of the client that makes a call, or the batch that the call is of.
#[derive(Debug, Clone, Copy)]
struct CallerAddress(Option<IpAddr>);

/// Who makes a call, and what the log should have of it.
#[derive(Debug, Clone)]
struct Caller {
    key: Arc<ActiveKey>,
    address: Option<IpAddr>,
    audit: Audit,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let key = parts.extensions.get::<Arc<ActiveKey>>().cloned();
        let CallerAddress(address) = parts.extensions.get().copied().unwrap_or(CallerAddress(None));
        let audit = parts.extensions.get().cloned().unwrap_or_default();
        // The layer above has put it there.
        key.map(|key| Self { key, address, audit }).ok_or_else(Refusal::forbidden)
    }
}

impl Caller {
    fn actor(&self) -> Actor<'_> {
        Actor::Key { name: self.key.name(), address: self.address }
    }
}

/// What decides whether a key may make a call.
#[derive(Clone)]
struct CallRules {
    name: &'static str,
    scope: Option<ApiScope>,
    effect: Effect,
    state: Arc<State>,
}

impl CallRules {
    fn check(&self, key: &ActiveKey) -> Result<(), Refusal> {
        key.take_call()?;
        self.scope.map_or(Ok(()), |scope| key.check_scope(scope))
    }

    /// Logs a call that was carried out, or may have been.
    fn log(&self, caller: &Caller, params: Option<&RawPathParams>, status: StatusCode) {
        let kind = match self.effect {
            Effect::Changes => ApiLine::Change,
            Effect::ReadsPersonal => ApiLine::Read,
            Effect::Sanctions | Effect::Neutral => return,
        };
        let subject = caller.audit.subject();
        let Subject { user, as_user, users, rooms, search, users_hash, .. } = &subject;
        let Subject { seconds, percent, connections, is_own_message, .. } = &subject;
        let in_path = |wanted| {
            let mut params = params.into_iter().flatten();
            params.find_map(|(name, value)| (name == wanted).then_some(value))
        };
        let call = ApiCall {
            key: caller.key.name(),
            call: self.name,
            status: status.as_u16(),
            address: caller.address,
            user: user.as_ref().map(UserId::as_str).or_else(|| in_path("user")),
            as_user: as_user.as_ref().map(UserId::as_str),
            room: in_path("room"),
            users: *users,
            rooms: *rooms,
            search: search.as_deref(),
            users_hash: *users_hash,
            seconds: *seconds,
            percent: *percent,
            connections: *connections,
        };
        self.state.client_lines.api.call(kind, &call, *is_own_message);
    }
}

/// Checks the rate and the scope of the key, and counts and logs the answer.
async fn admit(
    Shared(rules): Shared<CallRules>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    // Each call of a batch has its own.
    let caller = Caller { audit: Audit::default(), ..caller };
    request.extensions_mut().insert(caller.audit.clone());
    run_detached(async move {
        let key = &caller.key;
        let outcome = match rules.check(key) {
            Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await,
            Err(refusal) => Ok(refusal.into_response()),
        };
        let status = match &outcome {
            Ok(response) => response.status(),
            // The call may have changed something before: the log has its line.
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::FORBIDDEN {
            let lines = &rules.state.client_lines.api;
            lines.forbidden(key.name(), rules.name, uri.path(), caller.address);
        }
        if !status.is_client_error() {
            rules.log(&caller, params.ok().as_ref(), status);
        }
        rules.state.metrics.api_request(key.name(), rules.name, status);
        match outcome {
            Ok(response) if rules.effect.is_read() => of_read(response),
            Ok(response) => response,
            Err(panic) => resume_unwind(panic),
        }
    })
    .await
}

/// Runs a call in a task of its own: hyper drops the future of a handler when its client disconnects. A caller
/// that does not wait for the answer would leave a call half done, and its line out of the log.
async fn run_detached<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(call).await.map_err(JoinError::try_into_panic) {
        Ok(answer) => answer,
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime ends, and this future with it.
        Err(Err(_)) => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn call_ends_also_when_its_client_has_disconnected() {
        let (go_on, begun) = oneshot::channel::<()>();
        let (report, ended) = oneshot::channel();
        {
            let mut call = pin!(run_detached(async {
                begun.await.unwrap();
                report.send(()).unwrap();
            }));
            assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        go_on.send(()).unwrap();
        ended.await.unwrap();
    }

    #[tokio::test]
    async fn panic_of_a_call_is_that_of_its_connection() {
        let outer = tokio::spawn(run_detached(async { panic!("a bug") }));
        assert!(outer.await.is_err_and(|error| error.is_panic()));
    }
}
