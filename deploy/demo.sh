# Sourced by deploy/quickstart: signs events with openssl, independently of Tributary's own code,
# sends them, and shows the result of each. Uses $ingress, $ops, $bin, $run, $user_platforms, the
# secrets and $ADMIN_TOKEN. Calls fail() on the first unexpected result.

hmac() { openssl dgst -sha256 -hmac "$1" "${@:2}"; }
hmac_hex() { hmac "$1" | sed 's/^.* //'; }
base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

mux_signature() { # BODY SECRET
  local now
  now=$(date +%s)
  printf 't=%s,v1=%s' "$now" "$(printf '%s.%s' "$now" "$1" | hmac_hex "$2")"
}

livekit_token() { # BODY
  local now hash token
  now=$(date +%s)
  hash=$(printf '%s' "$1" | openssl dgst -sha256 -binary | openssl base64 -A)
  token=$(printf '{"alg":"HS256","typ":"JWT"}' | base64url)
  token=$token.$(printf '{"iss":"%s","nbf":%s,"exp":%s,"sha256":"%s"}' \
    "$LIVEKIT_API_KEY" "$now" "$((now + 300))" "$hash" | base64url)
  printf '%s.%s' "$token" \
    "$(printf '%s' "$token" | hmac "$LIVEKIT_API_SECRET" -binary | base64url)"
}

