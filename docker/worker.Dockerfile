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
RUN python -m venv /opt/sglp \
  && /opt/sglp/bin/pip install --no-cache-dir "torch==$(sed -n 's/^torch==//p' constraints.txt)" --index-url "$TORCH_INDEX" \
  && /opt/sglp/bin/pip install --no-cache-dir ./client '.[worker,otel]' --constraint constraints.txt

FROM python:3.11-slim
RUN useradd --system --uid 10001 sglp && install -d -o sglp /var/lib/sglp
COPY --from=build /opt/sglp /opt/sglp
ENV PATH=/opt/sglp/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_DISABLE_TELEMETRY=1 \
  SGLP_WORK_DIR=/var/lib/sglp/work SGLP_CACHE_DIR=/var/lib/sglp/cache
VOLUME /var/lib/sglp
WORKDIR /tmp
USER 10001
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]
