# docker build -t sana-serve .        (without a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu)
# docker run --gpus all -p 8000:8000 -v sana-weights:/weights sana-serve        (settings: -e SANA_MODEL=..., or flags)
FROM python:3.11-slim-trixie AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir --constraint constraints.txt setuptools
COPY kernels kernels
COPY engine engine
COPY server server
RUN pip wheel --no-build-isolation --no-deps --wheel-dir /wheels .

# torch's wheels include CUDA; the NVIDIA container runtime adds the host's driver.
FROM python:3.11-slim-trixie
LABEL org.opencontainers.image.title="sana-serve" \
      org.opencontainers.image.description="An inference server for SANA, the linear diffusion transformer" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HOME=/weights \
    TRITON_CACHE_DIR=/home/sana/.triton/cache \
    PYTHONUNBUFFERED=1 \
    SANA_HOST=0.0.0.0 \
    SANA_PORT=8000
# Triton compiles the launchers of its kernels at run time.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# Group 0 may write: OpenShift, and docker run --user UID, choose a user of that group, with / as its home.
RUN useradd --uid 1000 --create-home sana \
    && install --directory --owner=sana --group=0 --mode=775 /weights /home/sana
COPY constraints.txt /
ARG TORCH_INDEX=
RUN pip install --no-cache-dir --constraint /constraints.txt ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} torch
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --constraint /constraints.txt /wheels/*.whl
USER 1000
WORKDIR /home/sana
VOLUME /weights
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m \
    CMD ["python", "-c", "import os; from http.client import HTTPConnection as C; c = C('127.0.0.1', int(os.environ['SANA_PORT']), timeout=4); c.request('GET', '/ready'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["sana"]
CMD ["serve"]
