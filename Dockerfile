# A worker, or the image of a job: the code with its dependencies, nothing listening.
#
#   docker build -t latent-features:0.1.0 .
#   docker run --env PREFECT_API_URL --env MLFLOW_TRACKING_URI --env-file secrets.env \
#     --volume latents-home:/home/latents/home latent-features:0.1.0
#
# Or no volume, and --env LATENTS_HOME=s3://BUCKET/PREFIX.
#
# Secrets come with the environment at run time; none is in a layer.

FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY data data
COPY vae_engine vae_engine
COPY flows flows
RUN python -m pip install -c constraints.txt ".[fast,postgres,s3]" && rm -rf /src/build

RUN useradd --uid 10001 --create-home latents && mkdir /home/latents/home \
    && chown latents:latents /home/latents/home
USER latents
WORKDIR /home/latents
VOLUME /home/latents/home

ENV LATENTS_HOME=/home/latents/home \
    DO_NOT_TRACK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    PREFECT_RESULTS_DEFAULT_SERIALIZER=json \
    PREFECT_LOGGING_EXTRA_LOGGERS=flows,data,vae_engine

# A training that is asked to end saves a checkpoint first: give it time (--stop-timeout 120).
STOPSIGNAL SIGTERM
CMD ["prefect", "worker", "start", "--pool", "latents", "--type", "process"]
