import { concat, grads, reshape, tensor1d, type Rank, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { dequantize, freezeWeight, type BaseDtype, type FrozenWeight } from '../../../engine/tensor/frozen-weight.js';
import { linearCrossEntropy } from '../../../engine/tensor/linear-cross-entropy.js';
import { quantizedLinear, quantizedLinears } from '../../../engine/tensor/quantized-linear.js';
import { takeGradients } from '../../../engine/tensor/take-gradients.js';
import { rmsNorm, rmsNormBeside } from '../../../engine/tensor/rms-norm.js';
import { withGradients, type GpuCase, type Random } from './compare.js';
import { withCopies } from './copies.js';

const bases: [string, BaseDtype][] = [
  ['nf4 double', { dtype: 'nf4', doubleQuant: true }],
  ['nf4', { dtype: 'nf4', doubleQuant: false }],
  ['int8', { dtype: 'int8' }],
  ['bf16', { dtype: 'bf16' }],
  ['f32', { dtype: 'f32' }],
];

const frozen = (random: Random, shape: [number, number], base: BaseDtype): FrozenWeight => freezeWeight(random.values(shape[0] * shape[1], 0.5), shape, base);

interface LinearShape {
  rows: number;
  inner: number;
  out: number;
  rank: number;
  rate: number;
}
const shapes: LinearShape[] = [
  { rows: 5, inner: 64, out: 48, rank: 8, rate: 0.3 },
  { rows: 1, inner: 72, out: 40, rank: 4, rate: 0 },
  { rows: 130, inner: 200, out: 96, rank: 16, rate: 0.05 },
  { rows: 33, inner: 70, out: 30, rank: 3, rate: 0.1 },
  { rows: 300, inner: 576, out: 192, rank: 8, rate: 0.05 },
  { rows: 20, inner: 128, out: 64, rank: 8, rate: 0.98 },
];

/** Layers of one input: outputs of unlike widths, ranks of which some are 0 (no branch), odd sizes, many rows and one. */
const groups = [
  { rows: 40, inner: 64, outs: [64, 32, 32], ranks: [8, 8, 8], rate: 0.1 },
  { rows: 70, inner: 200, outs: [136, 72, 40], ranks: [1, 0, 16], rate: 0.3 },
  { rows: 1, inner: 256, outs: [96, 96], ranks: [64, 4], rate: 0.05 },
  { rows: 513, inner: 328, outs: [264, 264], ranks: [8, 8], rate: 0 },
  { rows: 257, inner: 160, outs: [48, 56, 64], ranks: [64, 64, 64], rate: 0.2 },
  { rows: 33, inner: 70, outs: [30, 24], ranks: [3, 8], rate: 0.1 },
  { rows: 90, inner: 128, outs: [64, 64], ranks: [5, 5], rate: 0.5 },
  { rows: 3100, inner: 96, outs: [40, 40, 24], ranks: [8, 8, 8], rate: 0.05 },
  { rows: 3100, inner: 192, outs: [40, 40, 24], ranks: [8, 8, 8], rate: 0.1 },
  { rows: 6400, inner: 320, outs: [32], ranks: [8], rate: 0.05 },
  { rows: 6401, inner: 128, outs: [32, 40], ranks: [8, 8], rate: 0.5 },
  // More steps to a warp than are on their way at once.
  { rows: 40, inner: 3264, outs: [24], ranks: [8], rate: 0.05 },
  { rows: 3080, inner: 1600, outs: [16, 8, 8], ranks: [8, 8, 8], rate: 0.05 },
  // Backward blocks of one to four times 128 columns, of dys and of x, whole and not, for outputs of unlike widths, and rows that end within a stage.
  { rows: 1, inner: 640, outs: [520, 8], ranks: [8, 8], rate: 0.05 },
  { rows: 63, inner: 1288, outs: [384, 136, 648], ranks: [8, 8, 8], rate: 0.05 },
  { rows: 64, inner: 264, outs: [264], ranks: [24], rate: 0.1 },
  { rows: 65, inner: 5320, outs: [256, 72], ranks: [8, 8], rate: 0.05 },
  { rows: 65, inner: 136, outs: [392, 40], ranks: [16, 16], rate: 0 },
  { rows: 65, inner: 264, outs: [136], ranks: [64], rate: 0.1 },
  { rows: 1025, inner: 904, outs: [1032], ranks: [8], rate: 0.05 },
  { rows: 2049, inner: 40, outs: [1928], ranks: [8], rate: 0 },
  { rows: 4099, inner: 520, outs: [136, 24], ranks: [3, 3], rate: 0.1 },
  { rows: 4099, inner: 32, outs: [1160, 520, 8], ranks: [8, 8, 8], rate: 0.05 },
];

/**
 * Layers that read a gated activation: those for which one launch makes x and the hidden states (one rank, widths of multiples of 8, also of
 * some that are none of 16 or 128), with and without room for them, and those that take the long way.
 */
const gatedGroups = [
  { rows: 5, inner: 64, outs: [48], ranks: [8], rate: 0.3 },
  { rows: 1, inner: 72, outs: [40], ranks: [4], rate: 0 },
  { rows: 33, inner: 200, outs: [96], ranks: [16], rate: 0.05 },
  { rows: 130, inner: 1080, outs: [64], ranks: [8], rate: 0.05 },
  { rows: 17, inner: 8, outs: [8], ranks: [8], rate: 0.2 },
  { rows: 301, inner: 456, outs: [72], ranks: [64], rate: 0.1 },
  { rows: 257, inner: 136, outs: [40], ranks: [4], rate: 0.5 },
  { rows: 3101, inner: 264, outs: [40], ranks: [8], rate: 0.05 },
  { rows: 3100, inner: 96, outs: [24], ranks: [8], rate: 0 },
  { rows: 4097, inner: 88, outs: [24], ranks: [16], rate: 0.1 },
  { rows: 40, inner: 2560, outs: [24], ranks: [8], rate: 0.05 },
  { rows: 23, inner: 3272, outs: [24], ranks: [8], rate: 0.05 },
  { rows: 70, inner: 64, outs: [64, 32], ranks: [8, 8], rate: 0.1 },
  { rows: 70, inner: 64, outs: [64, 32], ranks: [8, 16], rate: 0.1 }, // two launches
  { rows: 70, inner: 64, outs: [64, 32], ranks: [0, 8], rate: 0.1 },
  { rows: 40, inner: 96, outs: [64], ranks: [0], rate: 0 },
  { rows: 33, inner: 70, outs: [30], ranks: [3], rate: 0.1 },
  { rows: 20, inner: 128, outs: [64], ranks: [72], rate: 0.1 },
];

/**
 * Layers that read a stream's norm: those for which one launch gives the stream's gradient, in blocks of 16 rows, of one step
 * and of several, of widths that are none of 32 and rows that are none of 16; and those that take the long way.
 */
const normedGroups = [
  { rows: 5, inner: 64, outs: [48], ranks: [8], rate: 0.3 },
  { rows: 1, inner: 72, outs: [40, 24], ranks: [4, 4], rate: 0 },
  { rows: 33, inner: 200, outs: [96, 40, 40], ranks: [16, 16, 16], rate: 0.05 },
  { rows: 130, inner: 1080, outs: [64, 64], ranks: [8, 8], rate: 0.05 },
  { rows: 17, inner: 8, outs: [8], ranks: [8], rate: 0.2 },
  { rows: 301, inner: 456, outs: [72], ranks: [64], rate: 0.1 },
  { rows: 49, inner: 136, outs: [40, 40], ranks: [32, 32], rate: 0 },
  { rows: 257, inner: 136, outs: [40, 40], ranks: [5, 5], rate: 0.5 },
  { rows: 20, inner: 3200, outs: [40, 24, 24], ranks: [8, 8, 8], rate: 0.05 },
  { rows: 3101, inner: 264, outs: [40, 24, 24], ranks: [8, 8, 8], rate: 0.05 },
  { rows: 3100, inner: 584, outs: [24, 16], ranks: [8, 8], rate: 0 },
  { rows: 3080, inner: 3200, outs: [16, 8], ranks: [8, 8], rate: 0.05 },
  { rows: 4097, inner: 72, outs: [24, 24], ranks: [16, 16], rate: 0.1 },
  { rows: 3073, inner: 96, outs: [24], ranks: [64], rate: 0.2 },
  { rows: 70, inner: 64, outs: [64, 32], ranks: [0, 8], rate: 0.1 },
  { rows: 70, inner: 64, outs: [64, 32], ranks: [8, 16], rate: 0.1 }, // two launches
  { rows: 40, inner: 96, outs: [64], ranks: [0], rate: 0 },
  { rows: 33, inner: 70, outs: [30, 24], ranks: [3, 8], rate: 0.1 },
  { rows: 20, inner: 128, outs: [64], ranks: [72], rate: 0.1 },
  { rows: 3, inner: 8192, outs: [8], ranks: [8], rate: 0.1 }, // rows that are more than a block's shared memory
];

export const linearCases: GpuCase[] = [
  ...bases.map(([name, base]): GpuCase => ({
    name: `dequantize ${name}`,
    tolerance: 4e-3,
    run: (random) => [dequantize(frozen(random, [37, 64], base)), dequantize(frozen(random, [5, 13], base)), dequantize(frozen(random, [300, 128], base))],
  })),
  ...bases.map(([name, base]): GpuCase => ({
    name: `quantizedLinear ${name}`,
    run: (random) => {
      const weight = frozen(random, [48, 64], base);
      return withGradients(random, [random.tensor([2, 3, 64])], (x) => quantizedLinear(x, weight));
    },
  })),
  ...shapes.map(({ rows, inner, out, rank, rate }): GpuCase => ({
    name: `quantizedLinear [${rows},${inner}]·[${out},${inner}]ᵀ with LoRA of rank ${rank}, dropout ${rate}`,
    run: (random) => {
      const weight = frozen(random, [out, inner], bases[0][1]);
      const inputs = [random.tensor([rows, inner]), random.tensor([rank, inner], 0.2), random.tensor([out, rank], 0.5)];
      return withGradients(random, inputs, (x, a, b) =>
        quantizedLinear(x, weight, { lora: { a: a as Tensor2D, b: b as Tensor2D, scale: 2, dropout: { rate, key: { seed: 11, step: 2, stream: 9 } } } }));
    },
  })),
  ...groups.map(({ rows, inner, outs, ranks, rate }): GpuCase => ({
    name: `quantizedLinears of ${rows} rows, [${outs}]x${inner}, ranks ${ranks}, dropout ${rate}, biases and residuals`,
    run: (random) => {
      const weights = outs.map((out) => frozen(random, [out, inner], bases[0][1]));
      const biases = outs.map((out) => random.tensor<Tensor1D>([out]));
      const residual = random.tensor([rows, outs[0]]);
      const factors = outs.flatMap((out, i) => (ranks[i] > 0 ? [random.tensor([ranks[i], inner], 0.2), random.tensor([out, ranks[i]], 0.5)] : []));
      return withGradients(random, [random.tensor([rows, inner]), residual, ...biases, ...factors], (x, residual, ...rest) => {
        const own = rest.slice(outs.length);
        const ys = quantizedLinears(x, weights.map((weight, i) => {
          const lora = ranks[i] > 0 ? { a: own.shift() as Tensor2D, b: own.shift() as Tensor2D, scale: 1 + i, dropout: { rate, key: { seed: 11, step: 2, stream: i } } } : undefined;
          return { weight, lora, bias: rest[i] as Tensor1D, residual: i === 0 ? residual : undefined };
        }));
        return concat(ys, 1);
      });
    },
  })),
  ...[[70, 64, [64, 32, 32], [8, 16, 8], 0.1], [300, 160, [96, 96], [8, 0], 0], [1, 96, [40, 40], [64, 0], 0.2], [37, 48, [24, 24], [64, 8], 0.1]].map((values): GpuCase => {
    const [rows, inner, outs, ranks, rate] = values as [number, number, number[], number[], number];
    return {
      name: `rmsNormBeside into quantizedLinears of ${rows} rows, [${outs}]x${inner}, ranks ${ranks}, dropout ${rate}`,
      run: (random) => {
        const weights = outs.map((out, i) => frozen(random, [out, inner], bases[i % 3][1]));
        const norm = random.tensor<Tensor1D>([inner]), x = random.tensor<Tensor2D>([rows, inner]), residual = random.tensor([rows, outs[1]]);
        const factors = outs.flatMap((out, i) => (ranks[i] > 0 ? [random.tensor([ranks[i], inner], 0.2), random.tensor([out, ranks[i]], 0.5)] : []));
        // Activations in bf16, as a model's are, come from an op that gives them.
        const identity = freezeWeight(Float32Array.from({ length: inner * inner }, (_, i) => (i % (inner + 1) === 0 ? 1 : 0)), [inner, inner], { dtype: 'bf16' });
        return withGradients(random, [x, residual, ...factors], (x, residual, ...own) => {
          const [skip, normed] = rmsNormBeside(quantizedLinear(x, identity) as Tensor2D, norm, 1e-5);
          const ys = quantizedLinears(normed, weights.map((weight, i) => {
            const lora = ranks[i] > 0 ? { a: own.shift() as Tensor2D, b: own.shift() as Tensor2D, scale: 1 + i, dropout: { rate, key: { seed: 11, step: 2, stream: i } } } : undefined;
            return { weight, lora, residual: i === 1 ? residual : undefined };
          }));
          return concat([skip, ...ys], 1);
        });
      },
    };
  }),
  // Copies that last for a product, or from it to its gradient: the branch's B is written with the values. More than one block of values.
  ...[false, true].flatMap((gradientNext) => [[0, [72, 40], [8, 8]], [1, [264, 136], [16, 8]], [2, [48, 96], [8, 0]]].map((values): GpuCase => {
    const [kind, outs, ranks] = values as [number, number[], number[]], [base, dtype] = bases[kind], rows = 70, inner = 136;
    return {
      name: `quantizedLinears of ${base} matrices [${outs}]x${inner} whose copies do not stay, ranks ${ranks}${gradientNext ? ', the gradient next' : ''}`,
      run: (random) => {
        const weights = outs.map((out) => frozen(random, [out, inner], dtype)), norm = random.tensor<Tensor1D>([inner]);
        const factors = outs.flatMap((out, i) => (ranks[i] > 0 ? [random.tensor([ranks[i], inner], 0.2), random.tensor([out, ranks[i]], 0.5)] : []));
        const identity = freezeWeight(Float32Array.from({ length: inner * inner }, (_, i) => (i % (inner + 1) === 0 ? 1 : 0)), [inner, inner], { dtype: 'bf16' });
        return withCopies('never', () => withGradients(random, [random.tensor([rows, inner]), ...factors], (x, ...own) => {
          const normed = rmsNorm(quantizedLinear(x, identity), norm, 1e-5, { forLinears: true });
          return concat(quantizedLinears(normed, weights.map((weight, i) => {
            const lora = ranks[i] > 0 ? { a: own.shift() as Tensor2D, b: own.shift() as Tensor2D, scale: 1 + i, dropout: { rate: 0.1, key: { seed: 11, step: 2, stream: i } } } : undefined;
            return { weight, lora, gradientNext };
          })), 1);
        }));
      },
    };
  })),
  ...gatedGroups.flatMap(({ rows, inner, outs, ranks, rate }) => [false, true].map((unread): GpuCase => ({
    name: `quantizedLinears of a gated activation of ${rows} rows, [${outs}]x${inner}, ranks ${ranks}, dropout ${rate}, ${unread ? 'unread' : 'biases and residuals'}`,
    run: (random) => {
      const weights = outs.map((out, i) => frozen(random, [out, inner], bases[i % 3][1]));
      const halves = [random.tensor([rows, inner], 4), random.tensor([rows, inner])], residual = random.tensor([rows, outs[0]]), biases = outs.map((out) => random.tensor<Tensor1D>([out]));
      const factors = outs.flatMap((out, i) => (ranks[i] > 0 ? [random.tensor([ranks[i], inner], 0.2), random.tensor([out, ranks[i]], 0.5)] : []));
      const op = (gate: Tensor, up: Tensor, residual: Tensor, ...rest: Tensor[]): Tensor => {
        const own = rest.slice(outs.length);
        return concat(quantizedLinears({ gate, up }, weights.map((weight, i) => {
          const lora = ranks[i] > 0 ? { a: own.shift() as Tensor2D, b: own.shift() as Tensor2D, scale: 1 + i, dropout: { rate, key: { seed: 11, step: 2, stream: i } } } : undefined;
          return { weight, lora, bias: rest[i] as Tensor1D, residual: i === 0 ? residual : undefined, unread };
        })), 1);
      };
      const inputs = [...halves, residual, ...biases, ...factors];
      if (!unread) return withGradients(random, inputs, op);
      // As a half is run again: nobody has the result, and what was saved goes as soon as it was used.
      const { value, gradients } = takeGradients(() => op(...(inputs as [Tensor, Tensor, Tensor])), inputs, random.tensor([rows, outs.reduce((a, b) => a + b)]));
      value.dispose();
      return gradients;
    },
  }))),
  ...normedGroups.flatMap(({ rows, inner, outs, ranks, rate }, number) => (rows < 3000 ? [true, false] : [true]).map((goesOn): GpuCase => ({
    name: `quantizedLinears of a normed stream of ${rows} rows, [${outs}]x${inner}, ranks ${ranks}, dropout ${rate}, ${goesOn ? 'which goes on' : 'for them alone'}`,
    run: (random) => {
      const weights = outs.map((out, i) => frozen(random, [out, inner], bases[i % 3][1])), beside = frozen(random, [8, inner], bases[3][1]);
      // In bf16, as a model's stream is; the norm in both formats.
      const x = dequantize(frozen(random, [rows, inner], bases[3][1])), scales = reshape<Rank.R1>(dequantize(frozen(random, [1, inner], bases[3][1])), [inner]);
      const norm = number % 2 === 0 ? scales : random.tensor<Tensor1D>([inner]);
      const factors = outs.flatMap((out, i) => (ranks[i] > 0 ? [random.tensor([ranks[i], inner], 0.2), random.tensor([out, ranks[i]], 0.5)] : []));
      return withGradients(random, [x, ...factors], (x, ...own) => {
        const [stream, ...ys] = quantizedLinears({ x: x as Tensor2D, norm, eps: 1e-5 }, weights.map((weight, i) => {
          const lora = ranks[i] > 0 ? { a: own.shift() as Tensor2D, b: own.shift() as Tensor2D, scale: 1 + i, dropout: { rate, key: { seed: 11, step: 2, stream: i } } } : undefined;
          return { weight, lora };
        }));
        return concat(goesOn ? [quantizedLinear(stream, beside), ...ys] : ys, 1);
      });
    },
  }))),
  {
    name: 'quantizedLinears of a normed stream of zero rows',
    run: (random) => {
      const [into, weight] = [[64, 16], [48, 64]].map((shape) => frozen(random, shape as [number, number], bases[0][1])), norm = random.tensor<Tensor1D>([64]);
      const lora = { a: random.tensor<Tensor2D>([8, 64]), b: random.tensor<Tensor2D>([48, 8]), scale: 1 };
      return withGradients(random, [random.tensor([0, 16])], (x) => {
        const [stream, y] = quantizedLinears({ x: quantizedLinear(x, into) as Tensor2D, norm, eps: 1e-5 }, [{ weight, lora }]);
        return concat([quantizedLinear(stream, weight), y], 1);
      });
    },
  },
  {
    name: 'quantizedLinears of a gated activation that other layers made, between a norm and the residual stream',
    run: (random) => {
      const [hidden, inner, rows] = [64, 328, 75];
      const weights = [[inner, hidden], [inner, hidden], [hidden, inner]].map((shape, i) => frozen(random, shape as [number, number], bases[i][1]));
      const norm = random.tensor<Tensor1D>([hidden]), identity = freezeWeight(Float32Array.from({ length: hidden * hidden }, (_, i) => (i % (hidden + 1) === 0 ? 1 : 0)), [hidden, hidden], { dtype: 'bf16' });
      const factors = weights.flatMap(({ shape: [out, inner] }) => [random.tensor([8, inner], 0.2), random.tensor([out, 8], 0.2)]);
      return withGradients(random, [random.tensor([rows, hidden]), ...factors], (x, ...own) => {
        const lora = (i: number) => ({ a: own[2 * i] as Tensor2D, b: own[2 * i + 1] as Tensor2D, scale: 1, dropout: { rate: 0.05, key: { seed: 11, step: 2, stream: i } } });
        const [residual, normed] = rmsNormBeside(quantizedLinear(x, identity) as Tensor2D, norm, 1e-5);
        const [gate, up] = quantizedLinears(normed, [0, 1].map((i) => ({ weight: weights[i], lora: lora(i) })));
        return quantizedLinears({ gate, up }, [{ weight: weights[2], lora: lora(2), residual }])[0];
      });
    },
  },
  {
    name: 'quantizedLinears of a gated activation of zero rows',
    run: (random) => {
      const weight = frozen(random, [48, 64], bases[0][1]), lora = { a: random.tensor<Tensor2D>([8, 64]), b: random.tensor<Tensor2D>([48, 8]), scale: 1 };
      return withGradients(random, [random.tensor([0, 64]), random.tensor([0, 64])], (gate, up) => quantizedLinears({ gate, up }, [{ weight, lora }])[0]);
    },
  },
  {
    name: 'quantizedLinear with a bias',
    run: (random) => {
      const weight = frozen(random, [48, 64], bases[0][1]);
      return withGradients(random, [random.tensor([5, 64]), random.tensor([48])], (x, bias) => quantizedLinear(x, weight, { bias: bias as Tensor1D }));
    },
  },
  {
    name: 'quantizedLinear with a residual and no branch',
    run: (random) => {
      const weight = frozen(random, [48, 64], bases[0][1]);
      return withGradients(random, [random.tensor([5, 64]), random.tensor([5, 48])], (x, residual) => quantizedLinear(x, weight, { residual }));
    },
  },
  {
    name: 'quantizedLinear of zero rows',
    run: (random) => [quantizedLinear(random.tensor([0, 64]), frozen(random, [48, 64], bases[0][1]))],
  },
  ...[
    { rows: 7, vocabulary: 50, lora: false, chunk: 100 },
    { rows: 300, vocabulary: 101, lora: true, chunk: 130 },
    { rows: 20, vocabulary: 256, lora: true, chunk: 3 },
    { rows: 1, vocabulary: 64, lora: true, chunk: 1 },
  ].map(({ rows, vocabulary, lora, chunk }): GpuCase => ({
    name: `linearCrossEntropy of ${rows} rows, ${vocabulary} tokens, ${lora ? 'with LoRA' : 'no LoRA'}, chunks of ${chunk}`,
    tolerance: 1.5e-2,
    run: (random) => {
      const head = frozen(random, [vocabulary, 40], { dtype: 'f32' });
      const labels = random.integers<Tensor1D>([rows], vocabulary);
      const inputs: Tensor[] = [random.tensor([rows, 40]), random.tensor([8, 40], 0.3), random.tensor([vocabulary, 8], 0.5)].slice(0, lora ? 3 : 1);
      const loss = (hidden: Tensor, a?: Tensor, b?: Tensor): Tensor =>
        linearCrossEntropy(hidden as Tensor2D, head, labels, {
          chunk,
          lora: a && b && { a: a as Tensor2D, b: b as Tensor2D, scale: 0.5, dropout: { rate: 0.2, key: { seed: 3, step: 1, stream: 4 } } },
        });
      return [loss(...(inputs as [Tensor])), ...grads((...xs: Tensor[]) => loss(...(xs as [Tensor])))(inputs)];
    },
  })),
  ...[bases[0], bases[4]].map(([name, base]): GpuCase => ({
    name: `linearCrossEntropy of a norm, chunk by chunk, with a head in ${name}`,
    tolerance: 1.5e-2,
    run: (random) => {
      const head = frozen(random, [104, 48], base), norm = random.tensor<Tensor1D>([48]);
      const identity = freezeWeight(Float32Array.from({ length: 48 * 48 }, (_, i) => (i % 49 === 0 ? 1 : 0)), [48, 48], { dtype: 'bf16' });
      const labels = random.integers<Tensor1D>([300], 104);
      const inputs = [random.tensor([300, 48]), random.tensor([8, 48], 0.3), random.tensor([104, 8], 0.5)];
      const loss = (x: Tensor, a: Tensor, b: Tensor): Tensor =>
        linearCrossEntropy(rmsNorm(quantizedLinear(x, identity), norm, 1e-5, { forLinears: true }) as Tensor2D, head, labels, {
          chunk: 128, lora: { a: a as Tensor2D, b: b as Tensor2D, scale: 0.5, dropout: { rate: 0.2, key: { seed: 3, step: 1, stream: 4 } } },
        });
      return [loss(...(inputs as [Tensor, Tensor, Tensor])), ...grads((...xs: Tensor[]) => loss(...(xs as [Tensor, Tensor, Tensor])))(inputs)];
    },
  })),
  {
    name: 'linearCrossEntropy of rows of which some do not count',
    tolerance: 1.5e-2,
    run: (random) => {
      const head = frozen(random, [50, 40], { dtype: 'f32' });
      const labels = tensor1d([-100, 3, -1, 49, 0, 7, -100], 'int32');
      const inputs = [random.tensor([7, 40]), random.tensor([8, 40], 0.3), random.tensor([50, 8], 0.5)];
      const loss = (hidden: Tensor, a: Tensor, b: Tensor): Tensor =>
        linearCrossEntropy(hidden as Tensor2D, head, labels, { chunk: 3, lora: { a: a as Tensor2D, b: b as Tensor2D, scale: 0.5 } });
      return [loss(...(inputs as [Tensor, Tensor, Tensor])), ...grads((...xs: Tensor[]) => loss(...(xs as [Tensor, Tensor, Tensor])))(inputs)];
    },
  },
  {
    name: 'linearCrossEntropy without gradients',
    tolerance: 5e-3,
    run: (random) => [linearCrossEntropy(random.tensor<Tensor2D>([9, 40]), frozen(random, [60, 40], { dtype: 'int8' }), tensor1d([0, 1, 2, 59, 4, 5, 6, 7, 8], 'int32'))],
  },
];
