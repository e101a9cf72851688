# Two images from one file:
#
#   docker build --target ingress   -t cauce-ingress   .    the door, and egress with another command; no torch
#   docker build --target inference -t cauce-inference .    the model
#
# For an NVIDIA GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 (or another build torch offers).

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/cauce/bin:$PATH \
    HOME=/tmp DATA_DIR=/cauce/data HF_HOME=/cauce/models
WORKDIR /app
# Volumes take the owner of the folder they are mounted on, so the folders exist before the user changes.
RUN groupadd --gid 10001 cauce \
 && useradd --uid 10001 --gid cauce --no-create-home --shell /usr/sbin/nologin cauce \
 && mkdir -p /cauce/secrets /cauce/postgres /cauce/n8n /cauce/prometheus /cauce/data /cauce/models \
 && chown cauce:cauce /cauce/secrets /cauce/postgres /cauce/n8n /cauce/prometheus /cauce/data /cauce/models \
 && ln -s /cauce/secrets/env .env

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=
RUN python -m venv /opt/cauce
COPY pyproject.toml ./
COPY deploy/requirements.py deploy/
RUN python deploy/requirements.py base > /tmp/base.txt \
 && python deploy/requirements.py archive > /tmp/archive.txt \
 && pip install -r /tmp/base.txt -r /tmp/archive.txt

FROM build AS build-ingress
COPY README.md LICENSE ./
COPY ingress ingress
COPY processors processors
COPY streams streams
RUN pip install --no-deps .

FROM build AS build-inference
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# torch alone from its own index, in the build that was chosen; all it needs from PyPI, like everything else.
RUN python deploy/requirements.py torch > /tmp/torch.txt \
 && pip install --no-deps --index-url "${TORCH_INDEX}" -r /tmp/torch.txt
RUN python deploy/requirements.py torch > /tmp/torch.txt \
 && python deploy/requirements.py inference > /tmp/inference.txt \
 && pip install -r /tmp/torch.txt -r /tmp/inference.txt
COPY README.md LICENSE ./
COPY ingress ingress
COPY processors processors
COPY streams streams
RUN pip install --no-deps .

FROM base AS ingress
COPY --from=build-ingress /opt/cauce /opt/cauce
COPY streams.toml ./
COPY deploy/first_start.py deploy/n8n_credentials.py deploy/
USER 10001:10001
EXPOSE 8000 9100
ENTRYPOINT ["cauce"]
CMD ["ingress"]

FROM base AS inference
COPY --from=build-inference /opt/cauce /opt/cauce
COPY streams.toml ./
USER 10001:10001
EXPOSE 9100
ENTRYPOINT ["cauce"]
CMD ["work", "inference"]
