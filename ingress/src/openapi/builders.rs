//! What descriptions are put together from.

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
/// Media type of challenges and of what `/live` and `/ready` say.
pub(super) const TEXT: &str = "text/plain";
/// The security scheme of admin routes.
pub(super) const ADMIN: &str = "adminToken";
/// The security scheme of webhooks.
pub(super) const SIGNATURE: &str = "webhookSignature";

/// One route: a path as it stands in the URL table, a method, and what it does.
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

/// An operation without its answers.
pub(super) fn operation(tag: &str, id: &str, summary: &str, description: &str) -> OperationBuilder {
    OperationBuilder::new()
        .tag(tag)
        .operation_id(Some(id))
        .summary(Some(summary))
        .description(Some(description))
}

/// Only for who presents the admin token.
pub(super) fn admin() -> SecurityRequirement {
    SecurityRequirement::new(ADMIN, [""; 0])
}

/// A reference to the schema of `T`, which the document must have among its components.
pub(super) fn schema<T: ToSchema>() -> RefOr<Schema> {
    Ref::from_schema_name(T::name()).into()
}

/// The schema of `T`, in which `property` is one of `values`.
pub(super) fn narrowed<T: ToSchema>(property: &str, values: &[&str]) -> Schema {
    AllOfBuilder::new()
        .item(schema::<T>())
        .item(ObjectBuilder::new().property(property, one_of(values)))
        .into()
}

/// One of `values`.
pub(super) fn one_of<V: Into<Value> + Clone>(values: &[V]) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).enum_values(Some(values.iter().cloned()))
}

/// A text.
pub(super) fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// A body of `schema` with an example.
pub(super) fn content(schema: impl Into<RefOr<Schema>>, example: Value) -> Content {
    ContentBuilder::new().schema(Some(schema)).example(Some(example)).build()
}

/// An answer in JSON.
pub(super) fn json(
    description: &str,
    schema: impl Into<RefOr<Schema>>,
    example: Value,
) -> ResponseBuilder {
    ResponseBuilder::new().description(description).content(JSON, content(schema, example))
}

/// An answer in plain text.
pub(super) fn text(description: &str, example: &str) -> ResponseBuilder {
    ResponseBuilder::new().description(description).content(TEXT, content(string(), example.into()))
}

/// A request's body in JSON.
pub(super) fn body(description: &str, content: Content, required: Required) -> RequestBody {
    RequestBodyBuilder::new()
        .description(Some(description))
        .content(JSON, content)
        .required(Some(required))
        .build()
}

/// A part of the path.
pub(super) fn in_path(
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> Parameter {
    parameter(ParameterIn::Path, name, description, schema).required(Required::True).build()
}

/// A header that may be sent.
pub(super) fn in_header(
    name: &str,
    description: &str,
    schema: impl Into<RefOr<Schema>>,
) -> Parameter {
    parameter(ParameterIn::Header, name, description, schema).required(Required::False).build()
}

/// A query parameter that must be sent.
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
