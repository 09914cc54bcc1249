//! From an HTTP request to a WebSocket session.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chat_core::{Dialect, RoomId};
use chat_transport::{HandshakeError, Session, SharedTcp, handshake};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use crate::auth;
use crate::auth::{Access, Action, AuthError, Credentials, Verdict};
use crate::connection::{self, ConnectParams};
use crate::limits::{ConnectionPermit, LimitReached};
use crate::listener::HttpStream;
use crate::metrics::Metrics;
use crate::moderation::Scope;
use crate::refusal::Refusal;
use crate::secret::Secret;
use crate::state::State;

/// A request that may want to become a WebSocket.
pub(crate) struct Upgrade {
    /// Whether another protocol is asked for, if not a WebSocket. What asks for one gets no page:
    /// a client that can do without (RFC 9110, section 7.8) learns from a 426 what is there.
    pub(crate) asked_for: bool,
    on_upgrade: Option<OnUpgrade>,
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let mut lines = parts.headers.get_all(header::UPGRADE).into_iter();
        let asked_for = lines.any(|line| !line.is_empty());
        Ok(Self { asked_for, on_upgrade: parts.extensions.remove::<OnUpgrade>() })
    }
}

impl Upgrade {
    /// Answers the handshake. The connection is served by a task of its own once hyper has
    /// handed the stream over, and nothing of the HTTP side stays with it.
    pub(crate) async fn accept(
        self,
        state: &Arc<State>,
        request: Request,
        mut opening: ConnectParams,
    ) -> Result<Response, Refusal> {
        state.origins.check(request.headers())?;
        if state.is_draining() {
            return Err(Refusal::draining());
        }
        let response = match handshake::respond(&request, &[Dialect::SUBPROTOCOL]) {
            Ok(response) => response,
            Err(error) => return Ok(no_handshake(&state.metrics, error)),
        };
        let Some(on_upgrade) = self.on_upgrade else {
            let message = "A WebSocket is opened by HTTP/1.1.";
            return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "no_websocket", message));
        };
        let (parts, _) = request.into_parts();
        let permit = admit(state, &parts)?;
        opening.native = response.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        opening.access = access(state, &parts, opening.token.as_ref().map(Secret::reveal)).await?;
        opening.token = None;
        may_enter(state, &opening).await?;
        let state = Arc::clone(state);
        tokio::spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => serve(state, upgraded, opening, permit),
                Err(error) => tracing::debug!(%error, "a client left during the handshake"),
            }
        });
        Ok(response.map(|()| Body::empty()))
    }
}

/// The answer that says what would have been a handshake.
fn no_handshake(metrics: &Metrics, error: HandshakeError) -> Response {
    let reason = match error {
        HandshakeError::Method => "method",
        HandshakeError::NotAnUpgrade => "no_upgrade",
        HandshakeError::HttpVersion => "http_version",
        HandshakeError::Version => "version",
        HandshakeError::Key => "key",
        _ => "malformed",
    };
    let message = format!("No WebSocket: {error}.");
    let refusal = Refusal::new(error.status(), "no_websocket", message).because(reason);
    metrics.refused(&refusal);
    let mut response = refusal.into_response();
    response.headers_mut().extend(error.response().into_parts().0.headers);
    response
}

fn admit(state: &State, parts: &Parts) -> Result<ConnectionPermit, Refusal> {
    let address = state.config.client_address(&parts.headers, &parts.extensions);
    state.limits.admit(address).map_err(|refused| {
        state.metrics.limited(match refused {
            LimitReached::Full => "connections",
            LimitReached::Address => "address_connections",
        });
        refused.into()
    })
}

/// How far a client is let in by what its request says of it.
pub(crate) async fn access(
    state: &State,
    parts: &Parts,
    in_url: Option<&str>,
) -> Result<Access, Refusal> {
    let Some(authenticator) = &state.authenticator else { return Ok(Access::Open) };
    let (headers, extensions) = (&parts.headers, &parts.extensions);
    let credentials = Credentials {
        token: auth::bearer(headers).or(in_url),
        headers: Some(headers),
        address: state.config.client_address(headers, extensions),
    };
    let patience = state.config.auth_timeout;
    match auth::authenticate(&**authenticator, &credentials, patience).await {
        Ok(identity) => Ok(Access::Granted(Arc::new(identity))),
        Err(AuthError::Missing) => Ok(Access::Pending),
        Err(error) => {
            state.metrics.limited("token");
            Err(error.into())
        }
    }
}

/// Whoever may not be here, or not in the room that the URL names, need not be let in first.
/// In that room the dialect has no word for a token, so it must be there.
async fn may_enter(state: &State, opening: &ConnectParams) -> Result<(), Refusal> {
    let known = opening.access.identity().map(|identity| &identity.user);
    let user = known.or(opening.user_id.as_ref());
    let is_banned = |scope| user.is_some_and(|user| state.moderation.ban(scope, user).is_some());
    if is_banned(Scope::Server) {
        return Err(Refusal::forbidden());
    }
    let Some(room) = &opening.room else { return Ok(()) };
    if is_banned(Scope::Room(room)) {
        return Err(Refusal::forbidden());
    }
    match may_join(state, opening, room).await {
        Verdict::Allowed => Ok(()),
        Verdict::Forbidden => Err(Refusal::forbidden()),
        Verdict::Unauthorized => Err(AuthError::Missing.into()),
    }
}

async fn may_join(state: &State, opening: &ConnectParams, room: &RoomId) -> Verdict {
    opening.access.ask(state.authorizer.as_deref(), Action::join(room)).await
}

/// Finds the TCP stream below, which can be written to directly; whatever else it is, is
/// served as it is. Either way by a task of its own, which holds nothing but the connection.
fn serve(state: Arc<State>, upgraded: Upgraded, opening: ConnectParams, permit: ConnectionPermit) {
    let transport = Arc::clone(&state.transport);
    match tcp_below(upgraded) {
        Ok((tcp, read)) => {
            let session = Session::on_tcp(tcp, read, transport).with_stats(&state.outboxes);
            tokio::spawn(connection::serve(state, session, opening, permit));
        }
        Err(upgraded) => {
            let session = Session::new(TokioIo::new(upgraded), Bytes::new(), transport)
                .with_stats(&state.outboxes);
            tokio::spawn(connection::serve(state, session, opening, permit));
        }
    }
}

/// The stream, and what was read from it beyond the request: by our own listener, or by
/// axum's.
fn tcp_below(upgraded: Upgraded) -> Result<(SharedTcp, Bytes), Upgraded> {
    let upgraded = match upgraded.downcast::<TokioIo<HttpStream>>() {
        Ok(parts) => return Ok((parts.io.into_inner().into_tcp(), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let parts = auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded)?;
    Ok((SharedTcp::new(parts.io.into_inner()), parts.read_buf))
}
