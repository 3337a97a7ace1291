import { philoxWords, type PhiloxKey } from '../../engine/random/philox.js';

/** What dropout multiplies each of `length` elements by, from its definition: 15 bits of half a Philox word (7 rounds) an element; of 64 the last 32 have the words rotated by a byte. */
export function dropoutFactors(key: PhiloxKey, rate: number, length: number): Float64Array {
  const words = philoxWords(key, length + 16, 0, 7), dropped = Math.round(rate * 32768);
  return Float64Array.from({ length }, (_, i) => {
    const place = i % 64, word = words[Math.floor(i / 64) * 16 + Math.floor((place % 32) / 2)];
    const turned = place < 32 ? word : (word % 2 ** 24) * 256 + Math.floor(word / 2 ** 24);
    const draw = Math.floor(turned / (i % 2 === 0 ? 1 : 65536)) % 32768;
    return draw >= dropped ? 32768 / (32768 - dropped) : 0;
  });
}
