//! Text below the flags in the help of each verb: examples and explanations.

pub(super) const TOUR: &str = "\
Examples:
  dlq-tool stats                                     count dead letters and their reasons
  dlq-tool list --platform mux --since 24h           one row per dead letter
  dlq-tool show 1767225600000-0                      all details of one dead letter
  dlq-tool replay --error-code session_not_found --dry-run
  dlq-tool replay --error-code session_not_found     after the cause is fixed
  dlq-tool top                                       a live view

Environment, as for ingress and workers: REDIS_URL or REDIS_URL_FILE; REDIS_CLUSTER; PLATFORMS_FILE
(replay --set); MAX_BACKLOG (replay); DLQ_MAX_LEN (import). NO_COLOR turns colours off.

Data goes to stdout, messages to stderr. Exit codes:
  0  done (also if the reader closes the pipe early)
  1  some entries failed, or the run was stopped; stderr names the entries that are left
  2  wrong usage or configuration
  3  nothing matched
  4  Redis is unreachable";

pub(super) const STATS: &str = "\
Examples:
  dlq-tool stats
  dlq-tool stats --platform mux --output json | jq .by_error_code

DEAD counts dead letters, BACKLOG events that no worker has received, PENDING events that a worker
holds, RETRYING events that wait for a retry. The four counts of a platform are from one moment.";

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

The body is indented. Its numbers and the order of its keys stay as they were sent. --output json
prints the body byte for byte.";

pub(super) const REPLAY: &str = "\
Examples:
  dlq-tool replay --id 1767225600000-0
  dlq-tool replay --platform mux --error-code session_not_found --dry-run
  dlq-tool replay --platform mux --error-code session_not_found
  dlq-tool replay --since 2h --rate 50 --yes         from a script, at most 50 per second
  dlq-tool replay --id 1767225600000-0 --set '/data/passthrough=room-42'

Ctrl-C stops between two entries; entries not yet replayed stay dead letters. While a platform's
queue holds half of MAX_BACKLOG (set it here as for ingress), the replay waits for workers.

--set changes only the value at the pointer; the rest of the body stays byte for byte. The value
is JSON, or else a string: '/n=1' is a number, '/n=\"1\"' and '/n=one' are strings. A new member is
added to an object, '/list/-' appends to a list. Event type and time are derived again by the
platform's definition (set PLATFORMS_FILE as for ingress). A body that ingress would reject is not
replayed. If the event has taken effect meanwhile, it becomes a dead letter already_processed.";

pub(super) const PURGE: &str = "\
Examples:
  dlq-tool purge --id 1767225600000-0
  dlq-tool purge --platform mux --until 30d --dry-run
  dlq-tool purge --platform mux --until 30d --export mux.ndjson
  dlq-tool purge --platform mux --until 30d --yes --export - | gzip > mux.ndjson.gz
  dlq-tool purge --error-code undecodable --yes

With --export, an entry is removed only after its line is in the file and the file is on disk.
`import` reads the file. With `--export -` the lines go to standard output, and everything else to
standard error. Ctrl-C stops between two entries; entries not yet removed stay dead letters.";

pub(super) const EXPORT: &str = "\
Examples:
  dlq-tool export > dead-letters.ndjson
  dlq-tool export --platform mux --since 24h | jq -r .event_id
  dlq-tool export | dlq-tool import --redis-url redis://elsewhere:6379 --yes

The output is one JSON object per line, with any --output. A line has the member `raw` only if the
other members could not restore the entry exactly: it holds all fields, as pairs of base64.";

pub(super) const IMPORT: &str = "\
Examples:
  dlq-tool import < dead-letters.ndjson
  zcat dead-letters.ndjson.gz | dlq-tool import --yes

An imported dead letter gets a new ID and keeps everything else. It is not added again if it still
exists under its old ID, or under the ID of an import within the last seven days. To continue a
stopped import, run it again. A line that cannot be read completely is reported and skipped. At
most DLQ_MAX_LEN dead letters per platform are kept (set it here as for workers).";

pub(super) const WATCH: &str = "\
Examples:
  dlq-tool watch
  dlq-tool watch --platform mux --error-code session_not_found
  dlq-tool watch --since 1h --output json | jq -r .event_id
  dlq-tool watch --limit 1                           wait for the next one

Shows new dead letters until Ctrl-C; with --since, those since that time first. If Redis becomes
unavailable, it reconnects and continues after the last dead letter that it showed.";

macro_rules! top_keys {
    () => {
        "\
Keys:
  Tab                 switch between platforms and dead letters
  up, down, j, k      move; also PgUp, PgDn, Home, End
  Enter               show the dead letter
  /                   filter by text: type, event id, error, body
  e                   filter by the next error code
  Esc                 clear the filter and the marks
  space, a            mark one, mark all listed
  r, p                replay, purge the marked ones, else the selected one
  ?                   help
  q, Ctrl-C           quit"
    };
}

/// Keys of `top`, also shown by its own help.
pub(crate) const TOP_KEYS: &str = top_keys!();

pub(super) const TOP: &str = concat!(
    top_keys!(),
    "\n\n\
The list has the newest dead letters first. Redis counts the dead letters by error code, a few at a
time. With very many dead letters the counts lag behind; the screen says so. The terminal needs at
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
