//! The whole run: rounds of every scenario in turn, so that a noisy minute hits all of them; the median round counts.

use std::error::Error;

use crate::report::{Accepting, Report, System, rows};
use crate::{Options, scenario};

/// How Redis syncs, in the order of the report.
const APPENDFSYNC: [&str; 2] = ["always", "everysec"];

/// Measures everything.
pub(crate) async fn all(options: &Options) -> Result<Report, Box<dyn Error>> {
    let mut bare: Vec<Accepting> = Vec::new();
    let mut systems: [Vec<System>; APPENDFSYNC.len()] = Default::default();
    for round in 1..=options.rounds() {
        eprintln!("load: round {round} of {}: bare handler", options.rounds());
        bare.push(scenario::bare(options).await?);
        if options.bare_only {
            continue;
        }
        for (appendfsync, rounds) in APPENDFSYNC.iter().zip(&mut systems) {
            eprintln!("load: round {round} of {}: ingress and worker, appendfsync {appendfsync}", options.rounds());
            rounds.push(scenario::system(options, appendfsync).await?);
        }
    }
    let all_good = systems.iter().flatten().all(System::is_good) && bare.iter().all(|round| round.refused == 0);
    let bare = median(bare, |round| round.accepted_per_second).ok_or("no round")?;
    let systems: Vec<System> = systems
        .into_iter()
        .filter_map(|rounds| median(rounds, |round| round.accepting.accepted_per_second))
        .collect();
    Ok(Report {
        quick: options.quick,
        connections: options.connections,
        rounds: options.rounds(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        debug_build: cfg!(debug_assertions),
        all_good,
        rows: rows(&bare, &systems),
        bare,
        systems,
    })
}

/// The round in the middle by `of`; the lower one of two.
fn median<T>(mut rounds: Vec<T>, of: impl Fn(&T) -> f64) -> Option<T> {
    rounds.sort_by(|a, b| of(a).total_cmp(&of(b)));
    let middle = rounds.len().checked_sub(1)? / 2;
    Some(rounds.swap_remove(middle))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_middle_round_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0], |x| *x), Some(2.0));
        assert_eq!(median(vec![2.0, 1.0], |x| *x), Some(1.0));
        assert_eq!(median(Vec::<f64>::new(), |x| *x), None);
    }
}
