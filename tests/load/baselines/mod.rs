//! What ingress and worker are compared with: what others would have instead, and what no one can go below.

pub(crate) mod bare;
pub(crate) mod commands;
pub(crate) mod fastify;
pub(crate) mod pool;
pub(crate) mod postgres;
pub(crate) mod rows;
pub(crate) mod sqlite;
