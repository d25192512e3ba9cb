# A service of exported models, without torch: docs/serving.md, "Docker". The export is mounted at /export, and a token at
# /run/secrets/recvae-token; other words in the place of CMD name other places.
FROM python:3.13-slim

WORKDIR /opt/recvae
COPY constraints.txt requirements-serve.txt ./
RUN pip install --no-cache-dir -c constraints.txt -r requirements-serve.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY recvae recvae
COPY data_prep data_prep
COPY eval eval
COPY configs configs
RUN pip install --no-cache-dir --no-deps .

RUN useradd --system --uid 10001 --no-create-home recvae
USER recvae
WORKDIR /
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
ENTRYPOINT ["recvae", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/export", "--token-file", "/run/secrets/recvae-token"]
