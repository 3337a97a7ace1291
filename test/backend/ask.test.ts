import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { randomNormal, tidy } from '@tensorflow/tfjs-core';
import { beforeAll, expect, it } from 'vitest';
import { typeScript } from '../../cli/worker-processes.js';
import { askResultSchema, type AskedAnswer, type AskJob } from '../../contracts/ask.js';
import { openModel } from '../../engine/formats/open-model.js';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import { LoraAdapter } from '../../engine/model/adapter.js';
import { generate } from '../../engine/model/generate.js';
import { loadModel, type LlamaModel } from '../../engine/model/load.js';
import { savePeft } from '../../engine/model/peft.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { goldenPath } from '../kit/golden.js';
import { smallLora } from '../kit/small-model.js';
import { temporaryDirectory } from '../kit/temporary.js';

const directory = temporaryDirectory();
const modelDirectory = goldenPath('article');
const prompts = ['A small lamp', 'Below is an instruction that describes a task.'];
let model: LlamaModel;
let backend: string;
let adapters: LoraAdapter[];

beforeAll(async () => {
  backend = (await selectBackend()).name;
  const source = await openModel(modelDirectory);
  model = await loadModel(source, { dtype: 'f32' });
  await source.close();
  // The second cannot share a batch.
  adapters = [smallLora(), smallLora({ useDora: true, targetModules: ['q_proj', 'v_proj'] })].map((lora, i) => LoraAdapter.create(model.config, lora, i, model));
  for (const [i, adapter] of adapters.entries()) {
    for (const { name, variable } of adapter.parameters()) if (name.includes('.lora_B.')) tidy(() => variable.assign(randomNormal(variable.shape, 0, 0.3, 'float32', i + 1)));
    await savePeft(adapter, join(directory, `adapter-${i}`), 'article');
  }
});

const uris = [0, 1].map((i) => pathToFileURL(join(directory, `adapter-${i}`)).href);
async function ask(change: Partial<AskJob>) {
  const job: AskJob = { model: pathToFileURL(modelDirectory).href, base: { dtype: 'f32' }, adapters: uris, prompts, chat: false, maxNewTokens: 8, ...change };
  const { command, args } = typeScript('workers/ask.ts');
  const { stdout } = await promisify(execFile)(command, [...args, JSON.stringify(job)], { env: { ...process.env, TEMPER_DATA_ROOTS: '/' } });
  return askResultSchema.parse(JSON.parse(stdout.trim().split('\n').at(-1)!));
}

it('the base and each adapter answer as they do alone, those that share a batch and those that cannot', async () => {
  const tokenizer = await openTokenizer(modelDirectory);
  const expected: AskedAnswer[] = [];
  for (const prompt of prompts) {
    for (const [name, adapter] of [[null, undefined], [uris[0], adapters[0]], [uris[1], adapters[1]]] as const) {
      const [{ text, ids, stopped }] = await generate({ model, adapter }, tokenizer, [(await tokenizer.encodeBatch([prompt], { addBos: true }))[0]], { maxNewTokens: 8 });
      expected.push({ prompt, adapter: name, text: text.trim(), tokens: ids.length, stopped });
    }
  }
  expect(await ask({})).toEqual({ backend, answers: expected });
  expect(new Set(expected.map(({ text }) => text)).size).toBeGreaterThan(3);
});

it('all that cannot be found is named at once, and a chat without a template', async () => {
  expect(await ask({ model: 'file:/nowhere', adapters: ['file:/nope'] })).toEqual({ problems: [
    { path: 'model', message: 'expected a file or directory at /nowhere, got none' },
    { path: 'adapters[0]', message: 'expected a file or directory at /nope, got none' },
  ] });
  expect(await ask({ chat: true, adapters: [] })).toEqual({ problems: [{ path: 'chat', message: 'expected a model with a chat template, got one without' }] });
});
