import { add, cast, concat, mul, notEqual, reshape, tensor2d, tensor3d, type Tensor, type Tensor1D, type Tensor2D, type Tensor4D } from '@tensorflow/tfjs-core';
import { causalAttention } from '../../../engine/tensor/causal-attention.js';
import { freezeWeight, type BaseDtype, type FrozenWeight } from '../../../engine/tensor/frozen-weight.js';
import { quantizedLinear, quantizedLinears, type LinearMember } from '../../../engine/tensor/quantized-linear.js';
import { withGradients, type GpuCase, type Random } from './compare.js';
import { withCopies } from './copies.js';

/*
 * Layers of one input, whose products are one where copies of their matrices, results and gradients lie so: with copies that are kept, that
 * last for a product, and that stay for the gradient; and where something on the way needs a gradient whose rows are together.
 */

/** Matrices' copies, and whether they stay for the gradient. */
const copies = [
  { name: 'kept', keep: 'always', gradientNext: false },
  { name: 'for a product', keep: 'never', gradientNext: false },
  { name: 'held', keep: 'never', gradientNext: true },
] as const;
const nf4: BaseDtype = { dtype: 'nf4', doubleQuant: true }, int8: BaseDtype = { dtype: 'int8' };
const SCALE = 0.15;

/** Values in bf16, as a model's stream is. */
function inBf16(x: Tensor): Tensor2D {
  const width = x.shape[1]!;
  return quantizedLinear(x, freezeWeight(Float32Array.from({ length: width * width }, (_, i) => (i % (width + 1) === 0 ? 1 : 0)), [width, width], { dtype: 'bf16' })) as Tensor2D;
}

/** Matrices [out, inner] with branches, of which a rank of 0 is none. */
class Layers {
  readonly factors: Tensor2D[];
  private readonly weights: FrozenWeight[];
  constructor(random: Random, private readonly shapes: readonly (readonly [number, number])[], private readonly ranks: readonly number[], dtype: BaseDtype, private readonly rate: number) {
    this.weights = shapes.map(([out, inner]) => freezeWeight(random.values(out * inner, SCALE), [out, inner], dtype));
    this.factors = shapes.flatMap(([out, inner], i) => (ranks[i] > 0 ? [random.tensor<Tensor2D>([ranks[i], inner], 0.2), random.tensor<Tensor2D>([out, ranks[i]], 0.2)] : []));
  }

  /** @param factors those of the layers, as an op got them */
  members(factors: readonly Tensor[], gradientNext: boolean): LinearMember[] {
    const own = [...factors] as Tensor2D[];
    return this.shapes.map((_, i) => ({
      weight: this.weights[i], gradientNext,
      lora: this.ranks[i] > 0 ? { a: own.shift()!, b: own.shift()!, scale: 1 + i, dropout: { rate: this.rate, key: { seed: 11, step: 2, stream: i } } } : undefined,
    }));
  }
}

interface Group {
  rows: number;
  inner: number;
  outs: number[];
  ranks: number[];
  dtype: BaseDtype;
  rate: number;
}
/** Alike, alike in part, all unlike; widths that no branch's kernel takes; one row. */
const groups: Group[] = [
  { rows: 131, inner: 136, outs: [96, 96], ranks: [8, 8], dtype: nf4, rate: 0.1 },
  { rows: 131, inner: 64, outs: [72, 72, 72], ranks: [8, 8, 8], dtype: int8, rate: 0 },
  { rows: 257, inner: 200, outs: [128, 40, 40], ranks: [16, 16, 16], dtype: nf4, rate: 0.1 },
  { rows: 130, inner: 128, outs: [40, 40, 64], ranks: [8, 0, 8], dtype: int8, rate: 0.1 },
  { rows: 130, inner: 128, outs: [40, 40, 40], ranks: [5, 8, 5], dtype: nf4, rate: 0.1 },
  { rows: 77, inner: 70, outs: [30, 30], ranks: [3, 3], dtype: nf4, rate: 0.1 },
  { rows: 1, inner: 128, outs: [64, 64], ranks: [8, 8], dtype: nf4, rate: 0.1 },
];

interface FeedForward {
  rows: number;
  hidden: number;
  inner: number;
  ranks: [number, number, number];
  dtype: BaseDtype;
  rate: number;
}
const feedForwards: FeedForward[] = [
  { rows: 301, hidden: 64, inner: 328, ranks: [8, 8, 8], dtype: nf4, rate: 0.05 },
  { rows: 130, hidden: 136, inner: 96, ranks: [8, 8, 16], dtype: int8, rate: 0 },
  { rows: 259, hidden: 128, inner: 264, ranks: [8, 16, 64], dtype: nf4, rate: 0.3 },
  { rows: 130, hidden: 64, inner: 96, ranks: [3, 3, 8], dtype: nf4, rate: 0.1 }, // branches of no room
  { rows: 130, hidden: 64, inner: 96, ranks: [0, 0, 8], dtype: nf4, rate: 0.1 },
  { rows: 130, hidden: 64, inner: 96, ranks: [8, 8, 0], dtype: nf4, rate: 0.1 }, // gradients of SwiGLU's own
  { rows: 1, hidden: 64, inner: 96, ranks: [8, 8, 8], dtype: int8, rate: 0.1 },
];

