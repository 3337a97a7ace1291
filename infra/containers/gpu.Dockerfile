# Temper's engine worker for NVIDIA GPUs; needs the NVIDIA Container Toolkit on the host.
#   docker build --file infra/containers/gpu.Dockerfile --tag temper-gpu .
#   docker run --gpus all … temper-gpu

FROM node:20.19-bookworm AS build
WORKDIR /opt/temper
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --no-audit --no-fund
# libtensorflow is linked into node_modules from here, so it lies at the same path in the image.
ENV TEMPER_CACHE=/opt/temper-native
COPY infra/setup-libtensorflow.mjs infra/
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && node infra/setup-libtensorflow.mjs --gpu \
    && test -e node_modules/@tensorflow/tfjs-node-gpu/lib/napi-v8/tfjs_binding.node
COPY . .

# CUDA 12 with cuDNN 9, which libtensorflow 2.20 is built for; NVRTC and cublasLt come with it.
FROM nvidia/cuda:12.9.1-cudnn-runtime-ubuntu24.04
# The headers that kernels are compiled against at run time (cuda_bf16.h), and pip for the built-in models.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates cuda-cudart-dev-12-9 python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/node /usr/local/bin/node
COPY --from=build /opt/temper-native /opt/temper-native
COPY --from=build /opt/temper /opt/temper
WORKDIR /opt/temper
# Datasets and models that `file:` URIs name are mounted under /data.
RUN mkdir --parents /data /var/cache/temper && chown 1000:1000 /data /var/cache/temper
ENV NODE_ENV=production TEMPER_CACHE=/var/cache/temper HF_HOME=/var/cache/temper/huggingface TEMPER_DATA_ROOTS=/data
USER 1000:1000
ENTRYPOINT ["node", "--import", "tsx"]
CMD ["workers/gpu.ts"]
