//! The WebSocket handshake: from an HTTP request to a session.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chat_core::{Dialect, RoomId, UserId};
use chat_transport::{HandshakeError, Session, SharedTcp, TransportConfig, handshake};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use crate::auth;
use crate::auth::{Access, Action, AuthError, Credentials, Handshake, Verdict};
use crate::connection::{self, ConnectParams};
use crate::limits::{ConnectionPermit, LimitReached};
use crate::listener::HttpStream;
use crate::moderation::SanctionScope;
use crate::refusal::Refusal;
use crate::secret::Secret;
use crate::state::State;

/// The upgrade that a request asks for, if any.
pub(crate) struct Upgrade {
    /// Whether the request asks for another protocol, even if it is no WebSocket. It then gets no page:
    /// a 426 names the protocol that the server supports (RFC 9110, section 7.8).
    pub(crate) asked_for: bool,
    on_upgrade: Option<OnUpgrade>,
}

/// What is known of a client whose handshake is refused.
#[derive(Debug, Default)]
pub(crate) struct Applicant {
    /// By its credentials, or by its own words where there are none.
    pub(crate) user: Option<UserId>,
    /// The room in the URL.
    pub(crate) room: Option<RoomId>,
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
    /// Answers the handshake. Once hyper hands the stream over, a new task serves the connection: that of
    /// HTTP is larger, and ends.
    pub(crate) async fn accept(
        self,
        state: &Arc<State>,
        request: Request,
        mut params: ConnectParams,
        applicant: &mut Applicant,
    ) -> Result<Response, Refusal> {
        params.address = state.proxies.client_address(request.headers(), request.extensions());
        applicant.room.clone_from(&params.room);
        state.origins.check(request.headers())?;
        if state.is_draining() {
            return Err(Refusal::draining());
        }
        let response = match handshake::respond(&request, &[Dialect::SUBPROTOCOL]) {
            Ok(response) => response,
            Err(error) => return Ok(no_handshake(state, error, params.address)),
        };
        let Some(on_upgrade) = self.on_upgrade else {
            return Err(Refusal::no_upgrade());
        };
        let (parts, _) = request.into_parts();
        state.proxies.warn_if_untrusted(&parts.headers, &parts.extensions);
        let permit = admit(state, params.address)?;
        params.native = response.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        let in_url = params.token.as_ref().map(Secret::reveal);
        (params.access, params.handshake) = access(state, &parts, in_url).await?;
        params.token = None;
        applicant.user = known_user(&params).cloned();
        check_admission(state, &params).await?;
        let arrival = state.sessions.arrive();
        // Again: a drain that began before the line above does not wait for this client.
        if state.is_draining() {
            return Err(Refusal::draining());
        }
        let state = Arc::clone(state);
        tokio::spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => serve(state, upgraded, params, permit),
                Err(error) => tracing::debug!(%error, "handshake not completed"),
            }
            drop(arrival);
        });
        Ok(response.map(|()| Body::empty()))
    }
}

/// The answer to a request that is not a valid handshake.
fn no_handshake(state: &State, error: HandshakeError, address: Option<IpAddr>) -> Response {
    let refusal = not_a_handshake(error);
    state.metrics.refused(&refusal);
    state.client_lines.handshake_refused(&refusal, None, None, address);
    let mut response = refusal.into_response();
    response.headers_mut().extend(error.response().into_parts().0.headers);
    response
}

fn not_a_handshake(error: HandshakeError) -> Refusal {
    let reason = match error {
        HandshakeError::Method => "method",
        HandshakeError::NotAnUpgrade => "no_upgrade",
        HandshakeError::HttpVersion => "http_version",
        HandshakeError::Version => "version",
        HandshakeError::Key => "key",
        _ => "malformed",
    };
    let message = format!("Not a WebSocket handshake: {error}.");
    Refusal::new(error.status(), "no_websocket", message).because(reason)
}

fn admit(state: &State, address: Option<IpAddr>) -> Result<ConnectionPermit, Refusal> {
    state.limits.admit(address).map_err(|reached| {
        state.metrics.limited(match reached {
            LimitReached::Full => "connections",
            LimitReached::Address => "address_connections",
        });
        if let (LimitReached::Address, Some(address)) = (reached, address) {
            state.proxies.warn_of_crowd(address);
        }
        reached.into()
    })
}

