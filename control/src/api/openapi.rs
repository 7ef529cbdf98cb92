//! The endpoints, in one table, and the OpenAPI document that is made of it.
//!
//! The daemon's router is tested against [`ENDPOINTS`]; `docs/openapi.json` is the golden copy of [`document`].

use super::{
    AddDisk, ApiError, AttachVolume, Changed, CreateVolume, DeleteImage, Disk, DiskDetail,
    DiskList, DiskPath, DoctorReport, Forgotten, FormatDisk, ImageDetail, ImageList, ImportImage,
    Job, JobList, NDJSON, RemoveDisk, ResizeVolume, SetCopies, Status, Volume, VolumeChanged,
    VolumeDetail, VolumeList, WaitQuery,
};
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, ObjectBuilder, OpenApi,
    OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Required, ResponseBuilder, Schema, Type,
};
use utoipa::{IntoParams, ToSchema};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; version=0.0.4";
const BYTES: &str = "application/octet-stream";

/// Method of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads, changes nothing.
    Get,
    /// Asks for something.
    Post,
    /// Sends content.
    Put,
    /// Takes something away.
    Delete,
}

/// What a body holds.
#[derive(Clone, Copy)]
enum Body {
    Nothing,
    Json(fn() -> TypeSchema),
    /// One JSON object a line.
    Lines(fn() -> TypeSchema),
    Bytes,
    /// A JSON document of no type of ours.
    Document,
    Text,
}

/// One endpoint. `{...}` in the path is a parameter, percent-encoded where it holds a `/`.
pub struct Endpoint {
    /// Method.
    pub method: Method,
    /// Path, under the socket.
    pub path: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Status of success.
    pub status: u16,
    id: &'static str,
    request: Body,
    response: Body,
}

