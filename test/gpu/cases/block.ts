import { cast, clone, concat, dispose, keep, mul, notEqual, reshape, tensor2d, tensor3d, type Tensor, type Tensor1D, type Tensor2D, type Tensor3D, type Tensor4D } from '@tensorflow/tfjs-core';
import { causalAttention, type AttentionResult } from '../../../engine/tensor/causal-attention.js';
import { dropoutMask } from '../../../engine/tensor/dropout-mask.js';
import { embedding } from '../../../engine/tensor/embedding.js';
import { freezeWeight, type BaseDtype } from '../../../engine/tensor/frozen-weight.js';
import { quantizedLinear } from '../../../engine/tensor/quantized-linear.js';
import { rmsNorm, rmsNormBeside } from '../../../engine/tensor/rms-norm.js';
import { rotaryEmbedding } from '../../../engine/tensor/rotary-embedding.js';
import { swiGlu } from '../../../engine/tensor/swi-glu.js';
import { withGradients, type GpuCase, type Random } from './compare.js';

const attentionShapes = [
  // [B, T, H, Hkv, D, window]
  [2, 70, 4, 2, 64], [1, 130, 2, 1, 80], [1, 65, 4, 4, 96], [2, 129, 4, 4, 100], [1, 200, 4, 2, 128], [2, 1, 2, 2, 64], [1, 64, 6, 2, 64],
  [2, 7, 4, 4, 100], [1, 63, 2, 2, 100], [1, 257, 2, 1, 100], [2, 421, 2, 2, 100], [1, 390, 4, 2, 128], [1, 150, 2, 2, 100, 20], [1, 300, 4, 2, 64, 130], [1, 90, 4, 2, 64, 1],
  [1, 70, 3, 3, 66], // rows that no copy engine takes
];

/** [B, T, H, Hkv, D, window], queries and keys rotated within the op. */
const rotatedShapes = [
  [2, 70, 4, 2, 64], [1, 130, 2, 1, 80], [1, 65, 4, 4, 96], [2, 129, 4, 4, 100], [1, 200, 4, 2, 128], [2, 1, 2, 2, 64], [1, 1, 2, 2, 100], [3, 7, 4, 4, 100],
  [2, 421, 2, 2, 100], [1, 150, 2, 2, 100, 20], [1, 300, 4, 2, 64, 130], [1, 90, 4, 2, 104, 1], [1, 70, 3, 3, 66], [1, 90, 4, 4, 66], [2, 75, 2, 2, 20],
];

/** Contiguous rows of random length, many of length 1, then padding; on a long line some rows are longer than a tile. */
function packedSegments(random: Random, [batch, length]: number[]): Tensor2D {
  const cuts = random.values(batch * length), rare = length > 256 ? 0.99 : 0.9;
  const segments = new Int32Array(batch * length);
  for (let row = 0; row < batch; row++) {
    let segment = 1;
    for (let i = 0; i < length; i++) {
      const cut = cuts[row * length + i];
      if (i > 0 && (cut > rare || (cut > 0 && i < 8))) segment++;
      segments[row * length + i] = i > length - 4 && length > 10 ? 0 : segment;
    }
  }
  return tensor2d(segments, [batch, length], 'int32');
}

