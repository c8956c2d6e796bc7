//! Receiver of outbound webhooks: keeps the requests and answers as configured.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};

/// Behavior of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiverBehavior {
    /// 200 at once.
    Accept,
    /// 200 after this time.
    Slow(Duration),
    /// 500 to the first attempt of every delivery, 200 to later ones.
    FailFirst,
    /// 500 to every other request.
    FailEveryOther,
    /// Always this status.
    Always(u16),
    /// 429 with `Retry-After: 2` to the first attempt of every delivery, 200 to later ones.
    BusyFirst,
    /// 200 to this number of requests per window. Others get 429, with the rest of the window as
    /// `Retry-After`.
    Limited(usize, Duration),
    /// 404 for this time after the first request, then 502 for the same time, then 200.
    Deploying(Duration),
}

/// A received request.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The raw body.
    pub body: Bytes,
    /// Time since the receiver was created.
    pub at: Duration,
    /// Status of the answer.
    pub status: u16,
}

impl ReceivedRequest {
    /// Returns the body as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

type RequestLog = Arc<Mutex<BTreeMap<String, Vec<ReceivedRequest>>>>;

/// A receiver on a free port.
#[derive(Debug)]
pub struct Downstream {
    address: SocketAddr,
    behavior: Arc<Mutex<ReceiverBehavior>>,
    log: RequestLog,
    begun: std::time::Instant,
    running: Option<ServerHandle>,
}

struct ReceiverState {
    behavior: Arc<Mutex<ReceiverBehavior>>,
    log: RequestLog,
    window: Mutex<RequestWindow>,
    requests: AtomicUsize,
    begun: std::time::Instant,
}

/// Number of requests in the current window.
#[derive(Default)]
struct RequestWindow {
    first: Option<std::time::Instant>,
    begun: Option<std::time::Instant>,
    taken: usize,
}

impl RequestWindow {
    /// Counts a request. Returns the rest of the window if the window is full.
    fn take(&mut self, most: usize, window: Duration) -> Option<Duration> {
        let begun = self.begun.filter(|begun| begun.elapsed() < window);
        let begun = begun.unwrap_or_else(|| {
            self.taken = 0;
            std::time::Instant::now()
        });
        self.begun = Some(begun);
        if self.taken < most {
            self.taken += 1;
            return None;
        }
        Some(window.saturating_sub(begun.elapsed()))
    }
}

impl Downstream {
    /// Creates a receiver and starts to listen.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start(behavior: ReceiverBehavior) -> Self {
        let mut receiver = Self::not_listening(behavior);
        receiver.listen();
        receiver
    }

    /// Creates a receiver with an address that does not listen yet.
    #[must_use]
    pub fn not_listening(behavior: ReceiverBehavior) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], crate::ports::free()));
        let behavior = Arc::new(Mutex::new(behavior));
        Self {
            address,
            behavior,
            log: RequestLog::default(),
            begun: std::time::Instant::now(),
            running: None,
        }
    }

    /// Starts to listen.
    ///
    /// # Panics
    /// If another process has taken the port.
    pub fn listen(&mut self) {
        let (behavior, log, begun) =
            (Arc::clone(&self.behavior), Arc::clone(&self.log), self.begun);
        let requests = AtomicUsize::new(0);
        let state =
            Data::new(ReceiverState { behavior, log, window: Mutex::default(), requests, begun });
        let server = HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .app_data(web::PayloadConfig::new(8 * 1024 * 1024))
                .default_service(web::to(receive))
        })
        .workers(1)
        .disable_signals()
        .shutdown_timeout(1)
        .bind(self.address)
        .expect("the receiver's port")
        .run();
        self.running = Some(server.handle());
        tokio::spawn(server);
    }

    /// Stops listening, and keeps the requests received.
    pub async fn stop_listening(&mut self) {
        if let Some(server) = self.running.take() {
            server.stop(false).await;
        }
    }

    /// Changes the behavior for later requests.
    pub fn set_behavior(&self, behavior: ReceiverBehavior) {
        *self.behavior.lock().unwrap_or_else(PoisonError::into_inner) = behavior;
    }

    /// Returns the URL of the receiver.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Returns every request by delivery id, in the order of arrival.
    #[must_use]
    pub fn received(&self) -> BTreeMap<String, Vec<ReceivedRequest>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of 2xx answers by delivery id.
    #[must_use]
    pub fn confirmed(&self) -> BTreeMap<String, usize> {
        let good = |seen: &[ReceivedRequest]| {
            seen.iter().filter(|one| (200..300).contains(&one.status)).count()
        };
        self.received().iter().map(|(id, seen)| (id.clone(), good(seen))).collect()
    }

    /// Returns the number of different deliveries received.
    #[must_use]
    pub fn deliveries(&self) -> usize {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        if let Some(server) = self.running.take() {
            drop(server.stop(false));
        }
    }
}

async fn receive(request: HttpRequest, body: Bytes, state: Data<ReceiverState>) -> HttpResponse {
    let headers: BTreeMap<String, String> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let id = headers.get("webhook-id").cloned().unwrap_or_default();
    let behavior = *state.behavior.lock().unwrap_or_else(PoisonError::into_inner);
    let request = state.requests.fetch_add(1, Ordering::Relaxed);
    let mut retry_after = "2".to_owned();
    let status = {
        let mut log = state.log.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = log.entry(id).or_default();
        let status = match behavior {
            ReceiverBehavior::Accept | ReceiverBehavior::Slow(_) => 200,
            ReceiverBehavior::FailEveryOther => {
                if request.is_multiple_of(2) {
                    500
                } else {
                    200
                }
            }
            ReceiverBehavior::FailFirst => {
                if seen.is_empty() {
                    500
                } else {
                    200
                }
            }
            ReceiverBehavior::BusyFirst => {
                if seen.is_empty() {
                    429
                } else {
                    200
                }
            }
            ReceiverBehavior::Always(status) => status,
            ReceiverBehavior::Limited(most, window) => {
                let mut counted = state.window.lock().unwrap_or_else(PoisonError::into_inner);
                match counted.take(most, window) {
                    None => 200,
                    Some(left) => {
                        retry_after = format!("{:.3}", left.as_secs_f64());
                        429
                    }
                }
            }
            ReceiverBehavior::Deploying(time) => {
                let mut counted = state.window.lock().unwrap_or_else(PoisonError::into_inner);
                let since = counted.first.get_or_insert_with(std::time::Instant::now).elapsed();
                match since.as_millis() / time.as_millis().max(1) {
                    0 => 404,
                    1 => 502,
                    _ => 200,
                }
            }
        };
        seen.push(ReceivedRequest { headers, body, at: state.begun.elapsed(), status });
        status
    };
    if let ReceiverBehavior::Slow(time) = behavior {
        tokio::time::sleep(time).await;
    }
    let mut answer =
        HttpResponse::build(actix_web::http::StatusCode::from_u16(status).unwrap_or_default());
    if status == 429 {
        answer.insert_header(("Retry-After", retry_after));
    }
    if (300..400).contains(&status) {
        answer.insert_header(("Location", "https://moved.example/new/hook?key=s3cret"));
    }
    if status == 500 { answer.body("not yet") } else { answer.finish() }
}
