/** Time of training steps on the processor, at SmolLM2-135M's shape: cpu-steps [ROWS LENGTH ACCUMULATION] [recompute] */
import { dispose } from '@tensorflow/tfjs-core';
import { selectBackend } from '../engine/tensor/backends.js';
import { modelShapes, randomModel } from './random-model.js';
import { StepBench } from './train-step.js';

const STEPS = 6;
process.env.TF_SET_ONEDNN_FPMATH_MODE ??= 'BF16';
console.log((await selectBackend('tensorflow')).description);
const [rows = '4', length = '96', accumulation = '2', ...flags] = process.argv.slice(2);
const bench = new StepBench(randomModel(modelShapes['smollm2-135m'], { dtype: 'nf4', doubleQuant: true }), Number(length));
const times: number[] = [];
for (let step = 0; step < STEPS; step++) {
  const started = performance.now();
  const { losses, gradNorm } = bench.run({ rows: Number(rows), length: Number(length), accumulation: Number(accumulation), recompute: flags.includes('recompute') });
  gradNorm.dataSync();
  dispose([losses, gradNorm]);
  times.push(performance.now() - started);
}
console.log(`steps of ${rows} x ${length} tokens, ${accumulation} accumulated: ${times.map((time) => time.toFixed(0)).join(' ')} ms`);
process.exit(0);
