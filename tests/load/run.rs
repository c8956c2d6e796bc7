//! The whole run: rounds of speed and worker in turn, so that a noisy minute hits all of them, then the other sections.

use crate::LoadError;
use crate::baselines::fastify::Fastify;
use crate::figures::Figures;
use crate::options::{LoadOptions, LoadSection};
use crate::scenarios::preloaded::{self, Preload};
use crate::scenarios::{idle, speed, start, worker};

/// Measures all that is asked for.
pub(crate) async fn all(options: &LoadOptions) -> Result<Figures, LoadError> {
    let mut figures = Figures::default();
    let sections = options.sections();
    let (speed, worker) =
        (sections.contains(&LoadSection::Speed), sections.contains(&LoadSection::Worker));
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
            LoadSection::Speed | LoadSection::Worker => {}
            LoadSection::Queued => {
                say("a long queue");
                preloaded::compare(Preload::Queued, options, figures).await?;
            }
            LoadSection::Remembered => {
                say("many remembered ids");
                preloaded::compare(Preload::Remembered, options, figures).await?;
            }
            LoadSection::Platforms => {
                say("many platforms");
                preloaded::compare(Preload::Platforms, options, figures).await?;
            }
            LoadSection::Idle => {
                say("nothing to do");
                idle::measure(options, figures).await?;
            }
            LoadSection::Start => {
                say("starts");
                start::measure(options, figures).await?;
            }
        }
    }
    Ok(figures)
}

/// Fastify and ioredis, if they are asked for and can be had; else the report says why not.
async fn node(options: &LoadOptions, figures: &mut Figures) -> Option<Fastify> {
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
