import { gather, keep, reshape, scalar, tensor1d, tensor2d, type Scalar, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import type { LlamaConfig } from '../formats/llama-config.js';
import type { LabelledBatch } from './llama.js';
import { ropeTables, type RopeTables } from './rope-tables.js';

/** A batch whose parts are tensors, for the blocks and the loss. */
export interface DeviceBatch {
  /** B lines of T positions. */
  shape: [number, number];
  /** int32 [B, T]. */
  ids: Tensor2D;
  segments: Tensor2D;
  rope: RopeTables;
  /** int32 [M]: positions that the loss counts, then padding. Empty: all positions as they are. */
  places: Tensor1D;
  /** int32 [M], or for all positions: the token that follows each; negative where the loss does not count it. */
  targets: Tensor1D;
  /** Magnitude of the noise on the embeddings; absent where none is drawn. */
  noise?: Scalar;
}

/** Shares of a batch's positions to which the counted ones are padded, so that few shapes occur. */
const COUNTED_SHARES = [1 / 8, 1 / 4, 1 / 2, 1];

/**
 * Brings batches to the device in the form of few small tensors, which are all that a recorded computation is given anew: the
 * rotary angles, far larger, are looked up there.
 */
export class BatchFeed {
  /** Kept [1, longest, headDim / 2]; absent where the angles depend on more than the position. */
  private readonly tables?: RopeTables;

  /**
   * @param longest tokens of the longest row
   * @param padsCounted pad the counted positions to a share of all, so that few shapes occur
   * @param neftuneNoiseAlpha noise on the embeddings, of magnitude alpha / √(tokens of the batch's longest row · width) @default none
   */
  constructor(
    private readonly config: LlamaConfig,
    longest: number,
    private readonly padsCounted: boolean,
    private readonly neftuneNoiseAlpha?: number,
  ) {
    if (config.ropeScaling?.type === 'dynamic') return;
    const { cos, sin } = ropeTables(config, Int32Array.from({ length: longest }, (_, position) => position), [1, longest]);
    this.tables = { cos: keep(cos), sin: keep(sin) };
  }

  /** What `open` reads beside a batch's tensors. */
  get constants(): Tensor[] {
    return this.tables ? [this.tables.cos, this.tables.sin] : [];
  }

  /** To be disposed by the caller. */
  upload({ shape, inputIds, positions, segments, labels }: LabelledBatch): Tensor[] {
    const { places, targets } = this.countedOf(labels);
    const rope = this.tables ? [tensor1d(positions, 'int32')] : Object.values(ropeTables(this.config, positions, shape));
    const alpha = this.neftuneNoiseAlpha;
    const noise = alpha === undefined ? [] : [scalar(alpha / Math.sqrt((positions.reduce((a, b) => Math.max(a, b)) + 1) * this.config.hiddenSize))];
    return [tensor2d(inputIds, shape, 'int32'), tensor2d(segments, shape, 'int32'), tensor1d(places, 'int32'), tensor1d(targets, 'int32'), ...noise, ...(rope as Tensor[])];
  }

  /** A batch out of its tensors; to be called within a tidy. */
  open([ids, segments, places, targets, ...rope]: readonly Tensor[]): DeviceBatch {
    const shape = ids.shape as [number, number];
    const noise = this.neftuneNoiseAlpha === undefined ? undefined : (rope.shift() as Scalar);
    return { shape, ids: ids as Tensor2D, segments: segments as Tensor2D, places: places as Tensor1D, targets: targets as Tensor1D, noise, rope: this.angles(shape, rope) };
  }

  dispose(): void {
    for (const tensor of this.constants) tensor.dispose();
  }

  private countedOf(labels: Int32Array): { places: Int32Array; targets: Int32Array } {
    const counted = Int32Array.from(labels.keys()).filter((place) => labels[place] >= 0);
    const size = this.padsCounted ? paddedCount(counted.length, labels.length) : counted.length;
    if (this.padsCounted && size === labels.length) return { places: new Int32Array(0), targets: labels };
    const places = new Int32Array(size), targets = new Int32Array(size).fill(-1);
    places.set(counted);
    counted.forEach((place, i) => (targets[i] = labels[place]));
    return { places, targets };
  }

  private angles(shape: [number, number], rope: Tensor[]): RopeTables {
    if (!this.tables) return { cos: rope[0], sin: rope[1] } as RopeTables;
    const half = this.config.headDim / 2;
    const lookUp = (table: Tensor) => reshape(gather(reshape(table, [-1, half]), rope[0] as Tensor1D), [...shape, half]);
    return { cos: lookUp(this.tables.cos), sin: lookUp(this.tables.sin) } as RopeTables;
  }
}

/** The smallest of the shares of `total` that holds `count`. */
export const paddedCount = (count: number, total: number): number => COUNTED_SHARES.map((share) => Math.ceil(total * share)).find((size) => size >= count)!;
