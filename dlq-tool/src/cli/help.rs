//! What stands below the flags of each verb's help: examples, and what a flag cannot say.

pub(super) const TOUR: &str = "\
A tour:
  dlq-tool stats                                     what there is, and why
  dlq-tool list --platform mux --since 24h           one row per dead letter
  dlq-tool show 1767225600000-0                      everything about one of them
  dlq-tool replay --error-code session_not_found --dry-run
  dlq-tool replay --error-code session_not_found     once the cause is mended
  dlq-tool top                                       all of it, live

Environment, as for ingress and workers: REDIS_URL, or REDIS_URL_FILE; REDIS_CLUSTER; PLATFORMS_FILE
(replay --set); MAX_BACKLOG (replay); DLQ_MAX_LEN (import). NO_COLOR turns colours off.

Data goes to stdout, talk to stderr. Exit codes:
  0  done (also where a reader closes the pipe early)
  1  some entries failed, or the run was stopped; stderr names what was left
  2  wrong usage or configuration
  3  nothing matched
  4  Redis cannot be reached";

pub(super) const STATS: &str = "\
Examples:
  dlq-tool stats
  dlq-tool stats --platform mux --output json | jq .by_error_code

DEAD counts the dead letters, BACKLOG what no worker has taken yet, PENDING what a worker
holds, RETRYING what waits for its next attempt. All four are of one moment per platform.";

pub(super) const LIST: &str = "\
Examples:
  dlq-tool list
  dlq-tool list --platform mux --error-code session_not_found --since 24h
  dlq-tool list --contains room-42 --limit 20
  dlq-tool list --output json | jq -r .event_id";

pub(super) const SHOW: &str = "\
Examples:
  dlq-tool show 1767225600000-0
  dlq-tool show 1767225600000-0 --platform mux
  dlq-tool show 1767225600000-0 --output json | jq -r .body

The body is laid out for reading, its numbers and the order of its keys as they came;
--output json has it byte for byte.";

pub(super) const REPLAY: &str = "\
Examples:
  dlq-tool replay --id 1767225600000-0
  dlq-tool replay --platform mux --error-code session_not_found --dry-run
  dlq-tool replay --platform mux --error-code session_not_found
  dlq-tool replay --since 2h --rate 50 --yes         from a script, at most 50 per second
  dlq-tool replay --id 1767225600000-0 --set '/data/passthrough=room-42'

Ctrl-C stops between two entries; what was not replayed stays a dead letter. While a platform's
queue holds half of MAX_BACKLOG (set it here as for ingress), the replay waits for workers.

--set changes only what it names; the rest of the body stays byte for byte. The value is JSON, or
else a text: '/n=1' is a number, '/n=\"1\"' and '/n=one' are texts. A new member is added to an
object, '/list/-' appends to a list. Type and time are derived again through the platform's
definition (set PLATFORMS_FILE as for ingress), and a body that ingress would refuse is not
replayed. Should the event have taken effect meanwhile, it comes back as already_processed.";

pub(super) const PURGE: &str = "\
Examples:
  dlq-tool purge --id 1767225600000-0
  dlq-tool purge --platform mux --until 30d --dry-run
  dlq-tool purge --platform mux --until 30d --export mux.ndjson
  dlq-tool purge --platform mux --until 30d --yes --export - | gzip > mux.ndjson.gz
  dlq-tool purge --error-code undecodable --yes

With --export, nothing is removed before it is in the file and the file is on disk; `import` reads
it. With `--export -` it goes to standard output, and everything else to standard error. Ctrl-C stops between two entries; what was not removed stays a dead letter.";

pub(super) const EXPORT: &str = "\
Examples:
  dlq-tool export > dead-letters.ndjson
  dlq-tool export --platform mux --since 24h | jq -r .event_id
  dlq-tool export | dlq-tool import --redis-url redis://elsewhere:6379 --yes

One JSON object per line, whatever --output says. `raw` stands in a line only where the other
fields could not be put back as they were: it has all of them, as pairs of base64.";

pub(super) const IMPORT: &str = "\
Examples:
  dlq-tool import < dead-letters.ndjson
  zcat dead-letters.ndjson.gz | dlq-tool import --yes

An imported dead letter gets a new ID and keeps everything else. One that is still here, or was
imported from the same ID within seven days and is still here, is not added again: an import that
was stopped is simply run again. A line that cannot be read completely is refused and named, the
others are imported. Not more than DLQ_MAX_LEN per platform (set it here as for workers) are kept.";

pub(super) const WATCH: &str = "\
Examples:
  dlq-tool watch
  dlq-tool watch --platform mux --error-code session_not_found
  dlq-tool watch --since 1h --output json | jq -r .event_id
  dlq-tool watch --limit 1                           wait for the next one

Shows what dies from now on (with --since: from then on) until Ctrl-C. When Redis goes away it
waits, and goes on where it was.";

macro_rules! top_keys {
    () => {
        "\
Keys:
  Tab                 between platforms and dead letters
  up, down, j, k      move; also PgUp, PgDn, Home, End
  Enter               show the dead letter
  /                   filter by text: type, event id, error, body
  e                   only the next error code
  Esc                 clear the filter and the marks
  space, a            mark one, mark all that are listed
  r, p                replay, purge what is marked, else what the cursor is on
  ?                   help
  q, Ctrl-C           quit"
    };
}

/// What `top` itself shows as help.
pub(crate) const TOP_KEYS: &str = top_keys!();

pub(super) const TOP: &str = concat!(
    top_keys!(),
    "\n\n\
The list has the newest dead letters first. Counts by error code are made where the dead letters
lie, a few at a time; with very many of them they lag behind, and say so. Needs a terminal of at
least 60 columns and 15 rows."
);

pub(super) const COMPLETIONS: &str = "\
Examples:
  dlq-tool completions bash > /etc/bash_completion.d/dlq-tool
  dlq-tool completions zsh > ~/.zfunc/_dlq-tool
  dlq-tool completions fish > ~/.config/fish/completions/dlq-tool.fish";

pub(super) const MAN: &str = "\
Examples:
  dlq-tool man | man -l -
  dlq-tool man > /usr/local/share/man/man1/dlq-tool.1";
