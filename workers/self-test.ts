/**
 * Prints what there is of CUDA, then trains a tiny random LLaMA for some steps on the backend that a run would use and prints how that
 * went: a JSON line each. `temper doctor` starts it in a process of its own, as a run does its engine.
 *
 *   self-test.ts [BACKEND]
 */
import { loraSchema, trainSchema } from '../contracts/fine-tune-config.js';
import type { TokenRows } from '../engine/data/batches.js';
import { inspectCuda } from '../engine/cuda/inspect.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import type { WeightSource } from '../engine/formats/weight-source.js';
import { loadModel } from '../engine/model/load.js';
import { blockModules, modulePath, moduleShape } from '../engine/formats/linear-modules.js';
import { philoxWords } from '../engine/random/philox.js';
import { selectBackend, type BackendName } from '../engine/tensor/backends.js';
import { trainAdapter } from '../engine/train/train.js';

/** Steps until about this much time has gone by. */
const targetSeconds = 5;
const mostSteps = 40;
const rowLength = 64;
const rowCount = 8;

const config: LlamaConfig = {
  architecture: 'llama', vocabSize: 256, hiddenSize: 128, intermediateSize: 256, layers: 2, heads: 4, kvHeads: 2, headDim: 32,
  contextLength: 256, ropeTheta: 10_000, rmsNormEps: 1e-5, tiedEmbeddings: true, eosTokenIds: [0],
};

process.stdout.write(`${JSON.stringify(inspectCuda())}\n`);
registerCudaBackend();
const { name, description } = await selectBackend(process.argv[2] as BackendName | undefined);
const model = await loadModel(randomWeights(config), { dtype: 'nf4', doubleQuant: true });
const losses: number[] = [];
let tokens = 0;
const started = performance.now();
const seconds = (): number => (performance.now() - started) / 1000;
const { adapter } = await trainAdapter(
  {
    model, trainRows: randomRows(), testRows: randomRows(), lora: loraSchema.parse({}),
    train: trainSchema.parse({ steps: mostSteps, batchSize: rowCount, accumulation: 1, learningRate: 1e-2, schedule: 'constant', warmupRatio: 0, evalEvery: mostSteps }),
  },
  {
    onStep: ({ loss, num_input_tokens_seen }) => {
      losses.push(loss);
      tokens = num_input_tokens_seen;
    },
    onCheckpoint: () => {},
    isInterrupted: () => seconds() > targetSeconds,
  },
);
adapter.dispose();
const took = seconds();
process.stdout.write(`${JSON.stringify({ backend: name, description, losses, tokensPerSecond: tokens / took, seconds: took })}\n`);
process.exit(0);

/** Rows of a few repeated tokens, which are quickly learnt. */
function randomRows(): TokenRows {
  const ids = (row: number): Int32Array => Int32Array.from(philoxWords({ seed: 7, step: 0, stream: row }, rowLength), (word) => word % 16);
  return { count: rowCount, length: () => rowLength, ids, mask: () => new Uint8Array(rowLength).fill(1, 1) };
}

/** Uniform weights with the spread of a fresh model, norms of 1. */
function randomWeights(config: LlamaConfig): WeightSource {
  const shapes = new Map<string, number[]>([['model.embed_tokens.weight', [config.vocabSize, config.hiddenSize]], ['model.norm.weight', [config.hiddenSize]]]);
  for (let layer = 0; layer < config.layers; layer++) {
    for (const name of blockModules) shapes.set(`${modulePath(layer, name)}.weight`, moduleShape(config, name));
    for (const name of ['input_layernorm', 'post_attention_layernorm']) shapes.set(`model.layers.${layer}.${name}.weight`, [config.hiddenSize]);
  }
  const names = [...shapes.keys()];
  const read = async (tensor: string): Promise<Float32Array> => {
    const shape = shapes.get(tensor)!;
    const size = shape.reduce((a, b) => a * b);
    if (shape.length === 1) return new Float32Array(size).fill(1);
    const words = philoxWords({ seed: 7, step: 1, stream: names.indexOf(tensor) }, size);
    return Float32Array.from(words, (word) => (word / 2 ** 32 - 0.5) * 0.2);
  };
  return { config, names: () => names, shape: (tensor) => shapes.get(tensor)!, read, close: async () => {} };
}