/// Every endpoint of the API.
pub const ENDPOINTS: &[Endpoint] = &[
    get(
        "/v1/status",
        "status",
        "The node at a glance",
        Body::Json(of::<Status>),
    ),
    get(
        "/v1/doctor",
        "doctor",
        "What this node has and lacks, as the daemon sees it",
        Body::Json(of::<DoctorReport>),
    ),
    get(
        "/metrics",
        "metrics",
        "Metrics for Prometheus, in its text format",
        Body::Text,
    ),
    get(
        "/v1/openapi.json",
        "openapi",
        "This document",
        Body::Document,
    ),
    post(
        "/v1/devices/remove",
        "devices_remove",
        "Remove every device as the node goes down; nothing is attached from then on, and all are back after the next start",
        204,
        Body::Nothing,
        Body::Nothing,
    ),
    get(
        "/v1/disks",
        "disk_list",
        "Every known disk",
        Body::Json(of::<DiskList>),
    ),
    post(
        "/v1/disks",
        "disk_add",
        "Bring a formatted disk Online",
        200,
        Body::Json(of::<AddDisk>),
        Body::Json(of::<Disk>),
    ),
    post(
        "/v1/disks/format",
        "disk_format",
        "Write the format on a disk and bring it Online",
        201,
        Body::Json(of::<FormatDisk>),
        Body::Json(of::<Disk>),
    ),
    get(
        "/v1/disks/{disk}",
        "disk_show",
        "One disk, by UUID or path",
        Body::Json(of::<DiskDetail>),
    ),
    delete(
        "/v1/disks/{disk}",
        "disk_remove",
        "Take a disk out of use; nothing on it is changed. Refused while replicas that are wanted, or volumes, are on it, unless `force`",
    ),
    post(
        "/v1/disks/{disk}/drain",
        "disk_drain",
        "Start to move the replicas of a disk to other disks; the answer is the job, and cancelling it keeps the rest",
        202,
        Body::Nothing,
        Body::Json(of::<Job>),
    ),
    post(
        "/v1/disks/{disk}/forget",
        "disk_forget",
        "Give up a disk that never comes back: nothing waits for it any more",
        200,
        Body::Nothing,
        Body::Json(of::<Forgotten>),
    ),
    post(
        "/v1/disks/adopt",
        "disk_adopt",
        "Take over a disk that another node owned, and bring it Online",
        200,
        Body::Json(of::<DiskPath>),
        Body::Json(of::<Disk>),
    ),
    post(
        "/v1/disks/re-uuid",
        "disk_re_uuid",
        "Give a copied disk, and all that is on it, identities of its own, and bring it Online",
        200,
        Body::Json(of::<DiskPath>),
        Body::Json(of::<Disk>),
    ),
    get(
        "/v1/images",
        "image_list",
        "Every image",
        Body::Json(of::<ImageList>),
    ),
    post(
        "/v1/images",
        "image_import",
        "Start an import; the answer is its job",
        202,
        Body::Json(of::<ImportImage>),
        Body::Json(of::<Job>),
    ),
    get(
        "/v1/images/{name}",
        "image_show",
        "One image",
        Body::Json(of::<ImageDetail>),
    ),
    delete(
        "/v1/images/{name}",
        "image_delete",
        "Delete an image that is not attached, all its replicas; with `failed_copies`, only those that are Failed",
    ),
    post(
        "/v1/images/{name}/attach",
        "image_attach",
        "Attach an image, now and after each restart; answers when the device is Ready",
        200,
        Body::Nothing,
        Body::Json(of::<Changed>),
    ),
    post(
        "/v1/images/{name}/detach",
        "image_detach",
        "Remove the device of an image; refused (`busy`) while somebody has it open",
        200,
        Body::Nothing,
        Body::Json(of::<Changed>),
    ),
    post(
        "/v1/images/{name}/verify",
        "image_verify",
        "Start reading all replicas again and comparing them with their checksums, and repairing bad blocks from other replicas; the answer is the job",
        202,
        Body::Nothing,
        Body::Json(of::<Job>),
    ),
    post(
        "/v1/images/{name}/recheck",
        "image_recheck",
        "Start reading all replicas again, and trust those again that are good; the answer is the job",
        202,
        Body::Nothing,
        Body::Json(of::<Job>),
    ),
    post(
        "/v1/images/{name}/copies",
        "image_copies",
        "Say how many replicas an image is to have; they are made, or go, in the background",
        200,
        Body::Json(of::<SetCopies>),
        Body::Json(of::<ImageDetail>),
    ),
    get(
        "/v1/images/{name}/wait",
        "image_wait",
        "Wait until an image is Ready and, where it is to be attached, its device is",
        Body::Json(of::<ImageDetail>),
    ),
    get(
        "/v1/volumes",
        "volume_list",
        "Every volume",
        Body::Json(of::<VolumeList>),
    ),
    post(
        "/v1/volumes",
        "volume_create",
        "Make a volume: a clone of an image, on that image's disk, or blank, on the disk with most free space",
        201,
        Body::Json(of::<CreateVolume>),
        Body::Json(of::<Volume>),
    ),
    get(
        "/v1/volumes/{name}",
        "volume_show",
        "One volume",
        Body::Json(of::<VolumeDetail>),
    ),
    delete(
        "/v1/volumes/{name}",
        "volume_delete",
        "Delete a volume that is not attached",
    ),
    post(
        "/v1/volumes/{name}/attach",
        "volume_attach",
        "Attach a volume, now and after each restart; answers when the device is Ready",
        200,
        Body::Json(of::<AttachVolume>),
        Body::Json(of::<VolumeChanged>),
    ),
    post(
        "/v1/volumes/{name}/detach",
        "volume_detach",
        "Remove the device of a volume; refused (`busy`) while somebody has it open",
        200,
        Body::Nothing,
        Body::Json(of::<VolumeChanged>),
    ),
    post(
        "/v1/volumes/{name}/resize",
        "volume_resize",
        "Let a volume grow; while it is attached, where the kernel can (`kernel_unsupported`)",
        200,
        Body::Json(of::<ResizeVolume>),
        Body::Json(of::<VolumeChanged>),
    ),
    get(
        "/v1/volumes/{name}/wait",
        "volume_wait",
        "Wait until a volume is there and, where it is to be attached, its device is Ready",
        Body::Json(of::<VolumeDetail>),
    ),
    get(
        "/v1/jobs",
        "job_list",
        "Jobs that run and the last ones that ended",
        Body::Json(of::<JobList>),
    ),
    get(
        "/v1/jobs/{id}",
        "job_show",
        "One job",
        Body::Json(of::<Job>),
    ),
    get(
        "/v1/jobs/{id}/events",
        "job_events",
        "The job after each change, until it ended",
        Body::Lines(of::<Job>),
    ),
    post(
        "/v1/jobs/{id}/cancel",
        "job_cancel",
        "Cancel a job; answers when it ended. One that ended before stays as it is",
        200,
        Body::Nothing,
        Body::Json(of::<Job>),
    ),
    Endpoint {
        method: Method::Put,
        path: "/v1/jobs/{id}/content",
        id: "job_content",
        summary: "Send the bytes of an import whose source is a stream; answers when the job ended. \
                  A body that ends early fails the job",
        status: 200,
        request: Body::Bytes,
        response: Body::Json(of::<Job>),
    },
];

const fn get(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    response: Body,
) -> Endpoint {
    Endpoint {
        method: Method::Get,
        path,
        summary,
        status: 200,
        id,
        request: Body::Nothing,
        response,
    }
}

const fn post(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    status: u16,
    request: Body,
    response: Body,
) -> Endpoint {
    Endpoint {
        method: Method::Post,
        path,
        summary,
        status,
        id,
        request,
        response,
    }
}

