# convbert serve on a CPU:  docker build -t convbert .  &&  docker run -p 8000:8000 convbert
FROM python:3.12-slim AS build
# Debian keeps no older versions that one could pin.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --no-install-recommends -y gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:3.12-slim
COPY --from=build /venv /venv
RUN useradd --create-home --uid 1000 convbert
USER 1000
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["/venv/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["/venv/bin/convbert", "serve", "--host", "0.0.0.0"]
