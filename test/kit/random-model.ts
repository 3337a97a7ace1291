import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LlamaConfig } from '../../engine/formats/llama-config.js';
import { llamaTensors } from '../../engine/formats/llama-tensors.js';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';
import type { WeightSource } from '../../engine/formats/weight-source.js';
import { philoxWords } from '../../engine/random/philox.js';
import { goldenPath } from './golden.js';

/** A small LLaMA with the vocabulary of the golden tokenizers. */
export const smallConfig: LlamaConfig = {
  architecture: 'llama', vocabSize: 640, hiddenSize: 64, intermediateSize: 128, layers: 2, heads: 4, kvHeads: 2, headDim: 16, contextLength: 256,
  ropeTheta: 10_000, rmsNormEps: 1e-5, tiedEmbeddings: false, bosTokenId: 1, eosTokenIds: [2],
};

/** A model of random weights, each tensor a pure function of its name and shape; norms are near 1. Sharp enough that its guesses differ. */
export function randomModel(change: Partial<LlamaConfig> = {}): WeightSource {
  const config: LlamaConfig = { ...smallConfig, ...change };
  const shapes = llamaTensors(config);
  const names = [...shapes.keys()];
  return {
    config,
    names: () => names,
    shape: (name) => [...shapes.get(name)!],
    read: (name) => {
      const size = shapes.get(name)!.reduce((product, side) => product * side, 1);
      const isNorm = /norm\.weight$/.test(name);
      const width = isNorm ? 0.5 : name.endsWith('.bias') ? 0.5 : name.includes('embed') || name === 'lm_head.weight' ? 1.5 : 0.6;
      return Promise.resolve(Float32Array.from(philoxWords({ seed: 3, step: 0, stream: names.indexOf(name) }, size), (word) => (word / 2 ** 32 - 0.5) * width + Number(isNorm)));
    },
    close: () => Promise.resolve(),
  };
}

/** One of the golden tokenizers as a model directory has it. */
export async function goldenTokenizer(directory: string, name: 'bytelevel' | 'sentencepiece'): Promise<Tokenizer> {
  const path = join(directory, `tokenizer-${name}`);
  await mkdir(path, { recursive: true });
  await writeFile(join(path, 'config.json'), '{}');
  await writeFile(join(path, 'tokenizer.json'), await readFile(goldenPath(`tokenizer-${name}.json`)));
  const [bos, eos] = name === 'bytelevel' ? ['<|im_start|>', '<|im_end|>'] : ['<s>', '</s>'];
  const chat = '{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}';
  await writeFile(join(path, 'tokenizer_config.json'), JSON.stringify({ bos_token: bos, eos_token: eos, unk_token: name === 'bytelevel' ? undefined : '<unk>', chat_template: chat }));
  return openTokenizer(path);
}
