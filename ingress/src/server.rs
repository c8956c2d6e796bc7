//! Accepts connections and serves each as HTTP/1.1 or HTTP/2.
//!
//! # Guarantees
//!
//! - HTTP/2 with prior knowledge (RFC 9113, section 3.3) is served beside HTTP/1.1, under the same
//!   bounds. (`http2_with_prior_knowledge_is_served`)
//! - A connection counts before it has sent a byte.
//!   (`connection_bound_evicts_the_longest_idle_connection`)
//!
//! # Design
//!
//! `actix_web::HttpServer::bind_auto_h2c` is not used. It waits for the first bytes before the
//! connection is counted. Its HTTP/2 has no bound on streams and headers, and no graceful shutdown.
//! So this module does the work of `HttpServer` with actix-http for HTTP/1.1, and leaves HTTP/2 to
//! hyper.

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

/// Backlog of the listening socket.
const LISTEN_BACKLOG: u32 = 1024;
/// Time for which a closed connection is still read, so that its sender reads the answer.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of the server.
#[derive(Clone)]
pub(crate) struct IngressServer {
    /// State that handlers share.
    pub(crate) ingress: Data<AppState>,
    /// Bound on connections.
    pub(crate) connections: Connections,
    /// Stops the sweeps for idle connections.
    pub(crate) stop: CancellationToken,
}

impl IngressServer {
    /// Listens on `bind` with `threads` threads of at most `per_thread` connections each. A
    /// graceful shutdown lasts at most `grace`. Returns the bound address.
    ///
    /// # Errors
    /// The address cannot be bound.
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

    /// Returns the factory that builds the service of each thread.
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

    // Head size and message framing stay at actix's defaults, which refuse request smuggling.
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
            // `connections` closes connections with a slow head or without a request, and sends no
            // 408. actix would create, set and cancel a timer for every answer.
            .client_request_timeout(Duration::ZERO)
            .keep_alive(KeepAlive::Os)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            // A sender that closes its side has hung up. Its answer is not worth waiting for.
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
        // The connection has sent nothing that needs an answer.
        () = stopping.notified() => return Ok(()),
    };
    match begun {
        Ok(Protocol::Http1) => {
            let peer = stream.peer();
            // The error was logged where it happened.
            let _ = http1.call((stream, peer)).await;
        }
        Ok(Protocol::Http2) => Box::pin(http2::serve(stream, http2, stopping)).await,
        // The connection is broken.
        Err(_) => {}
    }
    Ok(())
}
