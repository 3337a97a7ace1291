import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { FineTuneInput } from '../../contracts/fine-tune-config.js';
import { llamaTensors } from '../../engine/formats/llama-tensors.js';
import { writeHuggingFaceModel } from '../../engine/formats/write-huggingface-model.js';
import { philoxWords } from '../../engine/random/philox.js';
import { goldenPath } from './golden.js';

const config = {
  architecture: 'llama', vocabSize: 640, hiddenSize: 64, intermediateSize: 128, layers: 2, heads: 4, kvHeads: 2, headDim: 16,
  contextLength: 128, ropeTheta: 10_000, rmsNormEps: 1e-5, tiedEmbeddings: false, bosTokenId: 1, eosTokenIds: [2],
};

/** Writes a two-layer LLaMA with random weights, and rows to train it on; returns a run of the pipeline over them. */
export async function writeTinyRun(directory: string): Promise<FineTuneInput> {
  const model = join(directory, 'model');
  const shapes = new Map(llamaTensors(config));
  const names = [...shapes.keys()];
  await writeHuggingFaceModel(model, {
    config,
    read: (name) => Promise.resolve(randomWeights(names.indexOf(name), shapes.get(name)!)),
    tokenizer: { files: async () => new Map([['tokenizer.json', await readFile(goldenPath('tokenizer-bytelevel.json'))]]) },
  });

  const rows = Array.from({ length: 60 }, (_, row) => ({ product: `tool ${row}`, description: `A tool number ${row} for ${row * 7} uses.` }));
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, 'rows.jsonl'), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return {
    name: 'tiny',
    model: { uri: pathToFileURL(model).href },
    dataset: { uri: pathToFileURL(join(directory, 'rows.jsonl')).href, split: { test: 6 } },
    format: { template: { prompt: 'Q: {product}\nA: ' }, response: '{description}', maxLength: 64 },
    train: { steps: 150, batchSize: 4, accumulation: 2, learningRate: 1e-2, checkpointEvery: 10, evalEvery: 75 },
    evaluate: { testRows: 1, maxNewTokens: 4 },
  };
}

/** Norms are 1, the rest uniform in ±0.1. */
function randomWeights(stream: number, shape: readonly number[]): Float32Array {
  const size = shape.reduce((product, length) => product * length, 1);
  if (shape.length === 1) return new Float32Array(size).fill(1);
  return Float32Array.from(philoxWords({ seed: 1, step: 0, stream }, size), (word) => (word / 2 ** 32 - 0.5) / 5);
}
