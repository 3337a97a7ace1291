import { backend, dispose, tensor } from '@tensorflow/tfjs-core';
import type { Replayer } from '../../engine/tensor/replay.js';

/** Runs with a shelf that brings tensors out of the current backend altogether. @returns what `run` does, and how many tensors were put away at a time */
export function withShelf<T>(run: () => T): { result: T; counts: number[] } {
  const counts: number[] = [];
  const replayer: Pick<Replayer, 'hasShelf' | 'shelve'> = {
    hasShelf: true,
    shelve: (tensors) => {
      counts.push(tensors.length);
      const away = tensors.map((x) => ({ shape: x.shape, dtype: x.dtype, values: x.dataSync() }));
      dispose([...tensors]);
      return { fetch: () => undefined, take: () => away.map(({ shape, dtype, values }) => tensor(values, shape, dtype)) };
    },
  };
  const current = backend() as { replayer?: unknown }, before = current.replayer;
  current.replayer = replayer;
  try {
    return { result: run(), counts };
  } finally {
    current.replayer = before;
  }
}
