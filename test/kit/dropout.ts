import { philoxWords, type PhiloxKey } from '../../engine/random/philox.js';

/** What dropout multiplies each of `length` elements by, from its definition: 15 bits of half a Philox word an element. */
export function dropoutFactors(key: PhiloxKey, rate: number, length: number): Float64Array {
  const words = philoxWords(key, length), dropped = Math.round(rate * 32768);
  const draw = (i: number): number => Math.floor(words[Math.floor(i / 2)] / (i % 2 === 0 ? 1 : 65536)) % 32768;
  return Float64Array.from({ length }, (_, i) => (draw(i) >= dropped ? 32768 / (32768 - dropped) : 0));
}
