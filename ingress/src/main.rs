//! Runs the `ingress` command; see `ingress --help`.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ingress::cli::{Args, IngressTool};
use ingress::send_test::SignedRequest;
use ingress::{Config, RunError};
use mimalloc::MiMalloc;
use shared::config::variables::INGRESS_OPS_BIND;
use shared::config::{EXIT_CONFIG, Env, report};
use shared::visible::escaped_lines;
use shared::{health_check, shutdown, telemetry};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match Args::parse().tool {
        None => receive(),
        Some(IngressTool::CheckPlatform(check)) => match check.run(&Env::from_process()) {
            Ok(outcome) => print(&outcome.text, outcome.good),
            Err(problems) => fail(report(&problems), EXIT_CONFIG),
        },
        Some(IngressTool::Health { ready }) => {
            match health_check::query_health(&Env::from_process(), &INGRESS_OPS_BIND, ready) {
                Ok((good, said)) => print(&said, good),
                Err(problems) => fail(report(&problems), EXIT_CONFIG),
            }
        }
        Some(IngressTool::SendTest(send)) => match send.prepare(&Env::from_process()) {
            Ok(request) => send_test(request),
            Err(problems) => fail(report(&problems), EXIT_CONFIG),
        },
    }
}

fn send_test(request: SignedRequest) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "sending {}", request.about);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, 1),
    };
    match runtime.block_on(request.send()) {
        Ok(answer) => print(&answer.text, answer.good),
        Err(error) => fail(chain(&error), 1),
    }
}

fn print(text: &str, good: bool) -> ExitCode {
    // A closed pipe is not an error: the reader has seen enough.
    let _ = writeln!(std::io::stdout(), "{}", escaped_lines(text.trim_end()));
    ExitCode::from(u8::from(!good))
}

fn receive() -> ExitCode {
    if let Err(error) = shutdown::watch_signals(Some(0)) {
        return fail(error, 1);
    }
    let env = Env::from_process();
    let config = match Config::read(&env) {
        Ok(config) => config,
        Err(problems) => return fail(env.report(&problems), EXIT_CONFIG),
    };
    if let Err(error) = telemetry::init(config.common.log_format, &config.common.log_filter) {
        return fail(error, EXIT_CONFIG);
    }
    env.log_warnings();
    // One thread drives Redis and the batcher. HTTP has its own threads.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, 1),
    };
    let ended = runtime.block_on(run(config));
    shutdown::shutdown_runtime(runtime);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err((text, code)) => fail(text, code),
    }
}

async fn run(config: Config) -> Result<(), (String, u8)> {
    let stop = shutdown::shutdown_token().map_err(|error| (error.to_string(), 1))?;
    ingress::run(config, stop).await.map_err(|error| (chain(&error), code(&error)))
}

fn code(error: &RunError) -> u8 {
    if error.is_configuration() { EXIT_CONFIG } else { 1 }
}

/// Error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn fail(what: impl Display, code: u8) -> ExitCode {
    // There is no way to report a failed write to stderr.
    let _ = writeln!(std::io::stderr(), "ingress: {}", what.to_string().trim_end());
    ExitCode::from(code)
}
