# Untested where it was written: there was no Docker daemon. Please tell what you had to change.
#
#   docker build --build-arg FANWHEEL_COMMIT="$(git rev-parse HEAD)" -t fanwheel .
#   docker run --ulimit nofile=1048576:1048576 -p 8080:8080 -p 127.0.0.1:9090:9090 fanwheel
#
# It keeps no state: `--read-only`, `--cap-drop ALL` and `--security-opt no-new-privileges` cost nothing.

# Both stages stand on the same Debian, so that the program finds the C library it was linked to.
FROM rust:1.95-slim-trixie AS build
WORKDIR /build
COPY . .
# Read by the build, where it is given; a build argument is a variable of the commands below it.
ARG FANWHEEL_COMMIT
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --package fanwheel --bin fanwheel \
    && cp target/release/fanwheel /usr/local/bin/

FROM debian:trixie-slim
# The roots that `rediss://` trusts.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/fanwheel /usr/local/bin/
# A number, so that an orchestrator can see that it is not the superuser.
USER 10001:10001
# In a container loopback is the container's own: probes and scrapers would not reach the admin listener there. It has no
# access control, so publish 9090 to operators only. These variables go before a configuration file.
ENV FANWHEEL_LISTEN=0.0.0.0:8080 FANWHEEL_ADMIN_LISTEN=0.0.0.0:9090
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# Alive, not ready: a node whose Redis is away must not be restarted for it. The image has bash, and no curl.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9090 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["fanwheel"]
CMD ["serve"]
