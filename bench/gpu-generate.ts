/**
 * Greedy generation with an int8 base and an adapter: 60-token prompts, 156 new tokens; the median of five once the host is
 * warm, and the time to the first token. gpu-generate MODEL BATCH...
 */
import { findBackend } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import type { Tokenizer } from '../engine/formats/tokenizer.js';
import { LoraAdapter } from '../engine/model/adapter.js';
import { generate } from '../engine/model/generate.js';
import { targetModules } from '../engine/formats/linear-modules.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { modelShapes, randomModel } from './random-model.js';

registerCudaBackend({ keepDequantized: 'always' });
console.log((await selectBackend('cuda')).description);
const [what, ...batches] = process.argv.slice(2);
const config = modelShapes[what as keyof typeof modelShapes];
const model = randomModel(config, { dtype: 'int8' });
const adapter = LoraAdapter.create(config, { rank: 8, alpha: 8, dropout: 0, targetModules }, 42);
/** Ids only: what is timed is the model. */
const tokenizer = { decode: () => Promise.resolve(''), decodeBatch: (rows: number[][]) => Promise.resolve(rows.map(() => '')) } as unknown as Tokenizer;
/** Generations before those that are timed: until the engine has compiled what the host runs. */
const WARM_UP = 3;
for (const batch of batches.map(Number)) {
  const prompts = Array.from({ length: batch }, (_, row) => Array.from({ length: 60 }, (_, i) => 3 + ((row * 977 + i * 131) % (config.vocabSize - 3))));
  for (let i = 0; i < WARM_UP; i++) await timed(prompts, 156);
  const runs: Timed[] = [];
  for (let i = 0; i < 5; i++) runs.push(await timed(prompts, 156));
  const tokensPerSecond = median(runs.map((run) => run.tokensPerSecond)), firstToken = median(runs.map((run) => run.firstToken));
  console.log(`ROW ${JSON.stringify({ batch, tokensPerSecond: Number(tokensPerSecond.toFixed(1)) })}`);
  console.log(`RESULT generate ${what} int8 + adapter, batch ${batch}: ${tokensPerSecond.toFixed(1)} tok/s, the first token after ${firstToken.toFixed(1)} ms`
    + ` (in turn ${runs.map((run) => `${run.tokensPerSecond.toFixed(1)} tok/s, ${run.firstToken.toFixed(1)} ms`).join('; ')})`);
}
console.log(`peak ${((findBackend('cuda') as CudaBackend).device.memory.memory().peakInUse / 2 ** 30).toFixed(2)} GiB`);
process.exit(0);

interface Timed {
  tokensPerSecond: number;
  /** Milliseconds until the first token of each row was at hand. */
  firstToken: number;
}

async function timed(prompts: number[][], maxNewTokens: number): Promise<Timed> {
  const started = performance.now();
  let firstToken: number | undefined;
  const answers = await generate({ model, adapter }, tokenizer, prompts, { maxNewTokens, onStep: () => void (firstToken ??= performance.now() - started) });
  const seconds = (performance.now() - started) / 1000;
  return { tokensPerSecond: answers.reduce((sum, { ids }) => sum + ids.length, 0) / seconds, firstToken: firstToken! };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}