interface Attention {
  shape: [batch: number, length: number, heads: number, kvHeads: number, size: number];
  hidden: number;
  ranks: [number, number, number];
  dtype: BaseDtype;
  rate: number;
  /** Rotated within the op. */
  rotated: boolean;
  /** What gives q and k once more, between layers and attention. */
  between?: boolean;
}
const attentions: Attention[] = [
  { shape: [2, 130, 4, 4, 64], hidden: 128, ranks: [8, 8, 8], dtype: nf4, rate: 0.05, rotated: true },
  { shape: [1, 421, 2, 2, 100], hidden: 200, ranks: [8, 8, 8], dtype: nf4, rate: 0, rotated: true },
  { shape: [2, 201, 4, 2, 100], hidden: 64, ranks: [16, 16, 16], dtype: int8, rate: 0.1, rotated: true },
  { shape: [1, 390, 4, 1, 128], hidden: 64, ranks: [8, 0, 8], dtype: nf4, rate: 0.1, rotated: false },
  { shape: [2, 129, 2, 2, 96], hidden: 64, ranks: [3, 8, 3], dtype: nf4, rate: 0.1, rotated: false },
  { shape: [1, 150, 3, 3, 66], hidden: 64, ranks: [8, 8, 8], dtype: nf4, rate: 0.1, rotated: true }, // widths of no multiple of 8
  { shape: [1, 150, 4, 4, 66], hidden: 64, ranks: [8, 8, 8], dtype: nf4, rate: 0.1, rotated: true }, // rows that no copy engine takes
  { shape: [1, 1, 2, 2, 64], hidden: 64, ranks: [8, 8, 8], dtype: nf4, rate: 0.1, rotated: true },
  { shape: [2, 129, 2, 2, 64], hidden: 64, ranks: [8, 8, 8], dtype: nf4, rate: 0.1, rotated: true, between: true },
];

export const joinedCases: GpuCase[] = copies.flatMap(({ name, keep, gradientNext }): GpuCase[] => [
  ...groups.flatMap(({ rows, inner, outs, ranks, dtype, rate }) => (['given', 'normed'] as const).map((input): GpuCase => ({
    name: `${input} rows [${rows},${inner}] into layers of ${outs}, ${dtype.dtype}, ranks ${ranks}, dropout ${rate}, copies ${name}`,
    run: (random) => {
      const layers = new Layers(random, outs.map((out) => [out, inner]), ranks, dtype, rate), norm = random.tensor<Tensor1D>([inner]);
      return withCopies(keep, () => withGradients(random, [random.tensor([rows, inner]), ...layers.factors], (x, ...factors) =>
        concat(quantizedLinears(input === 'given' ? inBf16(x) : { x: inBf16(x), norm, eps: 1e-5 }, layers.members(factors, gradientNext)), 1)));
    },
  }))),
  ...feedForwards.flatMap(({ rows, hidden, inner, ranks, dtype, rate }) => [false, true].map((between): GpuCase => ({
    name: `a feed-forward half of ${rows} rows, ${hidden} to ${inner}, ${dtype.dtype}, ranks ${ranks}, dropout ${rate}, copies ${name}${between ? ', something after gate' : ''}`,
    tolerance: 2e-2,
    run: (random) => {
      const first = new Layers(random, [[inner, hidden], [inner, hidden]], ranks.slice(0, 2), dtype, rate), last = new Layers(random, [[hidden, inner]], ranks.slice(2), dtype, rate);
      const norm = random.tensor<Tensor1D>([hidden]);
      return withCopies(keep, () => withGradients(random, [random.tensor([rows, hidden]), ...first.factors, ...last.factors], (x, ...factors) => {
        const [residual, gate, up] = quantizedLinears({ x: inBf16(x), norm, eps: 1e-5 }, first.members(factors, gradientNext));
        const [down] = last.members(factors.slice(first.factors.length), gradientNext);
        return quantizedLinears({ gate: between ? mul(gate, 2) : gate, up }, [{ ...down, residual }])[0];
      }));
    },
  }))),
  ...attentions.map(({ shape: [batch, length, heads, kvHeads, size], hidden, ranks, dtype, rate, rotated, between }): GpuCase => ({
    name: `layers into attention B${batch} T${length} H${heads}/${kvHeads} D${size}${rotated ? ', rotated' : ''}, ${dtype.dtype}, ranks ${ranks}, dropout ${rate}, copies ${name}${between ? ', something after q and k' : ''}`,
    tolerance: 3e-2,
    run: (random) => {
      const rows = batch * length, counts = [heads, kvHeads, kvHeads];
      const layers = new Layers(random, counts.map((count) => [count * size, hidden]), ranks, dtype, rate), norm = random.tensor<Tensor1D>([hidden]);
      // Two rows and some padding a line; what padding gives is nobody's.
      const segments = tensor2d(Int32Array.from({ length: rows }, (_, i) => (i % length < length / 3 ? 1 : i % length < length - 3 || length < 4 ? 2 : 0)), [batch, length], 'int32');
      const counted = reshape(cast(notEqual(segments, 0), 'float32'), [batch, length, 1, 1]), angles = random.values((rows * size) / 2, Math.PI);
      const [cos, sin] = [Math.cos, Math.sin].map((of) => tensor3d(angles.map(of), [batch, length, size / 2]));
      return withCopies(keep, () => withGradients(random, [random.tensor([rows, hidden]), ...layers.factors], (x, ...factors) => {
        const [stream, ...ys] = quantizedLinears({ x: inBf16(x), norm, eps: 1e-5 }, layers.members(factors, gradientNext));
        const [q, k, v] = ys.map((y, i) => reshape(y, [batch, length, counts[i], size]) as Tensor4D).map((y, i) => (between && i < 2 ? (mul(y, 0.5) as Tensor4D) : y));
        const attended = mul(causalAttention(q, k, v, segments, { fromLinears: true, rope: rotated ? { cos, sin } : undefined }), counted);
        return concat([add(stream, 0), reshape(attended, [rows, heads * size])], 1);
      }));
    },
  })),
]);
