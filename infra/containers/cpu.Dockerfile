# Temper without a GPU: the orchestration worker, or with another command the engine worker on libtensorflow for CPUs.
#   docker build --file infra/containers/cpu.Dockerfile --tag temper-cpu .

FROM node:20.19-bookworm AS build
WORKDIR /opt/temper
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --no-audit --no-fund
# libtensorflow is linked into node_modules from here, so it lies at the same path in the image.
ENV TEMPER_CACHE=/opt/temper-native
COPY infra/setup-libtensorflow.mjs infra/
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && node infra/setup-libtensorflow.mjs \
    && test -e node_modules/@tensorflow/tfjs-node/lib/napi-v8/tfjs_binding.node
COPY . .
# With the workflow bundle in the image a worker is ready in a third of the time.
RUN node --import tsx --input-type=module --eval "await (await import('./workers/workflow-bundle.ts')).workflowBundle('/opt/temper-cache')"

FROM node:20.19-bookworm-slim
# pip fetches the built-in models.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/temper-native /opt/temper-native
COPY --from=build /opt/temper /opt/temper
COPY --from=build --chown=1000:1000 /opt/temper-cache /var/cache/temper
WORKDIR /opt/temper
# Datasets and models that `file:` URIs name are mounted under /data.
RUN mkdir /data && chown 1000:1000 /data
ENV NODE_ENV=production TEMPER_CACHE=/var/cache/temper HF_HOME=/var/cache/temper/huggingface TEMPER_DATA_ROOTS=/data
USER 1000:1000
# Node itself is process 1, so that SIGTERM reaches the worker, which then stops cleanly.
ENTRYPOINT ["node", "--import", "tsx"]
CMD ["workers/orchestrator.ts"]
