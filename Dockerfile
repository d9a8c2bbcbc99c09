# Builds the worker into an image that holds nothing else: no shell, no package manager, no C library.
#
#     docker build -t stock-db-writer .
#     docker run --rm -e DATABASE_URL -e STOCK_DB_WRITER__KAFKA__BROKERS=kafka:9092 stock-db-writer

FROM rust:1.95-bookworm AS build
# Writes the list of what was compiled into the program itself, for scanners and for whoever asks later what is in it.
# Its own layer: it changes least of all.
RUN cargo install --locked --root /usr/local cargo-auditable@0.7.7
WORKDIR /build
# With the C library inside, so that the final image needs none. glibc and not musl: its memory allocator is the one that
# was measured, and the names of hosts are looked up as everywhere else. The target is said aloud because only then
# Cargo leaves compile-time programs (macros) alone.
ENV CARGO_BUILD_TARGET=host-tuple \
    RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_PROFILE_RELEASE_STRIP=symbols
# The dependencies alone, in a layer that stays until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo auditable build --release --locked \
    && rm -r src
COPY schema.sql ./
COPY src src
# Cargo goes by the time of change, and the files may be older than what was built above.
RUN touch src/main.rs src/lib.rs && cargo auditable build --release --locked
# The final image as a tree. The authorities by which servers are verified are those of the build image: rebuild it now
# and then. Names of hosts come from /etc/hosts, then from DNS: anything else would need the C library's modules.
COPY LICENSE ./
RUN mkdir -p /image/etc/ssl/certs /image/etc/stock-db-writer /image/usr/bin /image/usr/share/doc/stock-db-writer \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf \
    && echo 'stock-db-writer:x:65532:65532::/:/sbin/nologin' > /image/etc/passwd \
    && echo 'stock-db-writer:x:65532:' > /image/etc/group \
    && cp LICENSE /image/usr/share/doc/stock-db-writer/ \
    && cp target/*/release/stock-db-writer /image/usr/bin/

FROM scratch
COPY --from=build /image /
# What the program listens on by itself is loopback, where nobody outside of a container would reach it.
ENV PATH=/usr/bin \
    STOCK_DB_WRITER__METRICS__LISTEN=0.0.0.0:9464
EXPOSE 9464
# By number, so that Kubernetes can see that it isn't root. Any other will do: the program writes no files.
USER 65532:65532
# It asks the worker's own /health/ready. Not ready is no reason to restart: it waits for servers that are away.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["stock-db-writer", "health"]
# Without a shell between, so that SIGTERM reaches the worker.
ENTRYPOINT ["stock-db-writer"]
CMD ["run"]
# Last, because they change with every build.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="stock-db-writer" \
    org.opencontainers.image.description="Moves stock prices and windowed metrics from Kafka into PostgreSQL, every record exactly once" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.source="$SOURCE"
