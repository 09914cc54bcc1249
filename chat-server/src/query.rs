//! The query parameters of a client's URL.

use std::borrow::Cow;

use axum::http::{StatusCode, Uri};
use chat_core::{RoomId, UserId, UserName};
use percent_encoding::percent_decode;

use crate::connection::ConnectParams;
use crate::refusal::Refusal;
use crate::secret::Secret;

/// The supported parameters. Others are ignored.
#[derive(Default)]
pub(crate) struct ClientQuery {
    user_id: Option<String>,
    user: Option<String>,
    username: Option<String>,
    history: Option<String>,
    token: Option<String>,
}

impl ClientQuery {
    /// Reads `application/x-www-form-urlencoded`, as the URL standard does (an invalid percent
    /// sequence stands for itself), but rejects what could make one user of two: bytes that are not
    /// UTF-8, and a parameter that occurs twice.
    ///
    /// # Errors
    /// `bad_field`.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let mut query = Self::default();
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name).ok_or_else(|| bad("The query is not UTF-8."))?;
            let value = decoded(value)
                .ok_or_else(|| bad(format!("The value of {name:?} in the query is not UTF-8.")))?;
            if let Some(parameter) = query.parameter(&name)
                && parameter.replace(value).is_some()
            {
                return Err(bad(format!("{name:?} occurs twice in the query.")));
            }
        }
        Ok(query)
    }

    fn parameter(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "userId" => &mut self.user_id,
            "user" => &mut self.user,
            "username" => &mut self.username,
            "history" => &mut self.history,
            "token" => &mut self.token,
            _ => return None,
        })
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The parameters of the connection. Names have at most `max_name_bytes` bytes.
    ///
    /// # Errors
    /// `bad_field`.
    pub(crate) fn params(
        self,
        max_name_bytes: usize,
        room: Option<RoomId>,
    ) -> Result<ConnectParams, Refusal> {
        for name in [&self.user_id, &self.user, &self.username].into_iter().flatten() {
            check_length("userId, user or username", name, max_name_bytes)?;
        }
        let user_id = self.user_id.map(UserId::new).transpose();
        let user_id = user_id.map_err(|why| Refusal::name("userId", why))?;
        if user_id.as_ref().is_some_and(UserId::is_backend) {
            return Err(bad("The value of \"userId\" begins with @, as ids of backends do."));
        }
        let name = self.user.or(self.username).map(UserName::new).transpose();
        let history = self.history.map(|history| history.parse()).transpose();
        Ok(ConnectParams {
            user_id,
            name: name.map_err(|why| Refusal::name("user", why))?,
            room,
            history: history
                .map_err(|_| bad("The value of \"history\" is not a number."))?
                .unwrap_or(0),
            token: self.token.map(Secret::new),
            ..ConnectParams::default()
        })
    }
}

/// Rejects a name that is too long.
pub(crate) fn check_length(field: &str, name: &str, max: usize) -> Result<(), Refusal> {
    if name.len() <= max {
        return Ok(());
    }
    Err(bad(format!("The value of {field} has at most {max} bytes.")))
}

/// `None` if the bytes are not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode(text.as_bytes()).decode_utf8().ok().map(Cow::into_owned)
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "bad_field", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_id(query: &str) -> Option<String> {
        let uri = format!("/ws?{query}").parse().unwrap();
        ClientQuery::parse(&uri).ok()?.user_id
    }

    #[test]
    fn values_are_form_encoded() {
        for (query, expected) in [
            ("userId=a", "a"),
            ("userId=a%20b", "a b"),
            ("userId=a+b", "a b"),
            ("userId=a%2Bb", "a+b"),
            ("userId=%C3%84", "\u{c4}"),
            ("userId=\u{c4}", "\u{c4}"),
            ("%75serId=a", "a"),
            ("userId=a=b", "a=b"),
            ("x=%2&userId=100%", "100%"),
            ("userId=%zz", "%zz"),
            ("userId=%2", "%2"),
            ("&&userId=a&", "a"),
            ("userId", ""),
        ] {
            assert_eq!(user_id(query).as_deref(), Some(expected), "{query}");
        }
    }

    /// Each would be the same user as another id.
    #[test]
    fn ambiguous_values_are_refused() {
        for query in [
            "userId=%ff",
            "userId=a%fe",
            "userId=%C3",
            "userId=%ED%A0%80",
            "userId=%C0%80",
            "%ff=1&userId=a",
            "other=%ff&userId=a",
            "userId=a&userId=b",
            "userId=a&userId=a",
            "userId=a&%75serId=b",
            "userId=&userId=b",
        ] {
            assert_eq!(user_id(query), None, "{query}");
        }
    }

    proptest::proptest! {
        #[test]
        fn encoded_id_is_read_as_it_was(id in "\\PC{1,20}") {
            let encoded = percent_encoding::utf8_percent_encode(&id, percent_encoding::NON_ALPHANUMERIC);
            proptest::prop_assert_eq!(user_id(&format!("userId={encoded}")), Some(id));
        }
    }
}
