# Builds with the toolchain's own image, runs on a small one, as an ordinary user.
FROM rust:1-bookworm AS build
WORKDIR /ringpost
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
RUN cargo build --release --locked --bin ringpost && install -d /journal

FROM debian:bookworm-slim
COPY --from=build /ringpost/target/release/ringpost /usr/local/bin/ringpost
COPY --from=build --chown=65532:65532 /journal /var/lib/ringpost
ENV RINGPOST_DATA_DIR=/var/lib/ringpost
VOLUME /var/lib/ringpost
USER 65532:65532
EXPOSE 8888
STOPSIGNAL SIGTERM
ENTRYPOINT ["ringpost"]
CMD ["serve"]
