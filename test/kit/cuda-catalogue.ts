import type { CudaProgram, Format } from '../../engine/cuda/program.js';
import { addGradientsProgram } from '../../engine/cuda/programs/add-gradients.cu.js';
import { adamWProgram, gradientNormProgram, gradientSquaresProgram } from '../../engine/cuda/programs/adam-w.cu.js';
import { attentionDeltaProgram, attentionKeyGradientProgram, attentionQueryGradientProgram } from '../../engine/cuda/programs/attention-backward.cu.js';
import { attentionBoundsProgram } from '../../engine/cuda/programs/attention-bounds.cu.js';
import { attentionProgram } from '../../engine/cuda/programs/attention-forward.cu.js';
import { attentionWgmmaProgram, forwardTiles } from '../../engine/cuda/programs/attention-wgmma-forward.cu.js';
import { attentionWgmmaKeyGradientProgram } from '../../engine/cuda/programs/attention-wgmma-key-gradient.cu.js';
import { attentionWgmmaQueryGradientProgram } from '../../engine/cuda/programs/attention-wgmma-query-gradient.cu.js';
import { rmsNormGradProgram, rmsNormProgram, rotaryProgram, swiGluGradProgram, swiGluProgram } from '../../engine/cuda/programs/block-ops.cu.js';
import { dequantizeInt8Program, dequantizeNf4Program } from '../../engine/cuda/programs/dequantize.cu.js';
import { dropoutAddProgram, dropoutProgram } from '../../engine/cuda/programs/dropout.cu.js';
import { binaryProgram, castProgram, rangeProgram, selectProgram, unaryProgram } from '../../engine/cuda/programs/elementwise.cu.js';
import { gatedLinearGradProgram } from '../../engine/cuda/programs/gated-linear-grad.cu.js';
import { gatherProgram, oneHotProgram, placeRowsProgram, stridedCopyProgram } from '../../engine/cuda/programs/layout.cu.js';
import { normedLinearGradProgram } from '../../engine/cuda/programs/normed-linear-grad.cu.js';
import { uniformNoiseProgram } from '../../engine/cuda/programs/noise.cu.js';
import { loraDownProgram, loraInputProgram, loraOutputProgram, loraSpreadProgram, loraSumProgram, placeFactorsProgram } from '../../engine/cuda/programs/lora.cu.js';
import { crossEntropyProgram } from '../../engine/cuda/programs/loss.cu.js';
import { argReduceProgram, cumulativeSumProgram, reduceProgram, softmaxProgram, type Reduction } from '../../engine/cuda/programs/reduce.cu.js';
import { segmentSumProgram } from '../../engine/cuda/programs/segment-sum.cu.js';
import { decodingPrograms } from './cuda-catalogue-decoding.js';

const formats: Format[] = ['f32', 'bf16', 'i32', 'u8'];

