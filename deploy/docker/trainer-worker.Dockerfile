# The image of a training run: what WEIGHBRIDGE_ENGINE=docker starts, one container each.
#
#     make stubs
#     docker build --build-arg BASE=python@sha256:… --file deploy/docker/trainer-worker.Dockerfile --tag weighbridge-worker .
#     docker image inspect --format '{{.Id}}' weighbridge-worker      # for WEIGHBRIDGE_DOCKER_IMAGE
#
# BASE is an image by its digest with Python 3.11 or newer as `python3` and its module venv. It has no default: a tag
# here would make the same commit another image next month. CUDA's libraries come with torch; the driver from the node.
ARG BASE

FROM ${BASE} AS packages
COPY requirements/trainer.txt /tmp/requirements.txt
# Copied as a whole below: pip's cache and what built a package stay behind.
RUN python3 -m venv /opt/worker \
    && /opt/worker/bin/pip install --no-cache-dir --require-hashes --requirement /tmp/requirements.txt

FROM ${BASE}
COPY --from=packages /opt/worker /opt/worker
# The stubs are generated and not in git: without `make stubs` the build stops here.
COPY client/buf /opt/weighbridge/buf
COPY client/weighbridge /opt/weighbridge/weighbridge
COPY services /opt/weighbridge/services
ENV PATH=/opt/worker/bin:$PATH \
    PYTHONPATH=/opt/weighbridge \
    PYTHONDONTWRITEBYTECODE=1
# The root is read-only where this runs: what is not compiled now would be at every start.
RUN python -m compileall -q /opt/weighbridge
WORKDIR /opt/weighbridge
# The engine names the user whose run it is; whoever starts the image by hand is not root either.
USER 65532:65532
CMD ["python", "-m", "services.trainer.worker"]
