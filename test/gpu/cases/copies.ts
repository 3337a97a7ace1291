import { backend } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../../engine/cuda/backend.js';

/** Runs with the copies of quantised matrices kept, or made anew for each use, where the current backend is `cuda`. */
export function withCopies<T>(copies: CudaBackend['keepDequantized'], run: () => T): T {
  const current = backend() as Partial<Pick<CudaBackend, 'keepDequantized'>>, before = current.keepDequantized;
  if (before) current.keepDequantized = copies;
  try {
    return run();
  } finally {
    if (before) current.keepDequantized = before;
  }
}
