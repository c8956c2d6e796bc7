//! Runs the requested sections: rounds of speed and worker in turn, then the other sections.
//!
//! Alternating rounds spread a noisy minute over all of them.

use crate::LoadError;
use crate::baselines::fastify::Fastify;
use crate::figures::Figures;
use crate::options::{LoadOptions, LoadSection};
use crate::scenarios::preloaded::{self, Preload};
use crate::scenarios::{idle, speed, start, worker};

/// Measures all requested sections.
pub(crate) async fn all(options: &LoadOptions) -> Result<Figures, LoadError> {
    let mut figures = Figures::default();
    let sections = options.sections();
    let (speed, worker) =
        (sections.contains(&LoadSection::Speed), sections.contains(&LoadSection::Worker));
    let fastify = if speed { fastify(options, &mut figures).await } else { None };
    if speed || worker {
        for round in 1..=options.rounds() {
            eprintln!("load: round {round} of {}", options.rounds());
            if speed {
                speed::round(options, fastify.as_ref(), &mut figures).await?;
            }
            if worker {
                worker::round(options, &mut figures).await?;
            }
        }
    }
    for section in sections {
        let figures = &mut figures;
        let progress = |section: &str| eprintln!("load: {section}");
        match section {
            LoadSection::Speed | LoadSection::Worker => {}
            LoadSection::Queued => {
                progress("a long queue");
                preloaded::compare(Preload::Queued, options, figures).await?;
            }
            LoadSection::Remembered => {
                progress("many remembered ids");
                preloaded::compare(Preload::Remembered, options, figures).await?;
            }
            LoadSection::Platforms => {
                progress("many platforms");
                preloaded::compare(Preload::Platforms, options, figures).await?;
            }
            LoadSection::Idle => {
                progress("idle system");
                idle::measure(options, figures).await?;
            }
            LoadSection::Start => {
                progress("starts");
                start::measure(options, figures).await?;
            }
        }
    }
    Ok(figures)
}

/// Installs Fastify and ioredis if requested. Otherwise adds the reason to the report.
async fn fastify(options: &LoadOptions, figures: &mut Figures) -> Option<Fastify> {
    if !options.with_node {
        figures.note("not compared with Fastify + ioredis: --with-node installs and runs them");
        return None;
    }
    eprintln!("load: installing fastify and ioredis");
    match Fastify::install().await {
        Ok(fastify) => Some(fastify),
        Err(reason) => {
            figures.note(&format!("not compared with Fastify + ioredis: {reason}"));
            None
        }
    }
}
