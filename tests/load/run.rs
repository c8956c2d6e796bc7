//! The whole run: rounds of speed and worker in turn, so that a noisy minute hits all of them, then the other sections.

use crate::Failure;
use crate::figures::Figures;
use crate::floors::node::Fastify;
use crate::options::{Options, Section};
use crate::scenarios::crowd::{self, Much};
use crate::scenarios::{idle, speed, start, worker};

/// Measures all that is asked for.
pub(crate) async fn all(options: &Options) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let sections = options.sections();
    let (speed, worker) = (sections.contains(&Section::Speed), sections.contains(&Section::Worker));
    let node = if speed { node(options, &mut figures).await } else { None };
    if speed || worker {
        for round in 1..=options.rounds() {
            eprintln!("load: round {round} of {}", options.rounds());
            if speed {
                speed::round(options, node.as_ref(), &mut figures).await?;
            }
            if worker {
                worker::round(options, &mut figures).await?;
            }
        }
    }
    for section in sections {
        let figures = &mut figures;
        let say = |what: &str| eprintln!("load: {what}");
        match section {
            Section::Speed | Section::Worker => {}
            Section::Queued => {
                say("a long queue");
                crowd::compare(Much::Queued, options, figures).await?;
            }
            Section::Remembered => {
                say("many remembered ids");
                crowd::compare(Much::Remembered, options, figures).await?;
            }
            Section::Platforms => {
                say("many platforms");
                crowd::compare(Much::Platforms, options, figures).await?;
            }
            Section::Idle => {
                say("nothing to do");
                idle::measure(options, figures).await?;
            }
            Section::Start => {
                say("starts");
                start::measure(options, figures).await?;
            }
        }
    }
    Ok(figures)
}

/// Fastify and ioredis, if they are asked for and can be had; else the report says why not.
async fn node(options: &Options, figures: &mut Figures) -> Option<Fastify> {
    if !options.with_node {
        figures.note("not compared with Fastify + ioredis: --with-node installs and runs them");
        return None;
    }
    eprintln!("load: installing fastify and ioredis");
    match Fastify::install().await {
        Ok(node) => Some(node),
        Err(reason) => {
            figures.note(&format!("not compared with Fastify + ioredis: {reason}"));
            None
        }
    }
}
