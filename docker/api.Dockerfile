# The API: HTTP over the database and the artifact store. It carries no torch.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY api api
COPY client client
COPY jobs jobs
COPY migrations migrations
COPY sglp_core sglp_core
COPY sglp_service sglp_service
COPY worker worker
# The secret `pip` is a pip.conf for builders with an index of their own; it does not get into the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
  python -m venv /opt/sglp \
  && /opt/sglp/bin/pip install --no-cache-dir ./client '.[api,otel]' --constraint constraints.txt \
  && /opt/sglp/bin/pip uninstall --yes pip \
  && find /opt/sglp/lib -type d \( -name test -o -name tests \) -prune -exec rm -rf {} +

FROM python:3.11-slim
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sglp-api" \
  org.opencontainers.image.description="The HTTP API of SGLP; also migrates its database" \
  org.opencontainers.image.version="0.1.0" \
  org.opencontainers.image.revision="$REVISION" \
  org.opencontainers.image.licenses="Apache-2.0"
# A user with a group of its number, and no program that gives rights to whoever starts it.
RUN groupadd --gid 10001 sglp && useradd --no-create-home --uid 10001 --gid sglp sglp \
  && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/sglp /opt/sglp
# The root file system may be read-only: what has to be written goes to /tmp.
ENV PATH=/opt/sglp/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp SGLP_HOST=0.0.0.0
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["python", "-m", "api"]