/// The access of a client by the credentials in its request, and what renews it.
pub(crate) async fn access(
    state: &State,
    parts: &Parts,
    in_url: Option<&str>,
) -> Result<(Access, Option<Box<Handshake>>), Refusal> {
    let Some(authenticator) = &state.authenticator else { return Ok((Access::Open, None)) };
    let (headers, extensions) = (&parts.headers, &parts.extensions);
    let credentials = Credentials {
        token: auth::bearer(headers).or(in_url),
        headers: Some(headers),
        extensions: Some(extensions),
        address: state.proxies.client_address(headers, extensions),
    };
    let time_limit = state.config.auth_timeout;
    match auth::authenticate(&**authenticator, &credentials, time_limit).await {
        Ok(identity) => {
            let handshake = credentials.handshake(&identity);
            Ok((Access::Granted(Arc::new(identity)), handshake))
        }
        Err(AuthError::Missing) => Ok((Access::Pending, None)),
        Err(error) => {
            let (user, address) = (error.user(), credentials.address);
            state.client_lines.credentials_rejected(&error, user, address, None);
            state.metrics.limited("token");
            Err(Refusal::from(error).logged())
        }
    }
}

/// Rejects a client that is banned, or that may not join the room in the URL, before the handshake
/// completes. That room is joined in a dialect without `hello`, so a token must be in the request.
///
/// Where clients need tokens, `?userId=` is a claim of anyone: an answer to it would show strangers the
/// bans of that user, and what moderators wrote.
async fn check_admission(state: &State, params: &ConnectParams) -> Result<(), Refusal> {
    let user = known_user(params);
    let not_banned = |scope| match user.and_then(|user| state.moderation.ban(scope, user)) {
        Some(notice) => Err(Refusal::banned(notice)),
        None => Ok(()),
    };
    not_banned(SanctionScope::Server)?;
    let Some(room) = &params.room else { return Ok(()) };
    not_banned(SanctionScope::Room(room))?;
    match may_join(state, params, room).await {
        Verdict::Allowed => Ok(()),
        Verdict::Forbidden => Err(Refusal::forbidden()),
        Verdict::Unauthorized => Err(AuthError::Missing.into()),
    }
}

fn known_user(params: &ConnectParams) -> Option<&UserId> {
    match &params.access {
        Access::Open => params.user_id.as_ref(),
        access => access.identity().map(|identity| &identity.user),
    }
}

async fn may_join(state: &State, params: &ConnectParams, room: &RoomId) -> Verdict {
    params.access.authorize(state.authorizer.as_deref(), Action::join(room)).await
}

/// Spawns the task of a connection. A TCP stream is unwrapped from hyper's types, so that other tasks
/// can write to it directly; any other stream is served as it is.
fn serve(state: Arc<State>, upgraded: Upgraded, params: ConnectParams, permit: ConnectionPermit) {
    let transport = Arc::clone(&state.transport);
    match session_below(upgraded, &transport) {
        Ok(session) => {
            let session = session.with_stats(&state.outboxes);
            tokio::spawn(connection::serve(state, session, params, permit));
        }
        Err(upgraded) => {
            let session = Session::new(TokioIo::new(upgraded), Bytes::new(), transport)
                .with_stats(&state.outboxes);
            tokio::spawn(connection::serve(state, session, params, permit));
        }
    }
}

