# Verbseal on slim Debian, with the libraries and drivers for RDMA devices.
#
#   docker build --tag verbseal .
#
# Certificates for trying it out, in a volume (bring your own for production):
#
#   docker run --rm --volume verbseal-certs:/etc/verbseal verbseal \
#     certs init --directory /etc/verbseal --host "$(hostname)"
#
# The server by the embedded provider, which needs no RDMA device; clients reach it on TCP port 4433
# and UDP port 4791:
#
#   docker run --network host \
#     --volume verbseal-certs:/etc/verbseal:ro --volume verbseal-files:/srv/verbseal verbseal
#
# With the host's RDMA devices it needs leave to lock memory, and the host's network, as an RDMA
# port's GIDs belong to the host's addresses:
#
#   docker run --device /dev/infiniband --ulimit memlock=-1 --network host \
#     --volume verbseal-certs:/etc/verbseal:ro --volume verbseal-files:/srv/verbseal verbseal
#
# It runs as user 65532, not as root. Volumes like the two above belong to that user from their
# beginning; a folder of the host in their place must be readable, and the second one writable, to
# it (chown --recursive 65532:65532 FOLDER). /dev/infiniband/uverbs* must be open to it too: udev
# gives them mode 0666, elsewhere add --group-add with their group. Any other command works as well:
#
#   docker run --device /dev/infiniband --ulimit memlock=-1 verbseal devices

FROM docker.io/library/debian:bookworm-slim AS build
RUN apt-get update \
  && apt-get install --yes --no-install-recommends npm \
  && rm -rf /var/lib/apt/lists/*
RUN npm install --global deno@2.7.11
WORKDIR /verbseal
# `deno task` fetches packages before a task can set this for itself.
ENV DENO_TLS_CA_STORE=mozilla,system
COPY deno.json deno.lock ./
RUN deno install --frozen
COPY . .
RUN deno task compile

FROM docker.io/library/debian:bookworm-slim
# ca-certificates: clients that get no --ca believe the system's authorities.
RUN apt-get update \
  && apt-get install --yes --no-install-recommends \
    ca-certificates ibverbs-providers libffi8 libibverbs1 librdmacm1 libssl3 \
  && rm -rf /var/lib/apt/lists/* \
  && install --directory --owner=65532 --group=65532 /etc/verbseal /srv/verbseal
COPY --from=build /verbseal/build/verbseal /usr/local/bin/verbseal
LABEL org.opencontainers.image.title="Verbseal" \
  org.opencontainers.image.description="RDMA sessions set up over TLS with random PSNs" \
  org.opencontainers.image.version="0.1.0" \
  org.opencontainers.image.licenses="MIT"
VOLUME ["/etc/verbseal", "/srv/verbseal"]
EXPOSE 4433
STOPSIGNAL SIGTERM
USER 65532:65532
ENTRYPOINT ["verbseal"]
CMD ["server", "--cert", "/etc/verbseal/server.pem", "--key", "/etc/verbseal/server.key", "--root", "/srv/verbseal"]
