# llm-proxy as images. Targets: `gateway` (no LiteLLM in it), `sidecar` (LiteLLM, never published), and the
# default, both in one container:
#   docker build -t llm-proxy . && docker run -p 7007:7007 -e OPENAI_API_KEY=… llm-proxy
ARG BASE=docker.io/library/python:3.12-slim

# ---- environments, built from the lock files with hashes ---------------------------------------------------
FROM ${BASE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY locks/uv.txt locks/
RUN python -m pip install --require-hashes -r locks/uv.txt
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_CACHE=1
COPY pyproject.toml ./

FROM builder AS build-gateway
COPY locks/gateway.txt locks/
RUN uv venv .venv && uv pip install --python .venv --no-deps --require-hashes --compile-bytecode -r locks/gateway.txt
COPY llm_proxy/ llm_proxy/
RUN python -m compileall -q llm_proxy

# LiteLLM without bytecode compiles its failing imports anew on every request.
FROM builder AS build-sidecar
COPY locks/sidecar.txt locks/
RUN uv venv .venv-sidecar \
    && uv pip install --python .venv-sidecar --no-deps --require-hashes --compile-bytecode -r locks/sidecar.txt
COPY llm_proxy/ llm_proxy/
RUN python -m compileall -q llm_proxy \
    && .venv-sidecar/bin/python -I -S llm_proxy/sidecar/verify_environment.py --check

# ---- what every image shares -------------------------------------------------------------------------------
FROM ${BASE} AS ground
LABEL org.opencontainers.image.title="llm-proxy" \
      org.opencontainers.image.description="A thin, hardened, fast front door for LiteLLM" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 1000 llm-proxy && useradd --uid 1000 --gid 1000 --home-dir /data --no-log-init llm-proxy \
    && install -d -o llm-proxy -g llm-proxy -m 0700 /data
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1
WORKDIR /data
VOLUME /data
COPY --chmod=0755 deploy/with-keys.sh /usr/local/bin/with-keys
USER 1000:1000

# ---- the gateway -------------------------------------------------------------------------------------------
FROM ground AS gateway
COPY --from=build-gateway /app /app
ENV LLM_PROXY__HOST=0.0.0.0 LLM_PROXY__PORT=7007 LLM_PROXY__PUBLIC_BIND_OK=true LLM_PROXY__SPOOL_DIR=/data/spool
EXPOSE 7007
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["/app/.venv/bin/python", "-m", "llm_proxy.stack.probe", "7007", "/health/ready"]
ENTRYPOINT ["/app/.venv/bin/python", "-m", "llm_proxy"]
CMD ["serve", "--prefork"]

# ---- the sidecar: one process, one port; run more containers for more --------------------------------------
FROM ground AS sidecar
COPY --from=build-sidecar /app /app
COPY litellm-config.yaml /app/
EXPOSE 4100
HEALTHCHECK --interval=10s --timeout=3s --start-period=90s \
    CMD ["/app/.venv-sidecar/bin/python", "-m", "llm_proxy.stack.probe", "4100", "/health/readiness"]
ENTRYPOINT ["with-keys", "/app/.venv-sidecar/bin/python", "-I", "-S", "/app/llm_proxy/sidecar/verify_environment.py"]
CMD ["--config", "/app/litellm-config.yaml", "--host", "0.0.0.0", "--prefork", "--port", "4100"]

# ---- both in one container, without stores unless they are named -------------------------------------------
FROM gateway AS all
COPY --from=build-sidecar /app/.venv-sidecar /app/.venv-sidecar
COPY locks/sidecar.txt /app/locks/
COPY litellm-config.yaml /app/
ENV LLM_PROXY__ENVIRONMENT=production LLM_PROXY_STATE=/data
# 4000: started with the arguments of LiteLLM's image.
HEALTHCHECK --interval=10s --timeout=3s --start-period=90s \
    CMD ["sh", "-c", "probe='/app/.venv/bin/python -m llm_proxy.stack.probe'; $probe 7007 /health/ready || $probe 4000 /health/ready"]
ENTRYPOINT ["with-keys", "/app/.venv/bin/python", "-m", "llm_proxy"]
CMD ["up", "--no-stores", "--no-local-model", "--logs-to-stdout", "--state", "/data"]