export const blockCases: GpuCase[] = [
  ...attentionShapes.map(([batch, length, heads, kvHeads, size, window]): GpuCase => ({
    name: `causalAttention B${batch} T${length} H${heads}/${kvHeads} D${size}, packed${window ? `, a window of ${window}` : ''}`,
    tolerance: 2e-2,
    run: (random) => {
      const segments = packedSegments(random, [batch, length]);
      // What padding gives is nobody's: it is finite, and that is all.
      const rows = reshape(cast(notEqual(segments, 0), 'float32'), [batch, length, 1, 1]);
      const inputs = [random.tensor([batch, length, heads, size], 2), random.tensor([batch, length, kvHeads, size], 2), random.tensor([batch, length, kvHeads, size])];
      return withGradients(random, inputs, (q, k, v) =>
        mul(causalAttention(q as Tensor4D, k as Tensor4D, v as Tensor4D, segments, { window }), rows));
    },
  })),
  ...rotatedShapes.map(([batch, length, heads, kvHeads, size, window]): GpuCase => ({
    name: `causalAttention B${batch} T${length} H${heads}/${kvHeads} D${size}, packed, rotated${window ? `, a window of ${window}` : ''}`,
    tolerance: 2e-2,
    run: (random) => {
      const segments = packedSegments(random, [batch, length]), angles = random.values((batch * length * size) / 2, Math.PI);
      const [cos, sin] = [Math.cos, Math.sin].map((of) => tensor3d(angles.map(of), [batch, length, size / 2])), rope = { cos, sin };
      const rows = reshape(cast(notEqual(segments, 0), 'float32'), [batch, length, 1, 1]);
      const inputs = [random.tensor([batch, length, heads, size], 2), random.tensor([batch, length, kvHeads, size], 2), random.tensor([batch, length, kvHeads, size])];
      return withGradients(random, inputs, (q, k, v) =>
        mul(causalAttention(q as Tensor4D, k as Tensor4D, v as Tensor4D, segments, { window, rope }), rows));
    },
  })),
  // The linear layer finds room at the ends of attention's rows: a branch that uses it, one that does not fit there, and none.
  ...[[2, 70, 4, 2, 64, 8], [1, 130, 4, 4, 100, 16], [1, 65, 3, 3, 72, 8], [2, 7, 2, 2, 100, 64], [2, 33, 4, 4, 96, 3], [1, 40, 2, 2, 66, 8], [1, 1, 2, 1, 128, 8], [1, 90, 2, 2, 80, 0]].map(
    ([batch, length, heads, kvHeads, size, rank]): GpuCase => ({
      name: `causalAttention B${batch} T${length} H${heads}/${kvHeads} D${size} into quantizedLinear, rank ${rank}`,
      tolerance: 2e-2,
      run: (random) => {
        const segments = packedSegments(random, [batch, length]), width = heads * size, out = 96;
        const rows = reshape(cast(notEqual(segments, 0), 'float32'), [batch * length, 1]);
        const weight = freezeWeight(random.values(out * width, 0.5), [out, width], { dtype: 'nf4', doubleQuant: true });
        const inputs = [
          random.tensor([batch, length, heads, size]), random.tensor([batch, length, kvHeads, size]), random.tensor([batch, length, kvHeads, size]), random.tensor([batch * length, out]),
          ...(rank > 0 ? [random.tensor([rank, width], 0.2), random.tensor([out, rank], 0.5)] : []),
        ];
        return withGradients(random, inputs, (q, k, v, residual, a, b) => {
          const attended = reshape(causalAttention(q as Tensor4D, k as Tensor4D, v as Tensor4D, segments), [batch * length, width]);
          const lora = rank > 0 ? { a: a as Tensor2D, b: b as Tensor2D, scale: 2, dropout: { rate: 0.1, key: { seed: 11, step: 2, stream: 9 } } } : undefined;
          return mul(quantizedLinear(attended, weight, { lora, residual }), rows);
        });
      },
    }),
  ),
  ...[false, true].map((turned): GpuCase => ({
    name: `causalAttention run again with its result known${turned ? ', rotated' : ''}`,
    tolerance: 2e-2,
    run: (random) => {
      const shape = [2, 129, 4, 100], segments = packedSegments(random, shape), rows = reshape(cast(notEqual(segments, 0), 'float32'), [2, 129, 1, 1]);
      const inputs = [random.tensor(shape, 2), random.tensor(shape, 2), random.tensor(shape)] as Tensor4D[];
      const angles = random.values(2 * 129 * 50, Math.PI), [cos, sin] = [Math.cos, Math.sin].map((of) => tensor3d(angles.map(of), [2, 129, 50]));
      const rope = turned ? { cos, sin } : undefined;
      let known: AttentionResult | undefined;
      causalAttention(inputs[0], inputs[1], inputs[2], segments, { rope, onResult: ({ out, state }) => (known = { out: keep(clone(out)), state: keep(state) }) });
      const results = withGradients(random, inputs, (q, k, v) => mul(causalAttention(q as Tensor4D, k as Tensor4D, v as Tensor4D, segments, { rope, known }), rows));
      dispose([known!.out, known!.state]);
      return results;
    },
  })),
  ...[[3, 64], [5, 33], [2, 3200], [1, 8], [300, 576]].map(([rows, columns]): GpuCase => ({
    name: `rmsNorm [${rows},${columns}]`,
    tolerance: 1e-5,
    run: (random) => {
      const weight = random.tensor<Tensor1D>([columns]);
      return withGradients(random, [random.tensor([rows, columns])], (x) => rmsNorm(x, weight, 1e-5));
    },
  })),
  ...[[3, 64], [5, 33], [300, 576]].map((shape): GpuCase => ({
    name: `rmsNormBeside [${shape}]`,
    tolerance: 1e-5,
    run: (random) => {
      const weight = random.tensor<Tensor1D>([shape[1]]);
      return withGradients(random, [random.tensor(shape)], (x) => concat(rmsNormBeside(x as Tensor2D, weight, 1e-5), 0));
    },
  })),
  {
    name: 'rmsNorm of zero rows',
    run: (random) => [rmsNorm(random.tensor([0, 16]), random.tensor<Tensor1D>([16]))],
  },
  ...[64, 100].map((size): GpuCase => ({
    name: `rotaryEmbedding D${size}`,
    tolerance: 1e-5,
    run: (random) => {
      const [cos, sin] = [random.tensor<Tensor3D>([2, 7, size / 2]), random.tensor<Tensor3D>([2, 7, size / 2])];
      return withGradients(random, [random.tensor([2, 7, 3, size])], (x) => rotaryEmbedding(x as Tensor4D, cos, sin));
    },
  })),
  ...[[3, 64], [5, 33]].map((shape): GpuCase => ({
    name: `swiGlu [${shape}]`,
    tolerance: 1e-5,
    run: (random) => withGradients(random, [random.tensor(shape, 6), random.tensor(shape)], (gate, up) => swiGlu(gate, up)),
  })),
  {
    name: 'dropoutMask, the same values',
    tolerance: 1e-7,
    run: () => [dropoutMask([3, 1001], 0.05, { seed: 2 ** 40 + 7, step: 3, stream: 5 })],
  },
  ...(['f32', 'bf16', 'int8'] as const).map((dtype): GpuCase => ({
    name: `embedding of ${dtype}`,
    run: (random) => [embedding(freezeWeight(random.values(50 * 24), [50, 24], { dtype } as BaseDtype), random.integers<Tensor2D>([2, 9], 50)) as Tensor],
  })),
];
