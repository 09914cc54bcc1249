//! The OpenAPI document, made from the handlers and their types. The server serves `openapi.json`, and
//! a test fails if that differs: so the server needs no library for it. To write it again:
//! `UPDATE_DOCS=1 cargo test -p roomcast-server --lib openapi`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::Path;

use axum::Router;
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::keys::ApiScope;
use super::{
    Call, batch, calls, calls_alone, connections, current_key, export, messages, moderation, nodes,
    rooms, tokens, users,
};
use crate::refusal::ErrorBody;

const DESCRIPTION: &str = "What a backend does in a chat. Each call needs a key, as `Authorization: \
Bearer …` or `X-Api-Key`, with the scope that the call names. A call that fails is answered with \
`{\"code\",\"message\"}`.";

#[derive(OpenApi)]
#[openapi(
    paths(
        messages::send,
        messages::broadcast,
        messages::direct,
        rooms::history,
        rooms::room,
        rooms::rooms,
        rooms::members,
        rooms::join,
        rooms::leave,
        export::export,
        moderation::kick,
        moderation::ban,
        moderation::unban,
        moderation::disconnect,
        moderation::unban_user,
        moderation::bans,
        tokens::issue,
        users::status,
        users::users,
        users::user,
        current_key::key,
        nodes::nodes,
        nodes::samples,
        connections::connections,
        connections::rebalance,
        connections::of_user,
        batch::batch,
        document_call,
    ),
    components(schemas(ErrorBody, rooms::Order))
)]
struct Document;

/// Reads this document.
#[utoipa::path(
    get, path = "/api/openapi.json", tag = "document",
    responses((status = 200, description = "The document.", body = Value)),
)]
#[expect(dead_code, reason = "carries the description of the handler, which takes no parameters")]
fn document_call() {}

/// The statuses with which calls are refused, and the codes of their bodies.
const REFUSALS: [(&str, &str); 12] = [
    ("400", "`bad_json`, `missing_field`, `bad_field`, `room_name_invalid`, `message_too_long`"),
    ("401", "`unauthorized`: no such key, or it has ended"),
    ("403", "`forbidden`: the key lacks the scope, or is not for the room or the user"),
    ("404", "`not_found`: the server has no API"),
    ("409", "`history_disabled`: the room keeps no history"),
    ("413", "`body_too_large`"),
    ("415", "`unsupported_media_type`: the body is not announced as JSON"),
    ("422", "`bad_field`: a field is unknown, or has the wrong type"),
    ("429", "`rate_limited`: again after `Retry-After`"),
    ("501", "`unsupported`: the broker, or the settings, lack what the call needs"),
    ("503", "`broker_unavailable`: whether the call was carried out is unknown"),
    ("507", "`refused`: Redis takes no writes, or there are too many bans"),
];

fn document() -> Value {
    let mut document = serde_json::to_value(Document::openapi()).unwrap();
    document["info"] = json!({"title": "Roomcast", "version": "1", "description": DESCRIPTION});
    document["components"]["securitySchemes"] = json!({
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    });
    document["security"] = json!([{"bearer": []}, {"header": []}]);
    document["components"]["responses"] =
        REFUSALS.iter().map(|(status, codes)| (name(status), refusal(status, codes))).collect();
    for Call { name, method, path, scope, .. } in all_calls() {
        let method = method.as_str().to_lowercase();
        let operation = document["paths"][format!("/api{path}")][&method].as_object_mut();
        let operation = operation.unwrap_or_else(|| panic!("{method} {path} is not described"));
        complete(operation, name, scope);
    }
    document
}

fn all_calls() -> Vec<Call> {
    calls().into_iter().chain(calls_alone(Router::new())).collect()
}

fn name(status: &str) -> String {
    format!("Refused{status}")
}

fn refusal(status: &str, codes: &str) -> Value {
    let schema = json!({"$ref": "#/components/schemas/ErrorBody"});
    let mut refusal =
        json!({"description": codes, "content": {"application/json": {"schema": schema}}});
    if ["429", "503"].contains(&status) {
        let seconds = json!({"schema": {"type": "integer"}, "description": "In seconds."});
        refusal["headers"] = json!({"Retry-After": seconds});
    }
    refusal
}

/// Adds what follows from the line of the call.
fn complete(
    operation: &mut serde_json::Map<String, Value>,
    name_of_call: &str,
    scope: Option<ApiScope>,
) {
    operation["operationId"] = name_of_call.into();
    let needs = scope.map_or("Any key.".to_owned(), |scope| format!("Scope: `{scope}`."));
    let described = operation.get("description").and_then(Value::as_str);
    operation.insert(
        "description".to_owned(),
        described.map_or(needs.clone(), |text| format!("{text}\n\n{needs}")).into(),
    );
    let has_body = operation.contains_key("requestBody");
    if let Some(body) = operation.get_mut("requestBody") {
        let schema = &mut body["content"]["application/json"]["schema"];
        let mut kinds = schema["oneOf"].as_array().into_iter().flatten();
        // A body that is absent is not null.
        if let Some(object) = kinds.find(|kind| kind.get("$ref").is_some()).cloned() {
            *schema = object;
        }
    }
    for (status, _) in REFUSALS {
        if has_body || !["413", "415", "422"].contains(&status) {
            let link = json!({"$ref": format!("#/components/responses/{}", name(status))});
            operation["responses"][status] = link;
        }
    }
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let is_name = parameter["in"] == "path";
        let schema = &mut parameter["schema"];
        // A parameter that is absent is not null.
        if let Some([kind, _]) = schema["type"].as_array().map(Vec::as_slice) {
            schema["type"] = kind.clone();
        }
        if is_name {
            schema["minLength"] = 1.into();
            schema["maxLength"] = 128.into();
            schema["pattern"] = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$".into();
        }
    }
}

#[test]
fn openapi_document_describes_every_call() {
    let document = document();
    let described = document["paths"].as_object().unwrap().values();
    let described: usize = described.map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(described, all_calls().len());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/openapi.json");
    let text = format!("{document:#}\n");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "write it again as the first lines of {} say", file!());
}

#[test]
fn every_reference_in_the_document_resolves() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100, "{} references", found.len());
    for reference in found {
        let target = reference.strip_prefix('#').and_then(|path| document.pointer(path));
        assert!(target.is_some(), "{reference}");
    }
}
