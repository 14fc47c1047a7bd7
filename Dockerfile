# Two images from one file; `deploy/compose.yaml` runs them. Not built yet: no container engine was at hand when it was
# written.
#   docker build --target server  -t plumbline-server .    # slim: API, pipeline, store; no torch
#   docker build --target gpu     -t plumbline .           # engine (vLLM on CUDA) and learner as well

FROM python:3.11-slim-trixie AS server
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY reward reward
COPY server server
COPY clients clients
COPY learner learner
# One user id for all that share volumes, and directories that are theirs: a new volume takes over the owner.
RUN pip install ".[server]" && useradd --create-home --uid 10001 plumbline && install -d -o plumbline /state /learner
USER plumbline
VOLUME /state
# Keys are required on a network: docker run ... python -m server --create-key operator
ENV PLUMBLINE_STORE__DIRECTORY=/state PLUMBLINE_HTTP__HOST=0.0.0.0 PLUMBLINE_HTTP__REQUIRE_KEYS=true
EXPOSE 8400 8401
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8400/readyz', timeout=4)"
ENTRYPOINT ["python", "-m", "server"]

FROM server AS gpu
USER root
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/* \
    && pip install ".[server,engine,learner]"
USER plumbline
