/**
 * The kernels of a decode step.
 *   gpu-decode check [SEED]             every case of test/gpu/cases/generation.ts and sampling.ts, without a test runner
 *   gpu-decode profile MODEL BATCH...   time of each kernel in a step
 *   gpu-decode tilings MODEL BATCH...   time of each linear layer in int8 under many tilings, the chosen one first, and of Hopper's kernel beside the portable one
 */
import { findBackend } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import type { KernelArgument } from '../engine/cuda/program.js';
import { decodeLinearPlan, decodeTiling, type DecodeLinearPlan, type DecodeLinearShape, type DecodeTiling } from '../engine/cuda/programs/decode-linear.cu.js';
import { decodeLinearWgmmaPlan, decodeWgmmaTiling, fitsDecodeWgmma, wgmmaTilingOf, type DecodeWgmmaTiling } from '../engine/cuda/programs/decode-linear-wgmma.cu.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import { LoraAdapter } from '../engine/model/adapter.js';
import { startFusedDecoder } from '../engine/model/fused-decoder.js';
import { targetModules } from '../engine/formats/linear-modules.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { generationCases, goesOn, isRepeatable, worstGap } from '../test/gpu/cases/generation.js';
import { poisonAllocations } from '../test/gpu/cases/poison.js';
import { drawnOtherwise, samplingCases } from '../test/gpu/cases/sampling.js';
import { profileLaunches } from './profile.js';
import { modelShapes, randomModel } from './random-model.js';

registerCudaBackend();
console.log((await selectBackend('cuda')).description);
const backend = findBackend('cuda') as CudaBackend, { device } = backend;
const [what, ...rest] = process.argv.slice(2);

if (what === 'check') {
  const seed = Number(rest[0] ?? Date.now() % 2 ** 31);
  let failures = 0;
  const report = (name: string, value: number, limit: number) => {
    if (!(value <= limit)) failures++;
    console.log(`${value <= limit ? 'ok  ' : 'FAIL'} ${value.toExponential(1)} (limit ${limit}) ${name}`);
  };
  poisonAllocations();
  for (const sampling of samplingCases) report(`drawn ${JSON.stringify(sampling)}`, drawnOtherwise(backend, sampling, seed), 0.01);
  for (const one of generationCases.filter(({ name }) => name.includes(rest[1] ?? ''))) {
    await worstGap(one, seed).then((gap) => report(one.name, gap, 0.1), (error: unknown) => {
      failures++;
      console.log(`FAIL ${one.name}: ${error instanceof Error ? error.stack : String(error)}`);
    });
  }
  console.log(`repeatable: ${await isRepeatable(generationCases[0], seed)}; goes on: ${await goesOn(generationCases[0], seed)}, ${await goesOn(generationCases[1], seed)}; seed ${seed}: ${failures} failed`);
}

const config = modelShapes[rest[0] as keyof typeof modelShapes];
const batches = rest.slice(1).map(Number);

if (what === 'profile') {
  const model = randomModel(config, { dtype: 'int8' });
  const adapter = LoraAdapter.create(config, { rank: 8, alpha: 8, dropout: 0, targetModules }, 42);
  for (const batch of batches) {
    const prompts = Array.from({ length: batch }, (_, row) => Array.from({ length: 120 }, (_, i) => 3 + ((row * 977 + i * 131) % (config.vocabSize - 3))));
    const decoder = startFusedDecoder({ model, adapter }, prompts, 216)!;
    const step = async () => {
      decoder.queue();
      await decoder.read();
    };
    for (let i = 0; i < 4; i++) await step();
    const milliseconds = device.time(() => {
      for (let i = 0; i < 20; i++) decoder.queue();
    }) / 20;
    console.log(`RESULT step of ${batch}: ${milliseconds.toFixed(3)} ms, ${((batch / milliseconds) * 1000).toFixed(0)} tok/s`);
    decoder.dispose();
    const plain = startFusedDecoder({ model, adapter }, prompts, 216)!;
    plain.queue();
    console.log(profileLaunches(backend, () => plain.queue()).slice(0, 14).join('\n'));
    plain.dispose();
  }
}

