import type { CudaProgram } from '../../engine/cuda/program.js';
import { decodeAttentionPlan } from '../../engine/cuda/programs/decode-attention.cu.js';
import { decodeLinearPlan, type DecodeKind, type DecodeLinearShape, type DecodeOutput } from '../../engine/cuda/programs/decode-linear.cu.js';
import { decodeLinearWgmmaPlan } from '../../engine/cuda/programs/decode-linear-wgmma.cu.js';
import { decodeEmbeddingProgram, decodeFillProgram, decodeKeepProgram, decodeLowProgram } from '../../engine/cuda/programs/decode-ops.cu.js';
import { decodeArgMaxProgram, decodeSampleProgram } from '../../engine/cuda/programs/decode-pick.cu.js';
import { convertStoredProgram, findNonFiniteProgram, nestAbsmaxProgram, quantizeInt8Program, quantizeNf4Program } from '../../engine/cuda/programs/quantize.cu.js';

const multiprocessors = 132;

/** A linear layer of a decode step, with branches and biases where `rank` says so. */
const shape = (kind: DecodeKind, output: DecodeOutput, outs: number[], inner: number, rows: number, rank: number): DecodeLinearShape =>
  ({ kind, output, outs, inner, rows, multiprocessors, ranks: outs.map(() => rank), biases: outs.map((_, i) => rank === 0 && i === 0) });
const linear = (...of: Parameters<typeof shape>): CudaProgram => decodeLinearPlan(shape(...of)).program;
const hopperLinear = (...of: Parameters<typeof shape>): CudaProgram => decodeLinearWgmmaPlan(shape(...of)).program;

/** The kernels of decoding and of loading. */
export function decodingPrograms(): CudaProgram[] {
  return [
    ...[1, 16, 64].flatMap((rows) => [
      linear('int8', 'store', [3200, 3200, 3200], 3200, rows, 8), linear('int8', 'swiglu', [8640, 8640], 3200, rows, 8), linear('int8', 'add', [3200], 8640, rows, 8),
      linear('nf4', 'swiglu', [8640, 8640], 3200, rows, 8), linear('bf16', 'logits', [32001], 3200, rows, 8),
    ]),
    ...[24, 64].flatMap((rows) => [
      hopperLinear('int8', 'store', [3200, 3200, 3200], 3200, rows, 8), hopperLinear('int8', 'swiglu', [8640, 8640], 3200, rows, 8), hopperLinear('int8', 'add', [3200], 8640, rows, 8),
      hopperLinear('int8', 'add', [3200], 3200, rows, 64), hopperLinear('bf16', 'logits', [32000], 3200, rows, 8), hopperLinear('bf16', 'swiglu', [176, 176], 64, rows, 0),
    ]),
    linear('nf4', 'store', [576, 192, 192], 576, 1, 20), linear('nf4', 'add', [577], 1552, 9, 0), linear('bf16', 'add', [577], 176, 64, 0), linear('bf16', 'swiglu', [176, 176], 64, 5, 0),
    ...[64, 80, 96, 100, 128].flatMap((headSize) => [1, 64].map((rows) =>
      decodeAttentionPlan({ rows, heads: 8, kvHeads: headSize === 100 ? 8 : 2, headSize, capacity: 500, normalized: headSize === 128, rotated: headSize !== 80, multiprocessors }).program)),
    decodeEmbeddingProgram(1, 3200), decodeFillProgram(1, 3200), decodeKeepProgram(), decodeArgMaxProgram(1), decodeSampleProgram(1, true), decodeSampleProgram(1, false),
    decodeLowProgram({ rows: 1, inner: 3200, ranks: [8, 8, 8], normalized: true }), decodeLowProgram({ rows: 64, inner: 8640, ranks: [8], normalized: false }),
    decodeLowProgram({ rows: 64, inner: 576, ranks: [0, 0], normalized: true }), decodeLowProgram({ rows: 16, inner: 176, ranks: [0, 20, 3], normalized: false }),
    ...(['f32', 'f16', 'bf16'] as const).flatMap((dtype) => [
      findNonFiniteProgram(dtype, 9), convertStoredProgram(dtype, 'f32', 9), convertStoredProgram(dtype, 'bf16', 9), quantizeInt8Program(dtype, 9), quantizeNf4Program(dtype, 9),
    ]),
    nestAbsmaxProgram(9),
  ];
}
