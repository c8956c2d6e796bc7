//! Builds the parts of the OpenAPI document.

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, ContentBuilder, Ref, RefOr, Required, ResponseBuilder};

/// Media type of JSON.
pub(super) const JSON: &str = "application/json";
/// Media type of challenges and of the answers of `/live` and `/ready`.
pub(super) const TEXT: &str = "text/plain";
/// Security scheme of the admin routes.
pub(super) const ADMIN: &str = "adminToken";
/// Security scheme of webhooks.
pub(super) const SIGNATURE: &str = "webhookSignature";

/// Route with its path as in the URL table, its method and its operation.
pub(super) struct RouteDoc {
    pub(super) path: &'static str,
    pub(super) method: HttpMethod,
    pub(super) operation: Operation,
}

impl RouteDoc {
    pub(super) fn new(
        path: &'static str,
        method: HttpMethod,
        operation: impl Into<Operation>,
    ) -> Self {
        Self { path, method, operation: operation.into() }
    }

    pub(super) fn item(self) -> (&'static str, PathItem) {
        (self.path, PathItem::new(self.method, self.operation))
    }
}

/// Builds an operation without responses.
pub(super) fn operation(tag: &str, id: &str, summary: &str, description: &str) -> OperationBuilder {
    OperationBuilder::new()
        .tag(tag)
        .operation_id(Some(id))
        .summary(Some(summary))
        .description(Some(description))
}

/// Requires the admin token.
pub(super) fn admin() -> SecurityRequirement {
    SecurityRequirement::new(ADMIN, [""; 0])
}

/// Returns a reference to the schema of `T`, which must be among the components.
pub(super) fn schema<T: ToSchema>() -> RefOr<Schema> {
    Ref::from_schema_name(T::name()).into()
}

/// Returns the schema of `T` with `property` restricted to `values`.
pub(super) fn narrowed<T: ToSchema>(property: &str, values: &[&str]) -> Schema {
    AllOfBuilder::new()
        .item(schema::<T>())
        .item(ObjectBuilder::new().property(property, one_of(values)))
        .into()
}

/// Returns a schema for one of `values`.
pub(super) fn one_of<V: Into<Value> + Clone>(values: &[V]) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).enum_values(Some(values.iter().cloned()))
}

/// Returns the schema of a string.
pub(super) fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Returns content of `schema` with an example.
pub(super) fn content(schema: impl Into<RefOr<Schema>>, example: Value) -> Content {
    ContentBuilder::new().schema(Some(schema)).example(Some(example)).build()
}

/// Returns a JSON response.
pub(super) fn json(
    description: &str,
    schema: impl Into<RefOr<Schema>>,
    example: Value,
) -> ResponseBuilder {
    ResponseBuilder::new().description(description).content(JSON, content(schema, example))
}

/// Returns a plain text response.
pub(super) fn text(description: &str, example: &str) -> ResponseBuilder {
    ResponseBuilder::new().description(description).content(TEXT, content(string(), example.into()))
}

/// Returns a JSON request body.
pub(super) fn body(description: &str, content: Content, required: Required) -> RequestBody {
    RequestBodyBuilder::new()
        .description(Some(description))
        .content(JSON, content)
        .required(Some(required))
        .build()
}

/// Returns a path parameter.
pub(super) fn in_path(
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> Parameter {
    parameter(ParameterIn::Path, name, description, schema).required(Required::True).build()
}

/// Returns an optional header parameter.
pub(super) fn in_header(
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> Parameter {
    parameter(ParameterIn::Header, name, description, schema).required(Required::False).build()
}

/// Returns a required query parameter.
pub(super) fn in_query(
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> Parameter {
    parameter(ParameterIn::Query, name, description, schema).required(Required::True).build()
}

fn parameter(
    place: ParameterIn,
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .description(Some(description))
        .schema(Some(schema))
}
