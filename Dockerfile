# docker build --build-arg ACCELERATOR=tpu -t seqgan_jax .     (or cuda12, or cpu)
# docker run -v $PWD/runs:/app/runs seqgan_jax python train.py --config=configs/captions.py:smoke
FROM python:3.11-slim

ARG ACCELERATOR=cpu
WORKDIR /app
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY seqgan_jax seqgan_jax
RUN pip install --no-cache-dir -e '.[bucket]' \
    && if [ "$ACCELERATOR" != cpu ]; then pip install --no-cache-dir "jax[$ACCELERATOR]"; fi
COPY configs configs
COPY train.py generate.py evaluate.py ./

# Prepared data and compiled programs; mount a folder here to keep them.
ENV SEQGAN_JAX_CACHE=/cache
VOLUME /cache
# A parent process of ours must get the signals that ask to stop.
STOPSIGNAL SIGTERM
CMD ["python", "train.py", "--help"]
