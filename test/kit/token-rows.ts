import type { TokenRows } from '../../engine/data/batches.js';
import { philoxWords } from '../../engine/random/philox.js';

/** Rows of random tokens, the first few of each masked. */
export function randomRows(count: number, { vocabulary, longest, seed = 1 }: { vocabulary: number; longest: number; seed?: number }): TokenRows {
  const rows = Array.from({ length: count }, (_, row) => {
    const words = philoxWords({ seed, step: row, stream: 0 }, longest + 2);
    const length = 6 + (words[0] % (longest - 5));
    const prompt = 1 + (words[1] % (length - 3));
    const ids = Int32Array.from(words.subarray(2, 2 + length), (word) => 3 + (word % (vocabulary - 3)));
    return { ids, mask: Uint8Array.from(ids, (_, i) => Number(i >= prompt)) };
  });
  return { count, length: (row) => rows[row].ids.length, ids: (row) => rows[row].ids, mask: (row) => rows[row].mask };
}
