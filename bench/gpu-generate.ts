/** Greedy generation with an int8 base and an adapter: 60-token prompts, 156 new tokens. gpu-generate MODEL BATCH... */
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
for (const batch of batches.map(Number)) {
  const prompts = Array.from({ length: batch }, (_, row) => Array.from({ length: 60 }, (_, i) => 3 + ((row * 977 + i * 131) % (config.vocabSize - 3))));
  for (const maxNewTokens of [8, 156]) {
    const started = performance.now();
    const answers = await generate({ model, adapter }, tokenizer, prompts, { maxNewTokens });
    const seconds = (performance.now() - started) / 1000;
    const tokensPerSecond = answers.reduce((sum, { ids }) => sum + ids.length, 0) / seconds;
    if (maxNewTokens === 156) console.log(`ROW ${JSON.stringify({ batch, tokensPerSecond: Number(tokensPerSecond.toFixed(1)) })}`);
    if (maxNewTokens === 156) console.log(`RESULT generate ${what} int8 + adapter, batch ${batch}: ${tokensPerSecond.toFixed(1)} tok/s`);
  }
}
console.log(`peak ${((findBackend('cuda') as CudaBackend).device.memory.memory().peakInUse / 2 ** 30).toFixed(2)} GiB`);
process.exit(0);
