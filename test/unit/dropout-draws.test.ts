import { describe, expect, it } from 'vitest';
import { dropoutThreshold } from '../../engine/tensor/dropout-rate.js';

const rotated = (word: number): number => ((word << 8) | (word >>> 24)) >>> 0;
/** The four draws of a word, as engine/tensor/dropout-mask.ts defines them. */
const draws: readonly ((word: number) => number)[] = [(word) => word & 0x7fff, (word) => (word >>> 16) & 0x7fff, (word) => rotated(word) & 0x7fff, (word) => (rotated(word) >>> 16) & 0x7fff];
/** Which bytes of the word each is made of, 0 being the lowest. */
const bytes = [[0, 1], [2, 3], [3, 0], [1, 2]];
const at = (value: number, byte: number): number => (value << (8 * byte)) >>> 0;

/** Of all values of a draw's other byte, those that drop it; one byte is held. */
function dropping(draw: number, held: number, value: number, threshold: number): number {
  const [other] = bytes[draw].filter((byte) => byte !== held);
  let count = 0;
  for (let free = 0; free < 256; free++) if (draws[draw]((at(value, held) | at(free, other)) >>> 0) < threshold) count++;
  return count;
}

const byteValues = Array.from({ length: 256 }, (_, value) => value);

describe.each([0.01, 0.05, 0.1, 0.5, 0.9, 129 / 32768])("the four draws of a word at dropout's rate %d", (rate) => {
  const threshold = dropoutThreshold(rate), probability = threshold / 32768;

  it('drop each with its exact probability', () => {
    for (const draw of draws.keys()) {
      const count = byteValues.reduce((sum, value) => sum + dropping(draw, bytes[draw][0], value, threshold), 0);
      expect(count / 65536, `draw ${draw}`).toBe(probability);
    }
  });

  it('are made of bytes of which two share one at most, and are then correlated by less than 1/256', () => {
    for (const [i, j] of [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]) {
      const shared = bytes[i].filter((byte) => bytes[j].includes(byte));
      if ((i < 2) === (j < 2)) expect(shared).toEqual([]);
      else {
        expect(shared).toHaveLength(1);
        const both = byteValues.reduce((sum, value) => sum + dropping(i, shared[0], value, threshold) * dropping(j, shared[0], value, threshold), 0) / 2 ** 24;
        const correlation = (both - probability ** 2) / (probability * (1 - probability));
        expect(Math.abs(correlation), `draws ${i} and ${j}`).toBeLessThan(1 / 256);
        if (rate === 0.05 || rate === 0.1 || rate === 0.5) expect(Math.abs(correlation), `draws ${i} and ${j}`).toBeLessThan(0.002);
      }
    }
  });
});
