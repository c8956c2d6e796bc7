//! Baselines that ingress and worker are compared with: common alternatives, and lower bounds.

pub(crate) mod bare;
pub(crate) mod commands;
pub(crate) mod fastify;
pub(crate) mod pool;
pub(crate) mod postgres;
pub(crate) mod rows;
pub(crate) mod sqlite;
