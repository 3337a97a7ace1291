import { defineConfig } from 'vitest/config';

/** One project a need: what a machine must have to run it. GPU tests are in vitest.gpu.config.ts. */
const project = (name: string, options: object = {}) => ({
  test: { name, include: [`test/${name}/**/*.test.ts`], testTimeout: 60_000, hookTimeout: 120_000, ...options },
});

export default defineConfig({
  test: {
    projects: [
      project('unit'),
      // A tfjs engine is one a process, so these files are isolated in forks.
      project('backend', { pool: 'forks', testTimeout: 120_000 }),
      project('storage', { globalSetup: 'test/kit/s3-server.ts' }), // one real S3 server
      project('temporal', { testTimeout: 180_000, fileParallelism: false }),
      project('e2e', { testTimeout: 900_000, hookTimeout: 600_000, fileParallelism: false }),
    ],
  },
});
