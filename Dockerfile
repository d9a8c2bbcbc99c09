# Builds the worker into a small image that runs as nobody in particular:
#
#     docker build -t stock-db-writer .
#     docker run --rm -e DATABASE_URL -e STOCK_DB_WRITER__KAFKA__BROKERS=kafka:9092 stock-db-writer

FROM rust:1.95-bookworm AS build
WORKDIR /build
ENV CARGO_PROFILE_RELEASE_STRIP=symbols
# The dependencies alone, in a layer that stays until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src
COPY schema.sql ./
COPY src src
# Cargo goes by the time of change, and the files may be older than what was built above.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked

FROM debian:bookworm-slim
# The authorities by which servers are verified. Not pinned: an old list of them is worse than a changed one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/release/stock-db-writer /usr/local/bin/stock-db-writer
# By number, so that Kubernetes can see that it isn't root. The program writes no files.
USER 65532:65532
ENTRYPOINT ["stock-db-writer"]
CMD ["run"]
