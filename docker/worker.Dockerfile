# Worker and scheduler. TORCH_INDEX chooses the build of torch: the CPU's by default, a CUDA one for GPUs.
FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
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
  && /opt/sglp/bin/pip install --no-cache-dir "torch==$(sed -n 's/^torch==//p' constraints.txt)" --index-url "$TORCH_INDEX" \
  && /opt/sglp/bin/pip install --no-cache-dir ./client '.[worker,otel]' --constraint constraints.txt \
  && /opt/sglp/bin/pip uninstall --yes pip \
  && find /opt/sglp/lib -type d \( -name test -o -name tests \) -prune -exec rm -rf {} + \
  # C++ headers and programs that test torch: without a compiler nothing uses them.
  && rm -rf /opt/sglp/lib/python3.*/site-packages/torch/include \
  && find /opt/sglp/lib/python3.*/site-packages/torch/bin -type f ! -name torch_shm_manager -delete

FROM python:3.11-slim
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sglp-worker" \
  org.opencontainers.image.description="Worker and scheduler of SGLP" \
  org.opencontainers.image.version="0.1.0" \
  org.opencontainers.image.revision="$REVISION" \
  org.opencontainers.image.licenses="Apache-2.0"
# A user with a group of its number, and no program that gives rights to whoever starts it.
RUN groupadd --gid 10001 sglp && useradd --no-create-home --uid 10001 --gid sglp sglp \
  && install -d -o sglp -g sglp /var/lib/sglp \
  && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/sglp /opt/sglp
# The root file system may be read-only: what has to be written goes to /tmp and /var/lib/sglp.
ENV PATH=/opt/sglp/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp HF_HUB_DISABLE_TELEMETRY=1 \
  SGLP_WORK_DIR=/var/lib/sglp/work SGLP_CACHE_DIR=/var/lib/sglp/cache
VOLUME /var/lib/sglp
WORKDIR /tmp
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]
