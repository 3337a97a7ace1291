/**
 * The article's arm 3 through the trainer itself (engine/train): 4,750 synthetic rows and 250 test rows, batch 4 x accumulation 4,
 * r = 8 on all eight modules, dropout 0.05, 3 epochs, an evaluation after each. Row lengths lie between 60 and 256 tokens, 150 in
 * the mean. Says how long training took, evaluations included, and whether memory was used as planned: gpu-article [MODEL] [STEPS] [tune]
 */
import { findBackend } from '@tensorflow/tfjs-core';
import { loraSchema, trainSchema } from '../contracts/fine-tune-config.js';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import type { TokenRows } from '../engine/data/batches.js';
import { targetModules } from '../engine/formats/linear-modules.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { trainAdapter } from '../engine/train/train.js';
import { modelShapes, randomModel } from './random-model.js';

const ROWS = 4750, TEST_ROWS = 250, EPOCHS = 3, BATCH = 4, ACCUMULATION = 4;

registerCudaBackend();
console.log((await selectBackend('cuda')).description);
const { device, products } = findBackend('cuda') as CudaBackend;
const [what = 'open-llama-3b-v2', steps, tune] = process.argv.slice(2);
products.tune = tune === 'tune';
const config = modelShapes[what as keyof typeof modelShapes];

let state = 7;
const random = (limit: number) => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % limit;
const lengths = Array.from({ length: ROWS + TEST_ROWS }, () => 60 + Math.floor((random(197) + random(197) + random(197)) / 3) - 8);
const rows = (from: number, count: number): TokenRows => ({
  count,
  length: (row) => lengths[from + row],
  ids: (row) => Int32Array.from({ length: lengths[from + row] }, (_, i) => 3 + ((row * 131 + i * 17) % (config.vocabSize - 3))),
  mask: (row) => new Uint8Array(lengths[from + row]).fill(1).fill(0, 0, 1),
});

const model = randomModel(config, { dtype: 'nf4', doubleQuant: true });
const losses: number[] = [], times: number[] = [];
let before = performance.now(), evaluating = 0;
const started = performance.now();
device.memory.resetPeak();
const { history } = await trainAdapter(
  {
    model,
    lora: loraSchema.parse({ rank: 8, alpha: 8, dropout: 0.05, targetModules: [...targetModules] }),
    train: trainSchema.parse({ ...(steps ? { steps: Number(steps) } : { epochs: EPOCHS }), batchSize: BATCH, accumulation: ACCUMULATION, learningRate: 1e-4, checkpointEvery: 100_000 }),
    trainRows: rows(0, ROWS),
    testRows: rows(ROWS, TEST_ROWS),
  },
  {
    onPlan: (description) => console.log(description),
    onStep: ({ loss }) => {
      losses.push(loss);
      times.push(performance.now() - before);
      before = performance.now();
    },
    onEval: ({ loss }) => {
      const time = performance.now() - before;
      console.log(`evaluated in ${time.toFixed(0)} ms: ${loss.toFixed(4)}`);
      evaluating += time;
      before = performance.now();
    },
  },
);
const seconds = (performance.now() - started) / 1000;
const { peakInUse, peakReserved } = device.memory.memory();
const sorted = [...times].sort((a, b) => a - b);
const gibibytes = (bytes: number) => (bytes / 2 ** 30).toFixed(2);
console.log(`losses ${losses[0].toFixed(4)} … ${losses.at(-1)!.toFixed(4)}; slowest steps ${sorted.slice(-8).map((time) => time.toFixed(0)).join(' ')} ms`);
console.log(`used at most ${gibibytes(peakInUse)} GiB in blocks, ${gibibytes(peakReserved)} GiB taken`);
console.log(`RESULT article ${what}: ${history.global_step} steps of ${history.num_input_tokens_seen} tokens in ${seconds.toFixed(1)} s, evaluations ${(evaluating / 1000).toFixed(1)} s of it; ${sorted[sorted.length >> 1].toFixed(1)} ms a step in the median, ${Math.round(history.num_input_tokens_seen / (times.reduce((a, b) => a + b) / 1000))} tokens a second`);
console.log(`ROW ${JSON.stringify({ seconds: Number(seconds.toFixed(1)), steps: history.global_step, tokens: history.num_input_tokens_seen, peakGiB: Number(gibibytes(peakReserved)) })}`);
process.exit(0);
