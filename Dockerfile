# mapsto with its server, for processors. The root file system may be read-only, and the user is not root:
#   docker build -t mapsto .
#   docker run --read-only --tmpfs /tmp -v "$PWD/runs/clf:/model:ro" -e MAPSTO_KEY=… -p 8000:8000 mapsto
# Another command of mapsto in place of the server:
#   docker run --read-only --tmpfs /tmp -v "$PWD:/data" -w /data mapsto predict runs/clf new.csv
FROM python:3.11-slim-bookworm AS build
# Further extras of pyproject.toml, with commas, such as serve,image.
ARG EXTRAS=serve
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/mapsto
# torch alone first: this layer, the largest one, stays as it is when the code changes. That index has it without CUDA.
COPY constraints.txt ./
RUN /opt/mapsto/bin/pip install -c constraints.txt "torch>=2.9"
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY tools/trim.sh ./
RUN /opt/mapsto/bin/pip install -c constraints.txt ".[${EXTRAS}]" && ./trim.sh /opt/mapsto

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 mapsto && useradd --uid 10001 --gid mapsto --no-create-home --shell /usr/sbin/nologin mapsto
COPY --from=build /opt/mapsto /opt/mapsto
# Libraries that keep caches find the only folder that can be written.
ENV PATH=/opt/mapsto/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
ENTRYPOINT ["mapsto"]
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
