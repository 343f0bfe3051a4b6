# Builds a static binary in the Rust toolchain's image, and runs it in an empty image as an unprivileged user. A static
# binary uses as much CPU per request as a dynamic one (see docs/benchmarks.md), and needs no Debian around it.
#
#   docker build -t ringpost --build-arg RINGPOST_COMMIT=$(git rev-parse --short=12 HEAD) .
FROM rust:1-bookworm AS build
WORKDIR /ringpost
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY benches benches
# The commit that `ringpost --version` reports, since .git is not sent here.
ARG RINGPOST_COMMIT
# With --target, the flags apply only to the binary, not to build scripts and macros. A backtrace still has the names of
# functions. With line numbers, the binary would be four times as large.
RUN target=$(rustc --print host-tuple) && \
    RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    cargo build --release --locked --bin ringpost --target "$target" && \
    install -D "target/$target/release/ringpost" /image/usr/local/bin/ringpost && \
    install -d -o 65532 -g 65532 /journal

FROM scratch
ARG RINGPOST_COMMIT
LABEL org.opencontainers.image.title="Ringpost" \
      org.opencontainers.image.description="A message-ingest server: one io_uring per core, one ack per message" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${RINGPOST_COMMIT}"
COPY --from=build /image /
COPY --from=build --chown=65532:65532 /journal /var/lib/ringpost
# The health check uses the admin address inside the container. RINGPOST_ADMIN=0.0.0.0:8889 opens it to the container's
# network.
ENV RINGPOST_DATA_DIR=/var/lib/ringpost RINGPOST_ADMIN=127.0.0.1:8889
VOLUME /var/lib/ringpost
USER 65532:65532
EXPOSE 8888
# SIGTERM drains for at most 8 s, within the 10 s that `docker stop` waits.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s CMD ["/usr/local/bin/ringpost", "health"]
ENTRYPOINT ["/usr/local/bin/ringpost"]
CMD ["serve"]
