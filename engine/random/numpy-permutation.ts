/** A generator of 32 random bits at a time. */
export interface WordSource {
  /** 32 random bits. */
  word(): number;
}

/** The numbers 0 … count - 1 in random order, as `RandomState.permutation(count)` and `Generator.permutation(count)` of numpy give them. */
export function numpyPermutation(source: WordSource, count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = upTo(source, i);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** A whole number from 0 to `most`: words are masked, and drawn again until one is small enough. */
function upTo(source: WordSource, most: number): number {
  const mask = 0xffffffff >>> Math.clz32(most);
  let value: number;
  do value = (source.word() & mask) >>> 0;
  while (value > most);
  return value;
}
