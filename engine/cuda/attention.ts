import type { CudaDevice } from './device.js';
import type { KernelArgument } from './program.js';
import { attentionDeltaProgram, attentionKeyGradientProgram, attentionQueryGradientProgram } from './programs/attention-backward.cu.js';
import { attentionProgram } from './programs/attention-forward.cu.js';
import { stateLength, type AttentionShape } from './programs/attention-shape.js';
import { attentionWgmmaProgram, forwardTiles } from './programs/attention-wgmma-forward.cu.js';
import { attentionWgmmaKeyGradientProgram, keyGradientTiles } from './programs/attention-wgmma-key-gradient.cu.js';
import { attentionWgmmaQueryGradientProgram, queryGradientTiles } from './programs/attention-wgmma-query-gradient.cu.js';
import { boxColumns, fitsCopyEngine, fitsSectors, sectionHeads, type WgmmaTiles } from './programs/attention-wgmma.cu.js';

/** Device addresses; matrices are bf16. */
export interface AttentionOperands {
  /** [B,T,H,D] */
  q: number;
  /** [B,T,Hkv,D] */
  k: number;
  v: number;
  /** [B,T,H,D]; from one position to the next there are `outStride` values, at least H·D, and zeros where they are more. */
  out: number;
  outStride: number;
  /** float32 [B,H,stateLength]: base-2 log-sum-exps of the scaled scores. */
  logSum: number;
  /** As `attentionBoundsProgram` makes them. */
  bounds: number;
}

export interface AttentionGradientOperands extends AttentionOperands {
  /** The gradient of `out`. */
  dOut: number;
  dq: number;
  dk: number;
  dv: number;
  /** Values from one position to the next: of dq at least H·D, of dk and dv at least Hkv·D. */
  dqStride: number;
  dkvStride: number;
  /** float32 [B,H,stateLength]; written by the query gradient, read by the key gradient. */
  delta: number;
  /** float32 [B,T,D/2], of shapes that are `rotated`: dq and dk are turned back by these angles. */
  cos: number;
  sin: number;
}

/** The kernels for one kind of card. The forward pass fills `out` and `logSum`; the query gradient comes before the key gradient. */
export interface AttentionKernels {
  forward(shape: AttentionShape, operands: AttentionOperands): void;
  queryGradient(shape: AttentionShape, operands: AttentionGradientOperands): void;
  keyGradient(shape: AttentionShape, operands: AttentionGradientOperands): void;
}

/** Tile sizes by pass. */
export interface AttentionTiles {
  forward: WgmmaTiles;
  queryGradient: WgmmaTiles;
  keyGradient: WgmmaTiles;
}

/**
 * Hopper's kernels where they fit, else the portable ones. For small heads the portable forward pass is the faster one: 0.13 ms
 * instead of 0.33 on an H100 at 4 x 2048 tokens, 9/3 heads of 64, while Hopper's gradients take 0.32 ms instead of 0.58.
 */
export function attentionKernels(device: CudaDevice, shape: AttentionShape): AttentionKernels {
  const portable = portableAttention(device);
  if (device.capability !== 90 || !fitsCopyEngine(shape)) return portable;
  const hopper = wgmmaAttention(device, chosenTiles(shape));
  return shape.headSize > SMALL_HEAD ? hopper : { ...hopper, forward: portable.forward };
}

const SMALL_HEAD = 64;

/** The fastest of `bench/gpu-attention.ts` on an H100. */
export const chosenTiles = (shape: AttentionShape): AttentionTiles =>
  ({ forward: { ...forwardTiles(), sectors: fitsSectors(shape) }, queryGradient: queryGradientTiles(shape.headSize), keyGradient: keyGradientTiles(shape.headSize) });

