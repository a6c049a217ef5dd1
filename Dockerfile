# The image of Portway: the program, the few libraries it links, licence texts, and nothing else.
#
#   make image                   portway:VERSION, labelled with the revision; `make image-debug` for the one with tools
#   docker build -t portway .    the same without the revision
#   docker buildx build --platform linux/amd64,linux/arm64 --sbom=true --provenance=mode=max -t portway .
#
# docs/install.md says how it gets onto the nodes. Each platform is built on itself or under emulation. The bases of build
# and debug must be of one Debian release, 12 or newer: the libraries come from it. Tags can be moved; whoever needs the
# same bases every time gives digests: --build-arg BUILD_BASE=docker.io/library/rust@sha256:...
ARG BUILD_BASE=docker.io/library/rust:1.95.0-slim-trixie
ARG DEBUG_BASE=docker.io/library/debian:trixie-slim
ARG RUNTIME_BASE=scratch
# As in Cargo.toml (tests/chart.rs compares them).
ARG VERSION=0.1.0
ARG REVISION

FROM ${BUILD_BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends binutils gcc libc6-dev libmnl-dev libnftnl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --profile dist --locked --bin portway
RUN scripts/image-root target/dist/portway /image

# With a shell, nft and conntrack, to look around on a node.
FROM ${DEBUG_BASE} AS debug
RUN apt-get update \
    && apt-get install -y --no-install-recommends conntrack iproute2 libmnl0 libnftnl11 nftables \
    && rm -rf /var/lib/apt/lists/*
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="Portway, with tools" \
      org.opencontainers.image.licenses="GPL-3.0-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/usr /usr
ENTRYPOINT ["/usr/local/bin/portway"]

FROM ${RUNTIME_BASE} AS portway
ARG VERSION
ARG REVISION
# The program contains crates under Apache-2.0 and libnftnl under GPL-2.0-or-later: together they may be passed on under
# version 3 of the GPL, or later.
LABEL org.opencontainers.image.title="Portway" \
      org.opencontainers.image.description="A drop-in replacement for kube-proxy that programs nftables straight through netlink" \
      org.opencontainers.image.licenses="GPL-3.0-or-later" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image /
ENTRYPOINT ["/usr/local/bin/portway"]
