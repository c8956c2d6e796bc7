//! Takes connections, and serves each in the version of HTTP that it begins with.
//!
//! # Guarantees
//! - HTTP/2 with prior knowledge (RFC 9113, section 3.3) is served beside HTTP/1.1, under the same
//!   bounds: `http2_with_prior_knowledge_is_served`.
//! - A connection counts before it has sent a byte: `connection_bound_evicts_the_longest_idle_connection`.
//!
//! # Design
//! `actix_web::HttpServer::bind_auto_h2c` is not used: it waits for the first bytes before anybody
//! knows of the connection, its HTTP/2 has neither a bound on streams and headers nor a graceful
//! shutdown. So this module does what `HttpServer` does around actix-http for HTTP/1.1, and leaves
//! HTTP/2 to hyper.

mod http2;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use actix_http::{HttpServiceBuilder, KeepAlive, Request, Response};
use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{IntoServiceFactory as _, map_config};
use actix_service::{
    Service, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory, fn_factory, fn_service,
};
use actix_web::App;
use actix_web::body::BoxBody;
use actix_web::dev::AppConfig;
use actix_web::web::Data;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use self::stream::{Protocol, ServerStream};
use crate::app::AppState;
use crate::connections::{ConnectionLink, Connections};
use crate::dispatch;
use crate::routes;

/// Connections that the system keeps until they are taken.
const LISTEN_BACKLOG: u32 = 1024;
/// Time for which a closed connection is read on, so that its sender reads the answer.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of a server.
#[derive(Clone)]
pub(crate) struct IngressServer {
    /// State that handlers share.
    pub(crate) ingress: Data<AppState>,
    /// The bound on connections.
    pub(crate) connections: Connections,
    /// Ends the search for silent connections.
    pub(crate) stop: CancellationToken,
}

impl IngressServer {
    /// Listens on `bind`, and serves on `threads` of at most `per_thread` connections each; a
    /// graceful shutdown lasts at most `grace`. Returns the address that is listened on.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(crate) fn listen(
        self,
        bind: SocketAddr,
        threads: usize,
        per_thread: usize,
        grace: Duration,
    ) -> io::Result<(Server, SocketAddr)> {
        let socket = if bind.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(bind)?;
        let listener = socket.listen(LISTEN_BACKLOG)?.into_std()?;
        let address = listener.local_addr()?;
        let builder = Server::build()
            .workers(threads)
            .max_concurrent_connections(per_thread)
            .disable_signals()
            .shutdown_timeout(grace.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
        let stopping = builder.graceful_shutdown_signal();
        let server =
            builder.listen("webhooks", listener, move || self.clone().factory(stopping.clone()))?;
        Ok((server.run(), address))
    }

    /// Returns the factory of each thread's service.
    fn factory(
        self,
        stopping: GracefulShutdownSignal,
    ) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = (), InitError = ()> + use<>
    {
        fn_factory(move || {
            let (serving, stopping) = (self.clone(), stopping.clone());
            let (of_http1, of_http2) = (self.http1(stopping.clone()).new_service(()), self.http2());
            let of_http2 = of_http2.new_service(AppConfig::default());
            async move {
                actix_web::rt::spawn(serving.connections.clone().sweep(serving.stop));
                let connections = serving.connections;
                let (http1, http2) = (Rc::new(of_http1.await?), Rc::new(of_http2.await?));
                Ok(fn_service(move |io| {
                    let (http1, http2) = (Rc::clone(&http1), Rc::clone(&http2));
                    serve(ServerStream::new(io, &connections), http1, http2, stopping.clone())
                }))
            }
        })
    }

    // Head size and message framing stay as actix has them: its defaults refuse what smuggling
    // needs.
    fn http1(
        &self,
        stopping: GracefulShutdownSignal,
    ) -> impl ServiceFactory<
        (ServerStream, Option<SocketAddr>),
        Config = (),
        InitError = (),
        Service: 'static,
    > + use<> {
        let ingress = self.ingress.clone();
        let entered =
            apply_fn_factory(self.application(), move |request: Request, application: &_| {
                let link = ConnectionLink::of(&request);
                dispatch::dispatch(request, application, &ingress, link)
            });
        let entered = entered.map_err(|failure: actix_web::Error| failure.error_response());
        HttpServiceBuilder::default()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            // A head that does not arrive is ended by `connections`, without a 408, and so is a
            // connection without a request: actix would make, set and cancel a timer for every
            // answer.
            .client_request_timeout(Duration::ZERO)
            .keep_alive(KeepAlive::Os)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            // A sender that closes its side has hung up: what it would be told is not worth waiting
            // for.
            .h1_allow_half_closed(false)
            .on_connect_ext(|stream: &ServerStream, data| stream.connect(data))
            .h1(map_config(entered, |()| AppConfig::default()))
    }

    fn http2(
        &self,
    ) -> impl ServiceFactory<
        (Request, ConnectionLink),
        Config = AppConfig,
        Response = Response<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
        Service: 'static,
    > + use<> {
        let ingress = self.ingress.clone();
        apply_fn_factory(
            self.application(),
            move |(request, link): (Request, ConnectionLink), application: &_| {
                dispatch::dispatch(request, application, &ingress, link)
            },
        )
    }

    fn application(
        &self,
    ) -> impl ServiceFactory<
        Request,
        Config = AppConfig,
        Response = actix_web::dev::ServiceResponse,
        Error = actix_web::Error,
        InitError = (),
        Service: 'static,
    > + use<> {
        App::new().app_data(self.ingress.clone()).configure(routes::configure).into_factory()
    }
}

/// Serves one connection to its end.
async fn serve<One, Two>(
    mut stream: ServerStream,
    http1: Rc<One>,
    http2: Rc<Two>,
    stopping: GracefulShutdownSignal,
) -> Result<(), ()>
where
    One: Service<(ServerStream, Option<SocketAddr>)>,
    Two: Service<(Request, ConnectionLink), Response = Response<BoxBody>, Error = actix_web::Error>
        + 'static,
{
    let begun = tokio::select! {
        biased;
        protocol = stream.protocol() => protocol,
        // It has sent nothing that could be answered.
        () = stopping.notified() => return Ok(()),
    };
    match begun {
        Ok(Protocol::Http1) => {
            let peer = stream.peer();
            // What went wrong is logged where it did.
            let _ = http1.call((stream, peer)).await;
        }
        Ok(Protocol::Http2) => Box::pin(http2::serve(stream, http2, stopping)).await,
        // It is gone.
        Err(_) => {}
    }
    Ok(())
}
