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
RUN python -m venv /opt/sglp && /opt/sglp/bin/pip install --no-cache-dir ./client '.[api,otel]' --constraint constraints.txt

FROM python:3.11-slim
RUN useradd --system --uid 10001 sglp
COPY --from=build /opt/sglp /opt/sglp
ENV PATH=/opt/sglp/bin:$PATH PYTHONUNBUFFERED=1 SGLP_HOST=0.0.0.0
WORKDIR /tmp
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["python", "-m", "api"]