const fn delete(path: &'static str, id: &'static str, summary: &'static str) -> Endpoint {
    Endpoint {
        method: Method::Delete,
        path,
        summary,
        status: 204,
        id,
        request: Body::Nothing,
        response: Body::Nothing,
    }
}

/// A type of the API with every type that it refers to.
struct TypeSchema {
    name: String,
    all: Vec<(String, RefOr<Schema>)>,
}

fn of<T: ToSchema>() -> TypeSchema {
    let name = T::name().into_owned();
    let mut all = vec![(name.clone(), T::schema())];
    T::schemas(&mut all);
    TypeSchema { name, all }
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components = ComponentsBuilder::new();
    let error = of::<ApiError>();
    for endpoint in ENDPOINTS {
        paths = paths.path(
            endpoint.path,
            PathItem::new(http_method(endpoint.method), operation(endpoint)),
        );
    }
    for schema in [&error].into_iter().chain(&bodies()) {
        for (name, schema) in &schema.all {
            components = components.schema(name.clone(), schema.clone());
        }
    }
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Bedplate")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Storage node daemon. HTTP/1 on a Unix socket, by default /run/bedplate/bedplate.sock.",
                ))
                .license(Some(LicenseBuilder::new().name("MIT OR Apache-2.0").build()))
                .build(),
        )
        .paths(paths)
        .components(Some(components.build()))
        .build()
}

/// The document as `docs/openapi.json` holds it.
///
/// # Errors
/// Never in practice: every key of the document is a string.
pub fn document_json() -> Result<String, serde_json::Error> {
    // By way of a value, so that keys are sorted and the golden copy does not depend on the order of declarations.
    let mut text = serde_json::to_string_pretty(&serde_json::to_value(document())?)?;
    text.push('\n');
    Ok(text)
}

fn bodies() -> Vec<TypeSchema> {
    ENDPOINTS
        .iter()
        .flat_map(|endpoint| [endpoint.request, endpoint.response])
        .filter_map(|body| match body {
            Body::Json(of) | Body::Lines(of) => Some(of()),
            Body::Nothing | Body::Bytes | Body::Document | Body::Text => None,
        })
        .collect()
}

const fn http_method(method: Method) -> HttpMethod {
    match method {
        Method::Get => HttpMethod::Get,
        Method::Post => HttpMethod::Post,
        Method::Put => HttpMethod::Put,
        Method::Delete => HttpMethod::Delete,
    }
}

fn operation(endpoint: &Endpoint) -> OperationBuilder {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(endpoint.id))
        .summary(Some(endpoint.summary));
    for parameter in path_parameters(endpoint.path) {
        operation = operation.parameter(parameter);
    }
    if endpoint.path.ends_with("/wait") {
        for parameter in WaitQuery::into_params(|| Some(ParameterIn::Query)) {
            operation = operation.parameter(parameter);
        }
    }
    if endpoint.id == "image_delete" {
        for parameter in DeleteImage::into_params(|| Some(ParameterIn::Query)) {
            operation = operation.parameter(parameter);
        }
    }
    if endpoint.id == "disk_remove" {
        for parameter in RemoveDisk::into_params(|| Some(ParameterIn::Query)) {
            operation = operation.parameter(parameter);
        }
    }
    if let Some((kind, content)) = content(endpoint.request) {
        let body = RequestBodyBuilder::new()
            .content(kind, content.build())
            .required(Some(Required::True))
            .build();
        operation = operation.request_body(Some(body));
    }
    let mut success = ResponseBuilder::new().description("Done");
    if let Some((kind, content)) = content(endpoint.response) {
        success = success.content(kind, content.build());
    }
    let failure = ResponseBuilder::new()
        .description("Failed: `kind` says how")
        .content(
            JSON,
            ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("ApiError")))
                .build(),
        );
    operation
        .response(endpoint.status.to_string(), success)
        .response("default", failure)
}

fn path_parameters(path: &'static str) -> impl Iterator<Item = Parameter> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let kind = if name == "id" {
                Type::Integer
            } else {
                Type::String
            };
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(ObjectBuilder::new().schema_type(kind)))
                .build()
        })
}

fn content(body: Body) -> Option<(&'static str, ContentBuilder)> {
    let of_type = |of: fn() -> TypeSchema| {
        ContentBuilder::new().schema(Some(Ref::from_schema_name(of().name)))
    };
    match body {
        Body::Nothing => None,
        Body::Json(of) => Some((JSON, of_type(of))),
        Body::Lines(of) => Some((NDJSON, of_type(of))),
        Body::Bytes => Some((BYTES, ContentBuilder::new())),
        Body::Text => Some((
            TEXT,
            ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String))),
        )),
        Body::Document => Some((
            JSON,
            ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::Object))),
        )),
    }
}
