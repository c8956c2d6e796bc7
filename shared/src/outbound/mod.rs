//! Delivers processed events to destinations.
//!
//! [`config`] reads the destinations. [`client`] alone uses the network. The other modules decide
//! from a [`Destination`] and an event.

pub mod address;
pub mod certificates;
pub mod client;
pub mod config;
pub mod delivery;
pub mod destination;
mod failure;
pub mod format;
pub mod headers;
pub mod pause;
pub mod payload;
pub mod redirect;
mod resolver;

pub use destination::{
    DeliveryLimit, Destination, DestinationName, EventFilter, PayloadFormat, PreviousSecret,
    UrlFingerprint,
};
