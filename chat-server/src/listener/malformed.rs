//! Requests that hyper cannot parse. It answers them itself, with a status and no body, and without
//! calling a service or a hook: the stream below hyper adds the body when the answer is written.

use serde_json::json;

/// The most header fields in a head: the limit of hyper.
pub(crate) const MAX_FIELDS: usize = 100;

const NO_BODY: &[u8] = b"\r\ncontent-length: 0\r\n";

/// The answer with a body that says what is wrong, if `answer` is one of hyper. Answers of the service
/// with these statuses have a body already.
pub(super) fn with_body(answer: &[u8], max_head_bytes: usize) -> Option<Vec<u8>> {
    let status = answer.strip_prefix(b"HTTP/1.1 ").or(answer.strip_prefix(b"HTTP/1.0 "))?;
    let (code, message) = match status.first_chunk()? {
        b"400" => ("bad_request", "This is not a valid HTTP request.".to_owned()),
        b"414" => ("uri_too_long", "The target of the request is too long.".to_owned()),
        b"431" => (
            "head_too_large",
            format!(
                "The head of a request has at most {MAX_FIELDS} header fields and \
                 {max_head_bytes} bytes."
            ),
        ),
        _ => return None,
    };
    // Only within this answer: another one may follow in the same write.
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let length = answer[..end + 2].windows(NO_BODY.len()).position(|line| line == NO_BODY)?;
    let (before, after) = (&answer[..length], &answer[length + NO_BODY.len()..]);
    let body = json!({"code": code, "message": message}).to_string();
    let fields =
        format!("\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
    Some([before, fields.as_bytes(), after, body.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_hyper_get_a_body() {
        let bare =
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let answer = String::from_utf8(with_body(bare, 16_384).unwrap()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(
            head.ends_with("date: x") && body.contains("100 header fields and 16384"),
            "{body}"
        );
    }

    #[test]
    fn other_answers_are_unchanged() {
        for other in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}\
              HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 40",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"",
            b"{\"code\":400}",
        ] {
            assert_eq!(with_body(other, 1), None);
        }
    }
}
