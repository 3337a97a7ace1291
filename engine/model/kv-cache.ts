import { add, concat, gather, keep, matMul, mul, reshape, slice, softmax, tensor1d, tensor4d, tidy, transpose, zeros, type Tensor, type Tensor4D } from '@tensorflow/tfjs-core';
import { windowOf, type LlamaConfig } from '../formats/llama-config.js';
import { causalAttention } from '../tensor/causal-attention.js';
import { rotated, type RopeTables } from './rope-tables.js';

/** Keys or values of one layer, [B, Hkv, S, D]: a long part that is left alone and a short one that grows by a position a step. */
interface Parts {
  settled: Tensor4D;
  recent?: Tensor4D;
}

/** Positions that `recent` may hold before it is joined to `settled`, so that a step does not copy the whole cache. */
const RECENT_LIMIT = 32;
/** Added to the scores of padding, whose probability becomes exactly 0. */
const MASKED = -1e9;

/**
 * Keys and values of what a batch of rows has read and written so far. Prompts of different lengths are padded on the right and
 * the padding is masked for good, so each row sees its own tokens alone; the order of columns does not matter, as keys are
 * rotated by their position in the row before they come here.
 */
export class KvCache {
  private readonly keys: Parts[] = [];
  private readonly values: Parts[] = [];
  /** [B, 1, 1, settled columns]: 0, or `MASKED` where there is padding. */
  private mask: Tensor4D;
  /** Of the current step, for layers with a sliding window: what lies before it. */
  private windowMask?: { columns: number; mask: Tensor4D };

  constructor(
    private readonly config: LlamaConfig,
    private lengths: readonly number[],
    private readonly width: number,
  ) {
    const mask = new Float32Array(lengths.length * width);
    lengths.forEach((length, row) => mask.fill(MASKED, row * width + length, (row + 1) * width));
    this.mask = keep(tensor4d(mask, [lengths.length, 1, 1, width]));
  }

  /** Attention over the prompts themselves, whose rotated keys and values become the cache; see `Attend`. q [B,T,H,D], k and v [B,T,Hkv,D] → [B,T,H,D]. */
  attendPrompt(layer: number, q: Tensor4D, k: Tensor4D, v: Tensor4D, segments: Tensor, rope?: RopeTables): Tensor {
    const keys = rotated(k, rope);
    this.keys[layer] = { settled: keep(transpose(keys, [0, 2, 1, 3])) };
    this.values[layer] = { settled: keep(transpose(v, [0, 2, 1, 3])) };
    return causalAttention(rotated(q, rope), keys, v, segments as never, { window: windowOf(this.config, layer) });
  }

  /** Attention of one new position a row over everything before it and itself; see `Attend`. q [B,1,H,D], k and v [B,1,Hkv,D] → [B,1,H,D]. */
  attendNext(layer: number, q: Tensor4D, k: Tensor4D, v: Tensor4D, rope?: RopeTables): Tensor {
    const { heads, kvHeads, headDim } = this.config;
    const rows = q.shape[0];
    const newest = [rows, kvHeads, 1, headDim];
    const keys = append(this.keys[layer], reshape(rotated(k, rope), newest));
    const values = append(this.values[layer], reshape(v, newest));
    const grouped = reshape(mul(rotated(q, rope), 1 / Math.sqrt(headDim)), [rows, kvHeads, heads / kvHeads, headDim]);

    const settledScores = add(matMul(grouped, keys.settled, false, true), this.mask);
    const recentScores = matMul(grouped, keys.recent, false, true);
    const settled = keys.settled.shape[2];
    const scores = concat([settledScores, recentScores], 3);
    const window = windowOf(this.config, layer);
    const probabilities = softmax(window === undefined ? scores : add(scores, this.beforeWindow(window, scores.shape[3]!)));
    const before = slice(probabilities, [0, 0, 0, 0], [-1, -1, -1, settled]);
    const since = slice(probabilities, [0, 0, 0, settled], [-1, -1, -1, -1]);
    return reshape(add(matMul(before, values.settled), matMul(since, values.recent)), [rows, 1, heads, headDim]);
  }

  /** To be called between steps: joins the parts when the recent one is full. */
  settle(): void {
    const recent = this.keys[0].recent?.shape[2] ?? 0;
    if (recent < RECENT_LIMIT) return;
    for (const parts of [...this.keys, ...this.values]) {
      replace(parts, 'settled', concat([parts.settled, parts.recent!], 2));
      parts.recent!.dispose();
      parts.recent = undefined;
    }
    this.replaceMask(tidy(() => concat([this.mask, zeros([this.mask.shape[0], 1, 1, recent])], 3)));
  }

  /** Keeps these rows only, in this order. */
  select(rows: readonly number[]): void {
    const indices = tensor1d([...rows], 'int32');
    for (const parts of [...this.keys, ...this.values]) {
      replace(parts, 'settled', gather(parts.settled, indices));
      if (parts.recent) replace(parts, 'recent', gather(parts.recent, indices));
    }
    this.replaceMask(gather(this.mask, indices));
    this.lengths = rows.map((row) => this.lengths[row]);
    indices.dispose();
  }

  dispose(): void {
    for (const { settled, recent } of [...this.keys, ...this.values]) {
      settled.dispose();
      recent?.dispose();
    }
    this.mask.dispose();
    this.windowMask?.mask.dispose();
  }

  /** [B, 1, 1, columns]: `MASKED` at the positions that the newest one, in the last column, no longer sees. All layers have one size. */
  private beforeWindow(size: number, columns: number): Tensor4D {
    const { lengths, width, windowMask } = this;
    if (windowMask && windowMask.columns === columns && windowMask.mask.shape[0] === lengths.length) return windowMask.mask;
    windowMask?.mask.dispose();
    const hidden = new Float32Array(lengths.length * columns);
    lengths.forEach((length, row) => {
      const written = columns - width;
      const seenFrom = length + written - size; // the first position of the window
      for (let column = 0; column < columns; column++) {
        const position = column < width ? column : length + column - width;
        if (position < seenFrom) hidden[row * columns + column] = MASKED;
      }
    });
    const mask = keep(tensor4d(hidden, [lengths.length, 1, 1, columns]));
    this.windowMask = { columns, mask };
    return mask;
  }

  private replaceMask(mask: Tensor4D): void {
    this.mask.dispose();
    this.mask = keep(mask);
  }
}

/** Adds a position to the recent part, which is there afterwards. */
function append(parts: Parts, newest: Tensor): Required<Parts> {
  if (parts.recent) replace(parts, 'recent', concat([parts.recent, newest as Tensor4D], 2));
  else parts.recent = keep(newest.clone() as Tensor4D);
  return parts as Required<Parts>;
}

function replace(parts: Parts, part: keyof Parts, tensor: Tensor4D): void {
  parts[part]!.dispose();
  parts[part] = keep(tensor);
}