if (what === 'tilings') {
  const { hiddenSize: hidden, intermediateSize: wide, heads, kvHeads, headDim, vocabSize } = config;
  for (const rows of batches) {
    const common = { rows, multiprocessors: device.multiprocessors };
    const one = { ranks: [8], biases: [false] };
    const shapes: DecodeLinearShape[] = [
      { ...common, kind: 'int8', output: 'store', outs: [heads * headDim, kvHeads * headDim, kvHeads * headDim], ranks: [8, 8, 8], biases: [false, false, false], inner: hidden },
      { ...common, ...one, kind: 'int8', output: 'add', outs: [hidden], inner: heads * headDim },
      { ...common, kind: 'int8', output: 'swiglu', outs: [wide, wide], ranks: [8, 8], biases: [false, false], inner: hidden },
      { ...common, ...one, kind: 'int8', output: 'add', outs: [hidden], inner: wide },
      { ...common, ...one, kind: 'bf16', output: 'logits', outs: [vocabSize], inner: hidden },
    ];
    for (const shape of shapes) {
      const chosen = decodeTiling(shape);
      const others: DecodeTiling[] = [];
      if (chosen.sharing) for (const warps of [6, 8, 10]) for (const ahead of [1, 2, 4]) others.push({ ...chosen, warps, ahead });
      else others.push(...[1, 2, 3, 5, 8].map((splits) => ({ ...chosen, splits })), { ...chosen, warps: 8 });
      const distinct = [...new Map([chosen, ...others].map((tiling) => [JSON.stringify(tiling), tiling])).values()];
      const timed = distinct.map((tiling) => ({ tiling, microseconds: timeLinear(shape, decodeLinearPlan(shape, tiling), (pointer) => ({ pointer })) }));
      const bytes = shape.outs.reduce((a, b) => a + b, 0) * shape.inner * (shape.kind === 'bf16' ? 2 : 1);
      const show = ({ tiling: { rowTiles, warps, splits, ahead }, microseconds }: (typeof timed)[0]) => `${rowTiles}/${warps}/${splits}/${ahead} ${microseconds.toFixed(1)}`;
      const [first] = timed;
      console.log(`${rows} x ${shape.output} [${shape.outs.join('+')},${shape.inner}] floor ${(bytes / 3e6).toFixed(1)} us: chosen ${show(first)}; best ${timed.sort((a, b) => a.microseconds - b.microseconds).slice(0, 4).map(show).join(', ')}`);
      if (device.capability === 90 && fitsDecodeWgmma(shape)) console.log(`  Hopper's, row groups/inner groups/resident/ahead/stages: ${timeHopper(shape)}`);
    }
  }
}
process.exit(0);

/** The chosen tiling, then the others, the fastest first. */
function timeHopper(shape: DecodeLinearShape): string {
  const { rows, inner } = shape;
  const chosen = decodeWgmmaTiling(shape);
  const others = [[4, 1, 1], [2, 2, 1], [1, 4, 1], [2, 1, 2], [1, 2, 2], [3, 1, 1], [1, 3, 1]].flatMap(([rowGroups, innerGroups, resident]) => {
    const tiling = wgmmaTilingOf(shape, rowGroups, innerGroups, resident);
    return [tiling, { ...tiling, ahead: Math.max(1, tiling.ahead - 2) }];
  });
  const show = ({ rowGroups, innerGroups, resident, ahead, stages }: DecodeWgmmaTiling, microseconds: number) => `${rowGroups}/${innerGroups}/${resident}/${ahead}/${stages} ${microseconds.toFixed(1)}`;
  const time = (tiling: DecodeWgmmaTiling) => {
    const plan = decodeLinearWgmmaPlan(shape, tiling);
    return timeLinear(shape, plan, (address) => device.tensorMaps.of({ address, depth: 1, rows, columns: inner }, plan.box));
  };
  const timed = others.map((tiling) => ({ tiling, microseconds: time(tiling) })).sort((a, b) => a.microseconds - b.microseconds);
  return `chosen ${show(chosen, time(chosen))}; ${timed.map(({ tiling, microseconds }) => show(tiling, microseconds)).join(', ')}`;
}

/** Median over launches that go through several copies of the matrices, so that none is found in the cache. @param operand x as the kernel takes it */
function timeLinear(shape: DecodeLinearShape, plan: DecodeLinearPlan, operand: (address: number) => KernelArgument): number {
  const { outs, inner, rows, ranks } = shape;
  const copies = 6;
  const total = outs.reduce((a, b) => a + b, 0), width = shape.kind === 'bf16' ? 2 : 1;
  const blocks = [4 * rows * total, 2 * rows * inner, 4 * rows * 24, 4 * plan.partValues, 4 * plan.counters, width * total * inner * copies, 4 * total, 4 * total * 8]
    .map((bytes) => device.memory.allocate(bytes, 'a benchmark'));
  const [out, x, low, parts, counters, codes, absmax, b] = blocks.map(({ address }) => address);
  device.fill(counters, 0, 4 * plan.counters);
  device.fill(codes, 0x35, width * total * inner * copies);
  for (const [address, bytes] of [[x, 2 * rows * inner], [low, 4 * rows * 24], [absmax, 4 * total], [b, 32 * total]]) device.fill(address, 0x3c, bytes);
  const launch = (copy: number) => {
    let first = codes + copy * width * total * inner;
    const matrices = outs.flatMap((count, i) => {
      const at = first;
      first += width * count * inner;
      return [{ pointer: at }, { pointer: absmax }, { pointer: 0 }, { f32: 0 }, { pointer: ranks[i] ? b : 0 }, { pointer: 0 }];
    });
    backend.launch(plan.program, [{ pointer: out }, operand(x), { pointer: low }, { pointer: parts }, { pointer: counters }, rows, ...matrices]);
  };
  launch(0);
  const times = Array.from({ length: 3 }, () => device.time(() => {
    for (let i = 0; i < 12; i++) launch(i % copies);
  }) / 12);
  for (const block of blocks) device.memory.free(block);
  return times.sort((a, b) => a - b)[1] * 1000;
}
