//! The published OpenAPI document is the one that the types make.

use bedplate_control::api::openapi::{ENDPOINTS, document_json};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

fn golden_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json")
}

#[test]
fn the_published_document_is_up_to_date() {
    let made = document_json().expect("document");
    let path = golden_path();
    if std::env::var_os("BEDPLATE_BLESS").is_some() {
        std::fs::write(&path, &made).expect("write docs/openapi.json");
    }
    let published = std::fs::read_to_string(&path).expect("docs/openapi.json");
    assert!(
        made == published,
        "docs/openapi.json is not what the types make: BEDPLATE_BLESS=1 cargo test -p bedplate-control --test openapi"
    );
}

#[test]
fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
    let document: Value = serde_json::from_str(&document_json().expect("document")).expect("JSON");
    let mut referred = BTreeSet::new();
    collect_references(&document, &mut referred);
    let schemas = document["components"]["schemas"]
        .as_object()
        .expect("schemas");
    let defined: BTreeSet<String> = schemas.keys().cloned().collect();
    assert_eq!(referred, defined);
    for name in [
        "ApiError",
        "Changed",
        "Disk",
        "DiskDetail",
        "DoctorReport",
        "ImageDetail",
        "Job",
        "Status",
        "VerifyReport",
        "VolumeChanged",
        "VolumeDetail",
    ] {
        assert!(defined.contains(name), "{name} is not in the document");
    }
}

#[test]
fn every_endpoint_is_described_and_says_how_it_fails() {
    let document: Value = serde_json::from_str(&document_json().expect("document")).expect("JSON");
    let mut ids = BTreeSet::new();
    for endpoint in ENDPOINTS {
        let method = format!("{:?}", endpoint.method).to_lowercase();
        let operation = &document["paths"][endpoint.path][&method];
        let id = operation["operationId"]
            .as_str()
            .unwrap_or_else(|| panic!("{} is missing", endpoint.path));
        assert!(ids.insert(id.to_owned()), "{id} is used twice");
        assert!(
            operation["responses"][endpoint.status.to_string()].is_object(),
            "{id}"
        );
        let failure =
            &operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(failure, "#/components/schemas/ApiError", "{id}");
        let parameters = endpoint.path.matches('{').count()
            + usize::from(id.ends_with("_wait") || ["disk_remove", "image_delete"].contains(&id));
        assert_eq!(
            operation["parameters"].as_array().map_or(0, Vec::len),
            parameters,
            "{id}"
        );
    }
}

fn collect_references(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                let name = reference
                    .strip_prefix("#/components/schemas/")
                    .expect("a reference to a schema");
                into.insert(name.to_owned());
            }
            map.values()
                .for_each(|value| collect_references(value, into));
        }
        Value::Array(list) => list
            .iter()
            .for_each(|value| collect_references(value, into)),
        _ => {}
    }
}
