# One image for api and worker; the target `harness` adds Locust and JupyterLab.
FROM python:3.13-slim AS scheduler
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 scheduler
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY scheduler scheduler
COPY chaos chaos
RUN python -m pip install -c constraints.txt .
USER scheduler
ENV SCHEDULER_HOST=0.0.0.0
EXPOSE 3000
ENTRYPOINT ["scheduler"]
CMD ["api"]

FROM scheduler AS harness
USER root
RUN python -m pip install -c constraints.txt '.[harness]'
COPY locustfiles locustfiles
COPY notebooks notebooks
RUN mkdir runs && chown scheduler runs
USER scheduler
ENTRYPOINT []
CMD ["locust", "-f", "locustfiles/burst.py"]
