import { defineConfig } from 'vitest/config';

/** The suite that needs an NVIDIA GPU; without one it is shown as skipped, with the reason. One process: there is one device. */
export default defineConfig({
  test: { name: 'gpu', include: ['test/gpu/**/*.test.ts'], pool: 'forks', fileParallelism: false, testTimeout: 120_000, hookTimeout: 120_000 },
});
