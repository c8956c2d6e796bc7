//! Serves one HTTP/2 connection.
//!
//! # Guarantees
//!
//! - Streams, headers and unread bytes of a connection are bounded. `MAX_CONNECTIONS` bounds the
//!   requests of all such connections together. (`http2_with_prior_knowledge_is_served`)
//! - The end is announced with GOAWAY, after idle time and at a shutdown. Requests in progress are
//!   answered. (`http2_requests_in_progress_survive_a_shutdown`)

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::{Payload, Request, Response};
use actix_server::GracefulShutdownSignal;
use actix_service::Service;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::error::PayloadError;
use actix_web::http::header::{CONNECTION, HeaderName, HeaderValue};
use actix_web::http::{Method, Uri, Version};
use bytes::Bytes;
use futures_util::stream;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::stream::ServerStream;
use crate::connections::{ConnectionGuard, ConnectionLink};
use crate::error::Error;

/// Bound on concurrent requests of one connection.
const MAX_STREAMS: u32 = 100;
/// Bound on the headers of one request, in bytes.
const MAX_HEADER_BYTES: u32 = 32 * 1024;
/// Bounds on unread bytes of one request and of one connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 128 * 1024;
/// Bound on unsent bytes of one answer.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// Executor that runs requests on the thread of their connection.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, work: F) {
        actix_web::rt::spawn(work);
    }
}

/// Serves `stream`, whose preface was recognized, to its end.
pub(super) async fn serve<S>(stream: ServerStream, service: Rc<S>, stopping: GracefulShutdownSignal)
where
    S: Service<(Request, ConnectionLink), Response = Response<BoxBody>, Error = actix_web::Error>
        + 'static,
{
    let guard = stream.guard();
    let guard_of_requests = guard.clone();
    let answering =
        service_fn(move |request| answer(request, Rc::clone(&service), guard_of_requests.clone()));
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answering));
    let idle = async {
        match &guard {
            Some(guard) => guard.wait_until_idle().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // The connection broke, or its sender has closed it.
        _ = connection.as_mut() => return,
        () = stopping.notified() => {}
        () = idle => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn answer<S>(
    request: hyper::Request<Incoming>,
    service: Rc<S>,
    guard: Option<Rc<ConnectionGuard>>,
) -> Result<hyper::Response<HyperResponseBody>, Infallible>
where
    S: Service<(Request, ConnectionLink), Response = Response<BoxBody>, Error = actix_web::Error>,
{
    let is_head = request.method() == hyper::Method::HEAD;
    let permit = guard.as_ref().map(|guard| guard.permit());
    let response = match to_actix(request) {
        None => Error::InvalidRequest("Not a valid HTTP request".to_owned())
            .respond(None, Payload::None)
            .into(),
        Some(mut request) if matches!(permit, Some(None)) => {
            Error::Busy.respond(None, request.take_payload()).into()
        }
        Some(request) => {
            match service.call((request, ConnectionLink::to(guard.as_deref()))).await {
                Ok(response) => response,
                Err(failure) => failure.error_response().into(),
            }
        }
    };
    Ok(to_hyper(response, is_head))
}

/// Converts the request to actix's types. `None`: they cannot represent it.
fn to_actix(request: hyper::Request<Incoming>) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let payload = if body.is_end_stream() { Payload::None } else { payload(body) };
    let mut converted = Request::with_payload(payload);
    let head = converted.head_mut();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = Uri::try_from(parts.uri.path_and_query()?.as_str()).ok()?;
    head.version = Version::HTTP_2;
    for (name, value) in &parts.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        head.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    Some(converted)
}

fn payload(mut body: Incoming) -> Payload {
    let parts = stream::poll_fn(move |context| {
        loop {
            match ready!(Pin::new(&mut body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(PayloadError::Io(io::Error::other(error)))));
                }
                // Trailers are ignored.
                Some(Ok(frame)) => {
                    if let Ok(part) = frame.into_data() {
                        return Poll::Ready(Some(Ok(part)));
                    }
                }
            }
        }
    });
    Payload::Stream { payload: Box::pin(parts) }
}

fn to_hyper(response: Response<BoxBody>, is_head: bool) -> hyper::Response<HyperResponseBody> {
    let (response, body) = response.into_parts();
    let mut converted = hyper::Response::new(HyperResponseBody((!is_head).then_some(body)));
    let status = hyper::StatusCode::from_u16(response.status().as_u16());
    *converted.status_mut() = status.unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in response.headers().iter().filter(|(name, _)| *name != CONNECTION) {
        let name = hyper::header::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = hyper::header::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            converted.headers_mut().append(name, value);
        }
    }
    converted
}

/// Body of an answer. `None`: no body.
struct HyperResponseBody(Option<BoxBody>);

impl Body for HyperResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(body) = &mut self.get_mut().0 else { return Poll::Ready(None) };
        let part = ready!(Pin::new(body).poll_next(context));
        Poll::Ready(
            part.map(|part| {
                part.map(Frame::data).map_err(|error| io::Error::other(error.to_string()))
            }),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|body| matches!(body.size(), BodySize::None | BodySize::Sized(0)))
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.as_ref().map(MessageBody::size) {
            Some(BodySize::Sized(bytes)) => SizeHint::with_exact(bytes),
            Some(BodySize::Stream) => SizeHint::default(),
            Some(BodySize::None) | None => SizeHint::with_exact(0),
        }
    }
}