/// A session on the TCP stream of this server's listener or of axum's.
fn session_below(
    upgraded: Upgraded,
    transport: &Arc<TransportConfig>,
) -> Result<Session<SharedTcp>, Upgraded> {
    let transport = Arc::clone(transport);
    let upgraded = match upgraded.downcast::<TokioIo<HttpStream>>() {
        Ok(parts) => {
            let tcp = parts.io.into_inner().into_tcp();
            return Ok(Session::on_accepted(tcp, parts.read_buf, transport));
        }
        Err(upgraded) => upgraded,
    };
    let parts = auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded)?;
    Ok(Session::on_tcp(parts.io.into_inner(), parts.read_buf, transport))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::pin::pin;

    use async_trait::async_trait;
    use futures_util::FutureExt;
    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;
    use crate::auth::{Authenticator, Identity};
    use crate::metrics::{Metrics, REFUSALS};
    use crate::moderation::{SanctionKind, SanctionNotice};
    use crate::{BanOptions, Server};

    /// All that [`connect`](crate::http) and the check of hosts refuse handshakes with, and nothing else,
    /// has a counter from the start.
    #[test]
    fn every_refusal_of_a_handshake_is_counted_from_the_start() {
        let notice =
            SanctionNotice { id: "1".into(), kind: SanctionKind::Ban, reason: None, until: None };
        let invalid = UserId::new("").unwrap_err();
        let mut refusals = vec![
            Refusal::name("room", invalid),
            Refusal::name("userId", invalid),
            Refusal::invalid_host(),
            Refusal::host(),
            Refusal::origin(),
            Refusal::body_too_large(),
            Refusal::no_upgrade(),
            Refusal::draining(),
            Refusal::banned(notice),
            Refusal::forbidden(),
            AuthError::Missing.into(),
            AuthError::Unavailable("keys".to_owned()).into(),
            LimitReached::Full.into(),
            LimitReached::Address.into(),
        ];
        refusals.extend(
            [
                HandshakeError::Malformed,
                HandshakeError::HttpVersion,
                HandshakeError::Method,
                HandshakeError::NotAnUpgrade,
                HandshakeError::Version,
                HandshakeError::Key,
            ]
            .map(not_a_handshake),
        );
        let found: BTreeSet<_> =
            refusals.iter().map(|each| (each.status.as_u16(), each.reason)).collect();
        assert_eq!(found, BTreeSet::from(REFUSALS));
        let metrics = Metrics::new(false);
        refusals.iter().for_each(|each| metrics.refused(each));
    }

    #[derive(Debug)]
    struct NoOne;

    #[async_trait]
    impl Authenticator for NoOne {
        async fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, AuthError> {
            Err(AuthError::Missing)
        }
    }

    /// The code that a client without a token gets that claims to be a banned user.
    async fn refusal_of_claim(server: Server, access: Access) -> Option<&'static str> {
        let bob = UserId::new("bob").unwrap();
        server.user(&bob).ban(BanOptions::default()).await.unwrap();
        while server.bans().is_empty() {
            yield_now().await;
        }
        let params = ConnectParams { user_id: Some(bob), access, ..ConnectParams::default() };
        check_admission(&server.state, &params).await.err().map(|refusal| refusal.reason)
    }

    #[tokio::test]
    async fn claimed_id_counts_for_bans_in_open_mode_alone() {
        let open = Server::builder().start();
        assert_eq!(refusal_of_claim(open, Access::Open).await, Some("banned"));
        let closed = Server::builder().authenticator(NoOne).start();
        assert_eq!(refusal_of_claim(closed, Access::Pending).await, None);
    }

    /// An upgrade that hyper will not complete, and its handshake.
    fn handshake() -> (Upgrade, Request) {
        let request = axum::http::Request::builder()
            .uri("/ws")
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        let mut request = request.body(Body::empty()).unwrap();
        let on_upgrade = Some(hyper::upgrade::on(&mut request));
        (Upgrade { asked_for: true, on_upgrade }, request)
    }

    async fn accept(server: &Server) -> Result<Response, Refusal> {
        let (upgrade, request) = handshake();
        let mut applicant = Applicant { user: None, room: None };
        upgrade.accept(&server.state, request, ConnectParams::default(), &mut applicant).await
    }

    #[tokio::test]
    async fn drain_waits_for_the_task_of_an_accepted_handshake() {
        let server = Server::builder().start();
        assert!(accept(&server).await.is_ok());
        let mut shutdown = pin!(server.shutdown());
        assert!(shutdown.as_mut().now_or_never().is_none());
        shutdown.await;
    }

    /// Decides when it is notified.
    #[derive(Debug)]
    struct Slow(Arc<Notify>);

    #[async_trait]
    impl Authenticator for Slow {
        async fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, AuthError> {
            self.0.notified().await;
            Ok(Identity::new(UserId::new("ann").unwrap()))
        }
    }

    #[tokio::test]
    async fn handshake_that_a_drain_did_not_wait_for_is_refused() {
        let decided = Arc::new(Notify::new());
        let server = Server::builder().authenticator(Slow(Arc::clone(&decided))).start();
        let mut accepting = pin!(accept(&server));
        assert!(accepting.as_mut().now_or_never().is_none());
        server.shutdown().await;
        decided.notify_one();
        assert_eq!(accepting.await.err().map(|refusal| refusal.reason), Some("draining"));
    }
}
