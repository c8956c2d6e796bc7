//! Outbound: what processed events become for those who wait for them.
//!
//! Guarantee: everything here is decided from a [`Destination`] and an event, without looking back at where either came
//! from; only [`client`] touches the network.

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
