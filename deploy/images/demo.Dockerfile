# The demo's training, for the sample job and compose: docker build -t trainbeacon-demo:0.1.0 -f deploy/images/demo.Dockerfile .
# Where pip's default build of torch would bring CUDA along: --build-arg PIP_EXTRA_INDEX_URL=... of a CPU build.
ARG BASE=python:3.12-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY tools/constraints.txt constraints.txt
COPY deploy/images/requirements.txt requirements.txt
RUN python -m venv /opt/trainbeacon \
 && grep '^torch==' constraints.txt > torch.txt \
 && /opt/trainbeacon/bin/pip install -r torch.txt \
 && /opt/trainbeacon/bin/pip install --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
COPY prometheus prometheus
COPY alertmanager alertmanager
COPY grafana grafana
COPY deploy/k8s/chart deploy/k8s/chart
# Its dependencies are there already, but for those of the demo.
RUN /opt/trainbeacon/bin/pip install -c constraints.txt '.[demo]'

# hadolint ignore=DL3006
FROM ${BASE}
COPY --from=build /opt/trainbeacon /opt/trainbeacon
ENV PATH=/opt/trainbeacon/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp OMP_NUM_THREADS=1
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "torch.distributed.run"]
CMD ["--standalone", "--nproc-per-node=2", "-m", "trainbeacon.demo.job", "--seconds=600"]
