# Short names for the commands of this repository: https://just.systems. Each recipe only calls a
# command that also works without just.

# List the recipes.
default:
    @just --list --unsorted

# Run every check of a change, as CI does.
ci:
    ./tests/run

# Start a system of its own, send signed events, and stay up.
demo *arguments:
    ./deploy/quickstart {{ arguments }}

# Format the code.
fmt:
    cargo fmt --all

# Check formatting, and run clippy with warnings as errors.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Run tests with cargo-nextest: `just test`, `just test redis_outage`.
test *filters:
    cargo build --workspace --bins --locked
    cargo nextest run --workspace --locked {{ filters }}

# Check licenses, advisories and bans of dependencies with cargo-deny.
deny:
    cargo deny --locked check

# Check the files of deploy/ with the binaries of a debug build.
check-deploy *arguments:
    cargo build --workspace --bins --locked
    ./deploy/check {{ arguments }}

# Count the instructions of hot functions: `just bench`, `just bench --update`.
bench *arguments:
    cargo bench -p benches -- {{ arguments }}

# Measure throughput and latency of the whole system.
load *arguments="--quick":
    cargo run --release --locked -p tests --bin load -- {{ arguments }}

# Kill, freeze and cut processes at random, and judge every event at the end.
chaos *arguments:
    cargo run --release --locked -p tests --bin chaos -- {{ arguments }}

# Search for inputs that break a fuzz target: `just fuzz signature 60`.
fuzz target seconds="60":
    ./tests/fuzz/run {{ target }} {{ seconds }}

# Build the documentation with mdBook, to target/book/index.html.
docs:
    mdbook build docs

# Write the generated parts of the reference pages.
reference:
    cargo run --locked -p tests --bin reference -- --write
