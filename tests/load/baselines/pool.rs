//! Baseline of a hand-written receiver: actix with one thread, and one script per request over a
//! connection pool.
//!
//! It verifies the signature and its age, parses the event, and writes marker and entry in one
//! script. It has no rate limit, no backlog bound and no batching. One request uses a connection at
//! a time.
//!
//! The usual pool is deadpool-redis with its defaults, which checks a connection before it lends it
//! again. The trusting pool skips the check. It is the fastest possible pool, but does not survive
//! a restart of Redis.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use ::tests::sender::{MUX_SECRET, now, now_ms};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use clap::ValueEnum;
use hmac::{Hmac, KeyInit, Mac};
use redis::aio::MultiplexedConnection;
use redis::{Client, RedisResult, Script, ScriptInvocation};
use serde::Deserialize;
use sha2::Sha256;
use tokio::sync::Semaphore;

use crate::LoadError;

/// Sets the marker with its lifetime, and adds the entry if the marker is new.
const SCRIPT: &str = "if redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then \
    redis.call('XADD', KEYS[2], '*', 'event_id', ARGV[2], 'event_type', ARGV[3], \
        'received_at', ARGV[4], 'attempt', '1', 'body', ARGV[5]) \
    return 1 end return 0";
/// Lifetime of a dedup marker, as in ingress.
const DEDUP_TTL_S: u32 = 24 * 3600;
/// Maximum age of a signature.
const TOLERANCE_S: i64 = 300;

/// Kind of connection pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PoolKind {
    /// deadpool-redis with its defaults.
    Deadpool,
    /// Lends connections without a check.
    Trusting,
}

enum Pool {
    Deadpool(deadpool_redis::Pool),
    Trusting(Box<Trusting>),
}

impl Pool {
    fn new(lender: PoolKind, url: &str, size: usize) -> Result<Self, LoadError> {
        Ok(match lender {
            PoolKind::Deadpool => {
                let config = deadpool_redis::Config::from_url(url);
                let runtime = deadpool_redis::Runtime::Tokio1;
                Self::Deadpool(config.builder()?.max_size(size).runtime(runtime).build()?)
            }
            PoolKind::Trusting => Self::Trusting(Box::new(Trusting {
                client: Client::open(url)?,
                idle: Mutex::default(),
                permits: Semaphore::new(size),
            })),
        })
    }

    /// Runs `call` on a connection of the pool.
    async fn invoke(&self, call: &ScriptInvocation<'_>) -> Result<u8, LoadError> {
        Ok(match self {
            Self::Deadpool(pool) => call.invoke_async(&mut pool.get().await?).await?,
            Self::Trusting(pool) => {
                pool.with(async |connection| call.invoke_async(connection).await).await?
            }
        })
    }
}

/// Pool that lends each connection to one user at a time and never checks it.
struct Trusting {
    client: Client,
    idle: Mutex<Vec<MultiplexedConnection>>,
    permits: Semaphore,
}

impl Trusting {
    /// Runs `work` on an idle connection, or on a new one if none is idle.
    async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let closed = |_| redis::RedisError::from((redis::ErrorKind::Client, "the pool is closed"));
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.client.get_multiplexed_async_connection().await?,
        };
        let done = work(&mut connection).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(done)
    }
}

struct ScriptServer {
    pool: Pool,
    script: Script,
    key: Hmac<Sha256>,
}

/// Fields of an event that the handler reads.
#[derive(Deserialize)]
struct EventHead<'b> {
    id: &'b str,
    #[serde(rename = "type")]
    kind: &'b str,
}

/// Serves until SIGTERM.
pub(crate) fn serve(
    bind: SocketAddr,
    url: &str,
    lender: PoolKind,
    size: usize,
) -> Result<(), LoadError> {
    let server = web::Data::new(ScriptServer {
        pool: Pool::new(lender, url, size)?,
        script: Script::new(SCRIPT),
        key: Hmac::<Sha256>::new_from_slice(MUX_SECRET.as_bytes())?,
    });
    let app = move || {
        App::new().app_data(server.clone()).route("/api/v1/webhooks/mux", web::post().to(accept))
    };
    actix_web::rt::System::new().block_on(HttpServer::new(app).workers(1).bind(bind)?.run())?;
    Ok(())
}

async fn accept(
    request: HttpRequest,
    body: web::Bytes,
    server: web::Data<ScriptServer>,
) -> HttpResponse {
    if !verify_signature(&request, &body, &server.key) {
        return HttpResponse::Unauthorized().finish();
    }
    let Ok(event) = serde_json::from_slice::<EventHead<'_>>(&body) else {
        return HttpResponse::BadRequest().finish();
    };
    let mut call = server.script.key(format!("webhook:hash:{}", event.id));
    call.key("webhooks:incoming:mux")
        .arg(DEDUP_TTL_S)
        .arg(event.id)
        .arg(event.kind)
        .arg(now_ms())
        .arg(&*body);
    let response = |status: &str| format!(r#"{{"event_id":"{}","status":"{status}"}}"#, event.id);
    match server.pool.invoke(&call).await {
        Ok(1) => {
            HttpResponse::Accepted().content_type("application/json").body(response("accepted"))
        }
        Ok(_) => HttpResponse::Ok().content_type("application/json").body(response("duplicate")),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

/// Verifies a `t=…,v1=…` signature over `{t}.{body}` and its age.
fn verify_signature(request: &HttpRequest, body: &[u8], key: &Hmac<Sha256>) -> bool {
    let header = request.headers().get("mux-signature").and_then(|value| value.to_str().ok());
    let pairs = header.and_then(|header| header.split_once(',')).unwrap_or_default();
    let (Some(time), Some(signature)) = (pairs.0.strip_prefix("t="), pairs.1.strip_prefix("v1="))
    else {
        return false;
    };
    let Ok(signature) = hex::decode(signature) else { return false };
    let fresh = time.parse::<i64>().is_ok_and(|time| (now() - time).abs() <= TOLERANCE_S);
    let mut mac = key.clone();
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    fresh && mac.verify_slice(&signature).is_ok()
}

#[cfg(test)]
mod tests {
    use ::tests::sign;
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn verify_signature_accepts_only_fresh_valid_ones() {
        #[allow(clippy::unwrap_used)]
        let key = Hmac::<Sha256>::new_from_slice(MUX_SECRET.as_bytes()).unwrap();
        let good = |secret: &str, at: i64, body: &[u8]| {
            let header = ("mux-signature", sign::pairs(secret, at, b"body"));
            verify_signature(
                &TestRequest::default().insert_header(header).to_http_request(),
                body,
                &key,
            )
        };
        assert!(good(MUX_SECRET, now(), b"body"));
        assert!(!good(MUX_SECRET, now(), b"another"));
        assert!(!good("another", now(), b"body"));
        assert!(!good(MUX_SECRET, now() - 2 * TOLERANCE_S, b"body"));
        assert!(!verify_signature(&TestRequest::default().to_http_request(), b"body", &key));
    }
}
