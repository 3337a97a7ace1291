/**
 * What a process pays before it trains and generates at speed: opening the device, compiling or loading kernels. Run it twice with a fresh
 * TEMPER_CUDA_CACHE: the first start compiles, the second finds everything in the cache.
 *   gpu-start MODEL
 */
import { dispose, findBackend } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import { generate } from '../engine/model/generate.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { noTokenizer } from '../test/gpu/cases/generation.js';
import { modelShapes, randomModel } from './random-model.js';
import { StepBench } from './train-step.js';

const processStart = performance.now(); // since the process began
registerCudaBackend();
await selectBackend('cuda');
const opened = performance.now();
const { device } = findBackend('cuda') as CudaBackend;
const config = modelShapes[process.argv[2] as keyof typeof modelShapes];
const model = randomModel(config, { dtype: 'nf4', doubleQuant: true });
device.synchronize();
const modelMade = performance.now();
const bench = new StepBench(model, 256);
const step = () => {
  const { losses, gradNorm } = bench.run({ rows: 16, length: 256, accumulation: 1, recompute: false });
  gradNorm.dataSync();
  dispose([losses, gradNorm]);
};
const timed = (run: () => void): number => {
  const started = performance.now();
  run();
  return (performance.now() - started) / 1000;
};
const steps = Array.from({ length: 4 }, () => timed(step));
const generating = performance.now();
await generate({ model, adapter: bench.adapter }, noTokenizer, [[3, 4, 5]], { maxNewTokens: 8 });
const generated = (performance.now() - generating) / 1000;
const { kernels, fromCache, milliseconds } = device.compilation;
const second = (value: number) => value.toFixed(2);
// Making random weights takes a user no time; everything else of the start does.
const start = opened / 1000 + steps[0] + steps[1] - 2 * steps[3] + generated;
console.log(`RESULT start ${process.argv[2]}: ${second(start)} s until all is at speed: ${second(processStart / 1000)} s Node and code, ${second((opened - processStart) / 1000)} s device, ` +
  `steps ${steps.map(second).join(' ')} s, generation ${second(generated)} s; ${kernels} kernels compiled, ${fromCache} from the cache, in ${second(milliseconds / 1000)} s; model in ${second((modelMade - opened) / 1000)} s (not counted)`);
process.exit(0);
