//! Admin requests of an operator: register, list, pause and remove platforms.

use reqwest::Method;
use serde_json::{Value, json};

use crate::sender::{ADMIN_TOKEN, HttpAnswer, Sender};
use crate::sign::SignedWebhook;

/// Value of `SECRETS_KEY`: base64 of 32 bytes.
pub const SECRETS_KEY: &str = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=";

impl Sender {
    /// Sends a request to an admin route, with the admin token. A null `body` sends none.
    ///
    /// # Panics
    /// If there is no complete answer.
    pub async fn admin(&self, method: Method, path: &str, body: &Value) -> HttpAnswer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = SignedWebhook { path: path.to_owned(), headers: Vec::new(), body }
            .header("content-type", "application/json")
            .header("authorization", &format!("Bearer {ADMIN_TOKEN}"));
        self.request(method, &request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// Registers or updates a platform.
    pub async fn register(&self, body: &Value) -> HttpAnswer {
        self.admin(Method::POST, "/api/v1/webhooks/register", body).await
    }

    /// Registers a platform and checks the answer.
    ///
    /// # Panics
    /// If the answer is not 201.
    pub async fn registered(&self, body: &Value) -> HttpAnswer {
        let answer = self.register(body).await;
        assert_eq!(answer.status, 201, "answer: {}", answer.text);
        answer
    }

    /// Removes a registered platform.
    pub async fn unregister(&self, platform: &str) -> HttpAnswer {
        self.admin(Method::DELETE, &format!("/api/v1/webhooks/platforms/{platform}"), &Value::Null)
            .await
    }

    /// Pauses or resumes a platform.
    pub async fn pause(&self, platform: &str, paused: bool) -> HttpAnswer {
        let path = format!("/api/v1/webhooks/platforms/{platform}");
        self.admin(Method::PATCH, &path, &json!({"paused": paused})).await
    }

    /// Lists the defined platforms.
    pub async fn platforms(&self) -> HttpAnswer {
        self.admin(Method::GET, "/api/v1/webhooks/platforms", &Value::Null).await
    }
}