# send METHOD PATH BODY [HEADER]: sends a request; sets $status and $answer.
send() {
  answer=$(printf '%s' "$3" |
    curl -sS --noproxy '*' --max-time 15 -X "$1" -H 'Content-Type: application/json' \
      ${4:+-H "$4"} --data-binary @- -w '\n%{http_code}' "$ingress$2" 2>&1) ||
    fail "no answer from ingress: $answer"
  status=${answer##*$'\n'} answer=${answer%$'\n'*}
}

# text NAME: prints a string member of the JSON object on stdin.
text() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" | head -n 1; }

session() {
  curl -sf --noproxy '*' --max-time 5 -H "Authorization: Bearer $ADMIN_TOKEN" \
    "${ops##* }/api/v1/sessions/$1"
}
session_is() { [ "$(session "$1" | text status)" = "$2" ]; }

# processed PLATFORM COUNT: succeeds if the workers have processed COUNT events of the platform.
processed() {
  local url
  [ "$(for url in $ops; do curl -sf --noproxy '*' "$url/metrics"; done |
    awk -v p="platform=\"$1\"" '
      /^webhook_events_total\{/ && index($0, p) && /outcome="processed"/ { n += $2 }
      END { print n + 0 }')" -ge "$2" ]
}

# change ROOM: prints the last status change of the session from the workers' logs.
change() {
  sed -n "s/.*Updated session \($1 status: [a-z]* -> [a-z]*\).*/\1/p" "$run"/worker-*.log |
    tail -n 1
}

# Succeeds if no queue holds an event.
queues_empty() {
  "$bin/dlq-tool" stats --output json >"$run/stats" 2>/dev/null && [ -s "$run/stats" ] &&
    ! grep -qv '"dead_letters":0,.*"backlog":0,"pending":0,"retrying":0[,}]' "$run/stats"
}

# is_dead_letter EVENT-ID: succeeds if the event is a dead letter; writes it to $run/dead.
is_dead_letter() { "$bin/dlq-tool" list --event-id "$1" --output json >"$run/dead" 2>/dev/null; }

row() { printf '  %-10s  %-36s  %-13s  %s\n' "$@"; }

# expect STATUS WORD [MEMBER]: checks the answer to send(); sets $shown to its status and word.
expect() {
  shown="$status $(printf '%s' "$answer" | text "${3:-status}")"
  [ "$shown" = "$1 $2" ] || fail "expected $1 $2, got $status: $answer"
}

announce() { # ROOM
  send PUT "/api/v1/sessions/$1" \
    "{\"live_stream_id\":\"ls-$1\",\"config\":{\"made_by\":\"quickstart\"}}" \
    "Authorization: Bearer $ADMIN_TOKEN"
  expect 202 accepted
  await 30 "session $1 is ready" session_is "$1" ready
}

# --- demo -----------------------------------------------------------------------------------------

hooks=/api/v1/webhooks

mux_event() { # ID ROOM
  printf '{"type":"video.live_stream.active","id":"%s","created_at":"%s",' \
    "$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  printf '"object":{"type":"live","id":"ls-%s"},' "$2"
  printf '"data":{"id":"ls-%s","status":"active","passthrough":"%s"},' "$2" "$2"
  printf '"environment":{"name":"quickstart"}}'
}

send_mux() { # BODY [SECRET]
  send POST $hooks/mux "$1" \
    "Mux-Signature: $(mux_signature "$1" "${2:-$STREAMING_WEBHOOK_SIGNING_SECRET}")"
}

demo_mux() {
  mux_body=$(mux_event "mux-$nonce-1" demo-mux)
  send_mux "$mux_body"
  expect 202 accepted
  await 30 "demo-mux is live" session_is demo-mux live
  row mux video.live_stream.active "$shown" "session $(change demo-mux)"
}

demo_livekit() {
  local body
  body=$(printf '{"event":"room_started","id":"EV_%s","createdAt":"%s",' "$nonce" "$(date +%s)")
  body=$body$(printf '"room":{"sid":"RM_%s","name":"demo-livekit"}}' "$nonce")
  send POST $hooks/livekit "$body" "Authorization: $(livekit_token "$body")"
  expect 202 accepted
  await 30 "demo-livekit is live" session_is demo-livekit live
  row livekit room_started "$shown" "session $(change demo-livekit)"
}

demo_plain() { # PLATFORM SECRET TYPE PAYLOAD RESULT
  local body
  body="{\"event_type\":\"$3\",\"timestamp\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\",\"payload\":$4}"
  send POST "$hooks/$1" "$body" \
    "X-Webhook-Signature: sha256=$(printf '%s' "$body" | hmac_hex "$2")"
  expect 202 accepted
  await 30 "the $1 event is processed" processed "$1" 1
  row "$1" "$3" "$shown" "$5"
}

demo_realcast() {
  local body now
  now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  body=$(printf '{"event":"stream.live","timestamp":"%s",' "$now")
  body=$body$(printf '"data":{"stream_id":"demo-realcast","app_id":"app_%s",' "$nonce")
  body="$body\"title\":\"Quickstart\",\"streamer_id\":\"user_1\",\"started_at\":\"$now\"}}"
  send POST $hooks/realcast "$body" \
    "X-RealCast-Signature: sha256=$(printf '%s' "$body" | hmac_hex "$REALCAST_WEBHOOK_SECRET")"
  expect 202 accepted
  await 30 "demo-realcast is live" session_is demo-realcast live
  row realcast stream.live "$shown" "session demo-realcast created, status live"
}

demo_streamgank() {
  local body now
  now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  body=$(printf '{"event":"job.completed","data":{"job_id":"job_%s",' "$nonce")
  body="$body\"status\":\"completed\",\"progress\":100,\"error\":null,"
  body="$body\"video_url\":\"https://example.com/video.mp4\",\"retry_count\":0},"
  body="$body\"timestamp\":\"$now\",\"webhook_id\":\"webhook_1\",\"source\":\"streamgank\"}"
  send POST $hooks/streamgank "$body" \
    "X-StreamGank-Signature: sha256=$(printf '%s' "$body" | hmac_hex "$STREAMGANK_WEBHOOK_SECRET")"
  expect 202 accepted
  await 30 "the streamgank event is processed" processed streamgank 1
  row streamgank job.completed "$shown" "processed: a row in table jobs"
}

demo_refusals() {
  local body
  send_mux "$mux_body"
  expect 200 duplicate
  row mux "the first one again" "$shown" "no effect: it is a duplicate"

  send_mux "$(mux_event "mux-$nonce-2" demo-mux)" "a forger's guess"
  expect 401 E_WEBHOOK_INVALID_SIGNATURE errcode
  row mux "one signed with another key" "401" "refused: invalid signature"

  body=$(mux_event "$late" demo-late)
  send_mux "$body"
  expect 202 accepted
  await 60 "the event of an unknown room is a dead letter" is_dead_letter "$late"
  [ "$(text error_code <"$run/dead")" = session_not_found ] ||
    fail "the dead letter has another reason than session_not_found"
  row mux "one of a room without announcement" "$shown" "dead letter: session_not_found"
}

demo_replay() {
  heading "The dead letter ($ dlq-tool list)"
  "$bin/dlq-tool" list 2>/dev/null | sed 's/^/  /' || fail "dlq-tool list"
  heading "The room is announced and the event replayed ($ dlq-tool replay --event-id $late)"
  announce demo-late
  "$bin/dlq-tool" replay --event-id "$late" >"$run/replay.log" 2>&1 || fail "dlq-tool replay"
  await 30 "the replayed event is processed" session_is demo-late live
  row mux "the replayed event" "" "session $(change demo-late)"
}

session_rows() { # ROOM…
  local room json
  heading "Session rows (GET /api/v1/sessions/{room_id} at a worker)"
  printf '  %-14s  %-8s  %-18s  %s\n' ROOM STATUS "LIVE STREAM" "UPDATED AT"
  for room in "$@"; do
    json=$(session "$room") || fail "session $room does not exist"
    printf '  %-14s  %-8s  %-18s  %s\n' "$room" "$(printf '%s' "$json" | text status)" \
      "$(printf '%s' "$json" | text live_stream_id)" "$(printf '%s' "$json" | text updated_at)"
  done
}

# is_demo_platform PLATFORM: succeeds if the demo knows its secret. A platform of the user's
# PLATFORMS_FILE has its own secrets.
is_demo_platform() {
    local table="^[[:space:]]*\[platforms\.\"?$1\"?[].]"
  [ -n "$user_platforms" ] && grep -Eq "$table" "$user_platforms" || return 0
  row "$1" "left out: it is in PLATFORMS_FILE" "" ""
  return 1
}

demo() {
  local begun=$SECONDS rooms="" mux=""
  nonce=$(random 4) late="mux-$nonce-3"
  heading "Two rooms, announced as by an application (PUT /api/v1/sessions/{room_id})"
  for room in demo-mux demo-livekit; do
    announce "$room"
    rooms="$rooms $room"
    row PUT "$room" "$shown" "session row, status ready"
  done

  heading "Events, signed with openssl as each provider signs them"
  row FROM EVENT ANSWER RESULT
  is_demo_platform mux && mux=yes && demo_mux
  is_demo_platform livekit && demo_livekit
  is_demo_platform realcast && demo_realcast && rooms="$rooms demo-realcast"
  is_demo_platform streamgank && demo_streamgank
  is_demo_platform netflix && demo_plain netflix "$NETFLIX_WEBHOOK_SECRET" content_added \
    '{"content_id":"film-1","title":"A film","content_type":"movie"}' \
    "processed: a row in table contents"
  is_demo_platform generic && demo_plain generic "$GENERIC_WEBHOOK_SECRET" stock.counted \
    '{"warehouse":7}' "processed: logged in table webhook_events"
  if [ -n "$mux" ]; then
    demo_refusals
    demo_replay
    rooms="$rooms demo-late"
  fi
  # shellcheck disable=SC2086 # a list of names
  session_rows $rooms
  await 20 "every queue is empty" queues_empty
  printf '\n%sEvery result is as expected%s, after %s.\n' \
    "$bold" "$reset" "$(span $((SECONDS - begun)))"
}
