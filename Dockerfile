# Two images: `harness` (Locust, the scenarios, JupyterLab) and `runtime` (the API and the workers), the default.
FROM python:3.13-slim AS base
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
RUN python -m venv /venv && useradd --create-home --uid 10001 app

# Dependencies change less often than code: they come first, without any package of ours.
FROM base AS dependencies
COPY pyproject.toml constraints.txt README.md LICENSE ./
# pip checks hashes for all packages or none, and ours has none: the images take the versions alone.
RUN sed '/--hash/d; s/ *\\$//' constraints.txt > /versions.txt && pip install -c /versions.txt .

FROM dependencies AS harness-dependencies
RUN pip install -c /versions.txt '.[harness]'

FROM dependencies AS installed
COPY scheduler scheduler
COPY chaos chaos
RUN pip install --no-deps --force-reinstall .

FROM base AS harness
COPY --from=ghcr.io/shopify/toxiproxy:2.12.0 /toxiproxy /usr/local/bin/toxiproxy-server
COPY --from=harness-dependencies /venv /venv
COPY . .
RUN pip install --no-deps --force-reinstall -e . && mkdir -p runs && chown app: . runs
USER app
EXPOSE 8089 8888
CMD ["chaos", "list"]

FROM base AS runtime
COPY --from=installed /venv /venv
USER app
# Inside a container, loopback is out of everyone's reach.
ENV SCHEDULER_HOST=0.0.0.0 SCHEDULER_PORT=3000
EXPOSE 3000
ENTRYPOINT ["scheduler"]
CMD ["api"]