/** Every kernel's source in the variants that differ in more than an operator: formats, vector width, head size. */
export function catalogue(): CudaProgram[] {
  const attention = [64, 80, 96, 100, 128].map((headSize) => ({ batch: 2, length: 300, heads: 4, kvHeads: 2, headSize }));
  const programs = [
    ...decodingPrograms(),
    adamWProgram(3), gradientNormProgram(), gradientSquaresProgram(3), addGradientsProgram(3, true), addGradientsProgram(3, false),
    attentionBoundsProgram(attention[0]),
    ...attention.flatMap((shape) => [attentionProgram(shape), attentionDeltaProgram(shape), attentionWgmmaProgram(shape, 132)]),
    attentionWgmmaProgram(attention[3], 132, { ...forwardTiles(), sectors: true }),
    ...[...attention, ...attention.map((shape) => ({ ...shape, rotated: true }))].flatMap((shape) => [
      attentionKeyGradientProgram(shape), attentionQueryGradientProgram(shape), attentionWgmmaQueryGradientProgram(shape, 132), attentionWgmmaKeyGradientProgram(shape, 132),
    ]),
    ...[576, 8192, 33].flatMap((columns) => [rmsNormProgram('bf16', 'f32', 2, columns), rmsNormGradProgram('bf16', 'bf16', 'f32', undefined, 2, columns), rmsNormGradProgram('bf16', 'bf16', 'f32', 'bf16', 2, columns)]), rmsNormProgram('f32', 'f32', 2, 3200), rmsNormGradProgram('f32', 'f32', 'f32', 'f32', 2, 3200),
    rotaryProgram('bf16', [64], 32), rotaryProgram('bf16', [64, 32], 32), rotaryProgram('f32', [66], 33), swiGluProgram('bf16', 'bf16', 'bf16', 99, 33), swiGluProgram('bf16', 'bf16', 'bf16', 96, 32), swiGluProgram('f32', 'f32', 'f32', 99, 33),
    swiGluGradProgram('bf16', 'bf16', 'bf16', 99), swiGluGradProgram('f32', 'f32', 'f32', 99),
    dequantizeNf4Program('bf16', 99), dequantizeNf4Program('f32', 99), dequantizeInt8Program('bf16', 99), dequantizeInt8Program('f32', 99),
    dropoutProgram('bf16', 'bf16', 99), dropoutProgram('f32', 'f32', 99), dropoutAddProgram(99), uniformNoiseProgram(99),
    ...formats.flatMap((from) => (['f32', 'bf16'] as const).map((to) => castProgram(from, to, 99))), castProgram('f32', 'i32', 99), castProgram('bf16', 'u8', 99), castProgram('u8', 'i32', 99),
    unaryProgram('Exp', 'expf(x)', 'bf16', 'bf16', 99),
    ...formats.map((b) => binaryProgram('Add', 'a + b', 'bf16', b, 'f32', { size: 99 })), binaryProgram('Add', 'a + b', 'bf16', 'bf16', 'bf16', { size: 99 }),
    binaryProgram('Add', 'a + b', 'i32', 'i32', 'i32', { size: 99, scalar: 'b' }), binaryProgram('Multiply', 'a * b', 'bf16', 'f32', 'bf16', { size: 99, scalar: 'a' }),
    binaryProgram('Less', 'a < b', 'i32', 'i32', 'u8', { size: 99, broadcast: { shape: [3, 33], a: [0, 1], b: [1, 0] } }),
    selectProgram('bf16', 'f32', 'f32', 2, 99), rangeProgram('f32', 9), rangeProgram('i32', 9), rangeProgram('u8', 9),
    ...formats.flatMap((format) => [gatherProgram(format, 9), placeRowsProgram(format, 9), stridedCopyProgram(format, 3, 9)]),
    ...[[3, 2], [8, 1], [8, 3], [16, 2], [64, 1]].flatMap(([rank, members]) => [
      ...[[99, 3200], [2500, 200], [4096, 3208], [4096, 3200], [8192, 8640]].flatMap(([rows, inner]) =>
        [true, false].flatMap((dropout) => [true, false].map((gated) => loraDownProgram({ rank, members, dropout, whole: inner % 64 === 0, rows, inner, gated })))),
      ...[true, false].flatMap((masked) => [
        loraSpreadProgram({ factor: 'a', rank, members, rows: 99, width: 64, mode: 'sum', masked }), ...[[99, 64], [4096, 3200]].map(([rows, inner]) => loraInputProgram({ rank, members, masked, rows, inner })),
        gatedLinearGradProgram({ rank, members, masked, rows: 99, width: 64 }),
        ...[[99, 64], [99, 3200]].map(([rows, width]) => normedLinearGradProgram({ rank, members, masked, rows, width, norm: 'f32' })),
      ]),
      loraSpreadProgram({ factor: 'b', rank, members, rows: 99, width: 64, mode: 'each' }),
      ...[[99, 64], [4096, 3200], [8192, 8640]].map(([rows, width]) => loraOutputProgram({ rank, members, rows, width })),
    ]),
    normedLinearGradProgram({ rank: 8, members: 3, masked: true, rows: 4096, width: 3200, norm: 'bf16' }), normedLinearGradProgram({ rank: 16, members: 3, masked: true, rows: 99, width: 3200, norm: 'f32' }),
    placeFactorsProgram(1, 9, 8), placeFactorsProgram(3, 9, 24), loraSumProgram([false], [9]), loraSumProgram([true, false, true, false], [9, 9, 9, 9]),
    oneHotProgram('f32', 9), oneHotProgram('i32', 9), crossEntropyProgram(3),
    ...(['sum', 'max', 'min', 'prod', 'all', 'any'] as Reduction[]).flatMap((reduction) =>
      [100, 5000].flatMap((columns) => [reduceProgram(reduction, 'bf16', 'f32', 3, columns), reduceProgram(reduction, 'i32', 'i32', 3, columns)])),
    argReduceProgram('max', 'f32', 3, 100), argReduceProgram('min', 'bf16', 3, 5000), softmaxProgram(false, 'f32', 'f32', 3), softmaxProgram(true, 'bf16', 'bf16', 3),
    cumulativeSumProgram('f32', 'f32', 3), cumulativeSumProgram('i32', 'i32', 3), segmentSumProgram('bf16', 'bf16', 3), segmentSumProgram('i32', 'i32', 3),
  ];
  return [...new Map(programs.map((program) => [program.key, program])).values()];
}
