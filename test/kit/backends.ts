import { beforeAll, describe } from 'vitest';
import { registerCudaBackend } from '../../engine/cuda/register.js';
import { selectBackend, type BackendName } from '../../engine/tensor/backends.js';

export interface BackendUnderTest {
  backend: BackendName;
  /** For toBeCloseTo. */
  digits: number;
  /** Largest error allowed, as a share of the largest magnitude expected. */
  tolerance: number;
}

/** cuda stores bfloat16, so it has about 8 bits; the others are float32. */
const all: BackendUnderTest[] = [
  { backend: 'tensorflow', digits: 5, tolerance: 2e-5 },
  { backend: 'wasm', digits: 5, tolerance: 2e-5 },
  { backend: 'cpu', digits: 5, tolerance: 2e-5 },
  { backend: 'cuda', digits: 1, tolerance: 2e-2 },
];

registerCudaBackend();
const reasons = new Map<BackendName, string>();
for (const { backend } of all) {
  await selectBackend(backend).catch((error: Error) => reasons.set(backend, error.message));
}

/** Runs the tests of `body` on every backend of this machine; one that is missing is shown as skipped, with the reason. */
export function describeBackends(name: string, body: (under: BackendUnderTest) => void): void {
  for (const under of all) {
    const reason = reasons.get(under.backend);
    const title = `${name} on ${under.backend}`;
    if (reason !== undefined) {
      describe.skip(`${title} (skipped: ${reason.split('\n')[0]})`, () => body(under));
      continue;
    }
    describe(title, () => {
      beforeAll(async () => {
        await selectBackend(under.backend);
      });
      body(under);
    });
  }
}
