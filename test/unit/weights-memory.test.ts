import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { allBytes, largestBytes, writeLargeModel } from '../kit/large-models.js';
import { temporaryDirectory } from '../kit/temporary.js';

const run = promisify(execFile);

describe('reading a model tensor by tensor', () => {
  const directory = temporaryDirectory();
  /** Freed buffers wait for the garbage collector, which knows of their size. */
  const slack = 256e6;

  it.each(['safetensors', 'pytorch', 'gguf'] as const)('%s: holds no more than twice the largest tensor', async (format) => {
    expect(allBytes).toBeGreaterThan(1.5 * (2 * largestBytes + slack));
    const path = writeLargeModel(directory, format);
    const { stdout } = await run(process.execPath, ['--import', 'tsx', 'test/kit/read-weights.ts', path]);
    const { bytes, grown } = JSON.parse(stdout) as { bytes: number; grown: number };
    expect(bytes).toBe(allBytes);
    expect(grown).toBeLessThan(2 * largestBytes + slack);
  });
});
