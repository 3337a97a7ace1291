import { philoxWords, type PhiloxKey } from './philox.js';

/** The numbers 0 … count - 1 in an order that only the key decides, every order equally likely (Fisher–Yates). */
export function permutation(count: number, key: PhiloxKey): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  const words = philoxWords(key, count * 2);
  for (let i = count - 1; i > 0; i--) {
    // 53 random bits against at most 2^32 values: the bias is below 2^-21 and the work the same for every key.
    const fraction = (words[2 * i] * 0x200000 + (words[2 * i + 1] >>> 11)) / 2 ** 53;
    const j = Math.floor(fraction * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
