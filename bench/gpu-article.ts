/**
 * The article's arm 3 through the trainer itself (engine/train): 4,750 synthetic rows, batch 4 x accumulation 4, r = 8 on all eight
 * modules, dropout 0.05, 3 epochs. Row lengths are drawn between 60 and 256 tokens, 150 in the mean. Times some optimizer steps
 * after a warm-up and says how long the whole job would take at that rate: gpu-article MODEL STEPS
 */
import { findBackend } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import type { TokenRows } from '../engine/data/batches.js';
import { loraSchema, trainSchema } from '../contracts/fine-tune-config.js';
import { targetModules } from '../engine/model/targets.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { trainAdapter } from '../engine/train/train.js';
import { modelShapes, randomModel } from './random-model.js';

const ROWS = 4750, EPOCHS = 3, BATCH = 4, ACCUMULATION = 4;
const WARM_UP = 8;

registerCudaBackend({ keepDequantized: 'always' });
console.log((await selectBackend('cuda')).description);
const { device, products } = findBackend('cuda') as CudaBackend;
products.tune = false; // Lengths vary: measuring the candidates of every shape would cost more than it saves.
const [what = 'open-llama-3b-v2', steps = '60'] = process.argv.slice(2);
const config = modelShapes[what as keyof typeof modelShapes];

let state = 7;
const random = (limit: number) => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % limit;
const lengths = Array.from({ length: ROWS }, () => 60 + Math.floor((random(197) + random(197) + random(197)) / 3) - 8);
const rows = (from: number, count: number): TokenRows => ({
  count,
  length: (row) => lengths[from + row],
  ids: (row) => Int32Array.from({ length: lengths[from + row] }, (_, i) => 3 + ((row * 131 + i * 17) % (config.vocabSize - 3))),
  mask: (row) => new Uint8Array(lengths[from + row]).fill(1),
});

const marks: number[] = [], losses: number[] = [];
const outcome = await trainAdapter(
  {
    model: randomModel(config, { dtype: 'nf4', doubleQuant: true }),
    lora: loraSchema.parse({ rank: 8, alpha: 8, targetModules: [...targetModules] }),
    train: trainSchema.parse({ steps: Number(steps), batchSize: BATCH, accumulation: ACCUMULATION, learningRate: 1e-4, evalEvery: 100_000, checkpointEvery: 100_000 }),
    trainRows: rows(0, ROWS - 32),
    testRows: rows(ROWS - 32, 32),
  },
  { onStep: ({ loss }) => { marks.push(performance.now()); losses.push(loss); } },
);
const timed = (marks.at(-1)! - marks[WARM_UP - 1]) / (marks.length - WARM_UP) / 1000;
const all = Math.ceil(ROWS / (BATCH * ACCUMULATION)) * EPOCHS;
console.log(`losses ${losses[0].toFixed(4)} … ${losses.at(-1)!.toFixed(4)}, finished ${outcome.finished}`);
console.log(`RESULT article ${what}: ${(timed * 1000).toFixed(0)} ms a step, so ${(timed * all).toFixed(0)} s for ${all} steps; peak ${(device.memory.memory().peakInUse / 2 ** 30).toFixed(2)} GiB`);
process.exit(0);
