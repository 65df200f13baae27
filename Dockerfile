# The server of a run:
#     docker build -t hyperloader .
#     docker run -p 8000:8000 -e HYPERLOADER_API_KEY=... -v $PWD/runs/seven-tasks:/run-folder:ro hyperloader
# The backbone that the run's config.yaml names must be in the image, in a volume, or on the Hub.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /package
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt setuptools ninja torch --extra-index-url https://download.pytorch.org/whl/cpu \
 && HYPERLOADER_NATIVE=cpu pip install --no-cache-dir --constraint constraints.txt --no-build-isolation '.[serve]' \
 && useradd --create-home server
USER server
WORKDIR /home/server
ENV OMP_WAIT_POLICY=passive
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["hyperloader", "serve", "--host", "0.0.0.0"]
CMD ["/run-folder"]
