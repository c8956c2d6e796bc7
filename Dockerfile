# The three binaries in one small image without a shell. The targets differ in their entry point and
# health check. docker-compose.yml and deploy/k8s use `ingress` and `worker`:
#
#   docker build --target ingress -t tributary-ingress .
#   docker build --target worker -t tributary-worker .
#   docker build --target dlq-tool -t dlq-tool .
#
# Every image contains dlq-tool: `docker compose exec worker /usr/local/bin/dlq-tool stats`. The
# processes run as user 65532, write nothing to their file system, and stop in order on SIGTERM.

# --- build ----------------------------------------------------------------------------------------

FROM rust:1.95-bookworm AS build
WORKDIR /src

# Dependencies only, from the manifests and empty crates: rebuilt only if a manifest changes.
COPY Cargo.toml Cargo.lock ./
COPY shared/Cargo.toml shared/
COPY ingress/Cargo.toml ingress/
COPY worker/Cargo.toml worker/
COPY dlq-tool/Cargo.toml dlq-tool/
COPY tests/Cargo.toml tests/
COPY tests/benches/Cargo.toml tests/benches/
RUN mkdir shared/src ingress/src worker/src dlq-tool/src tests/src \
 && touch shared/src/lib.rs ingress/src/lib.rs worker/src/lib.rs tests/src/lib.rs \
 && for binary in ingress worker dlq-tool; do echo 'fn main() {}' > "$binary/src/main.rs"; done \
 && cargo build --release --locked -p ingress -p worker -p dlq-tool

COPY shared shared
COPY ingress ingress
COPY worker worker
COPY dlq-tool dlq-tool
# Make the sources newer than the empty ones, independently of the checkout's time stamps.
RUN find shared ingress worker dlq-tool -name '*.rs' -exec touch {} + \
 && cargo build --release --locked -p ingress -p worker -p dlq-tool \
 && mkdir /out \
 && cp target/release/ingress target/release/worker target/release/dlq-tool /out/

# --- runtime --------------------------------------------------------------------------------------

# Contains glibc, libgcc, CA certificates and a user; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot AS runtime
COPY --from=build /out/ /usr/local/bin/
USER 65532:65532
STOPSIGNAL SIGTERM

FROM runtime AS dlq-tool
HEALTHCHECK NONE
ENTRYPOINT ["/usr/local/bin/dlq-tool"]

# The health check uses /live: an outage of Redis or the database must not restart a container.
FROM runtime AS worker
EXPOSE 9101
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/worker", "health"]
ENTRYPOINT ["/usr/local/bin/worker"]

FROM runtime AS ingress
EXPOSE 8000 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/local/bin/ingress", "health"]
ENTRYPOINT ["/usr/local/bin/ingress"]