export const portableAttention = (device: CudaDevice): AttentionKernels => ({
  forward: (shape, { out, outStride, logSum, q, k, v, bounds }) =>
    device.launch(attentionProgram(shape), [...pointers(out, logSum, q, k, v, bounds), ...sizes(shape), outStride]),
  queryGradient: (shape, { dq, dqStride, dOut, out, outStride, q, k, v, logSum, delta, bounds, cos, sin }) => {
    device.launch(attentionDeltaProgram(shape), [
      ...pointers(delta, out, dOut), shape.length, stateLength(shape.length), shape.heads, { i64: shape.batch * shape.length * shape.heads }, outStride,
    ]);
    device.launch(attentionQueryGradientProgram(shape), [...pointers(dq, dOut, q, k, v, logSum, delta, bounds, cos, sin), ...sizes(shape), dqStride]);
  },
  keyGradient: (shape, { dk, dv, dkvStride, dOut, q, k, v, logSum, delta, bounds, cos, sin }) =>
    device.launch(attentionKeyGradientProgram(shape), [...pointers(dk, dv, dOut, q, k, v, logSum, delta, bounds, cos, sin), ...sizes(shape), dkvStride]),
});

/** Needs compute capability 9.0 and `fitsCopyEngine`. */
export const wgmmaAttention = (device: CudaDevice, tiles: AttentionTiles): AttentionKernels => {
  /** Maps of tensors, each for whole chunks of columns and for the last. */
  const maps = ({ batch, length, headSize }: AttentionShape, { sectors }: WgmmaTiles, operands: { address: number; heads: number; rows: number }[]): KernelArgument[] => {
    const columns = boxColumns(headSize, sectors);
    return operands.flatMap(({ address, heads, rows }) =>
      [columns[0], columns.at(-1)!].map((width) => device.tensorMaps.of({ address, depth: batch, rows: length, columns: heads * headSize }, { rows, columns: width })));
  };
  return {
    forward: (shape, { out, outStride, logSum, q, k, v, bounds }) => {
      const { heads, kvHeads } = shape;
      const { streamed } = tiles.forward;
      device.launch(attentionWgmmaProgram(shape, device.multiprocessors, tiles.forward), [
        ...maps(shape, tiles.forward, [{ address: q, heads, rows: 64 }, { address: k, heads: kvHeads, rows: streamed }, { address: v, heads: kvHeads, rows: streamed }]),
        ...pointers(out, logSum, bounds), ...workSizes(shape, heads), outStride, scale(shape),
      ]);
    },
    queryGradient: (shape, { dq, dqStride, delta, dOut, out, outStride, q, k, v, logSum, bounds, cos, sin }) => {
      const { heads, kvHeads } = shape;
      const { streamed } = tiles.queryGradient;
      device.launch(attentionWgmmaQueryGradientProgram(shape, device.multiprocessors, tiles.queryGradient), [
        ...maps(shape, tiles.queryGradient, [
          { address: q, heads, rows: 64 }, { address: dOut, heads, rows: 64 }, { address: k, heads: kvHeads, rows: streamed }, { address: v, heads: kvHeads, rows: streamed },
        ]),
        ...pointers(dq, delta, out, logSum, bounds, cos, sin), ...workSizes(shape, heads), outStride, dqStride, scale(shape),
      ]);
    },
    keyGradient: (shape, { dk, dv, dkvStride, dOut, q, k, v, logSum, delta, bounds, cos, sin }) => {
      const { heads, kvHeads } = shape;
      const { streamed } = tiles.keyGradient;
      device.launch(attentionWgmmaKeyGradientProgram(shape, device.multiprocessors, tiles.keyGradient), [
        ...maps(shape, tiles.keyGradient, [
          { address: q, heads, rows: streamed }, { address: dOut, heads, rows: streamed }, { address: k, heads: kvHeads, rows: 64 }, { address: v, heads: kvHeads, rows: 64 },
        ]),
        ...pointers(dk, dv, logSum, delta, bounds, cos, sin), ...workSizes(shape, kvHeads), dkvStride, scale(shape),
      ]);
    },
  };
};

const pointers = (...addresses: number[]): KernelArgument[] => addresses.map((pointer) => ({ pointer }));
const scale = ({ headSize }: AttentionShape): KernelArgument => ({ f32: 1 / Math.sqrt(headSize) });
const sizes = (shape: AttentionShape): KernelArgument[] => [shape.length, stateLength(shape.length), shape.heads, shape.kvHeads, shape.batch, scale(shape)];
/** @param owned heads whose tiles the kernel's blocks own */
const workSizes = (shape: AttentionShape, owned: number): KernelArgument[] => [
  shape.length, stateLength(shape.length), shape.heads, shape.kvHeads, shape.batch, sectionHeads(shape, owned * shape.batch),
];
