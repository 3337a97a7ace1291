import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { exportProblems } from '../../activities/export-problems.js';
import { modelOrigin } from '../../activities/sources/model-origin.js';
import { baseReference } from '../../contracts/hub-pin.js';
import { writeGgufModel } from '../../engine/formats/gguf-write-model.js';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';
import { goldenTokenizer, randomModel, smallConfig } from '../kit/random-model.js';
import { temporaryDirectory } from '../kit/temporary.js';
import { someConfig } from '../kit/trainer-job.js';

const directory = temporaryDirectory();
const empty = join(directory, 'empty');
mkdirSync(empty);
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = await goldenTokenizer(directory, 'bytelevel');
});
const origin = (card: string | undefined, path = empty, uri = 'file:model') => modelOrigin(uri, { path, card: () => Promise.resolve(card) });

describe('where a model comes from', () => {
  it('is read from the front matter of its card', async () => {
    expect(await origin('---\nlicense: apache-2.0\nlanguage:\n- en\n- de\ntags: [x]\n---\n# Model')).toEqual({ license: 'apache-2.0', languages: ['en', 'de'] });
    expect(await origin('---\nlicense: other\nlicense_name: my-license\nlanguage: fr\n---')).toEqual({ license: 'my-license', languages: ['fr'] });
  });

  it.each([['no card', undefined], ['no front matter', '# Model'], ['a broken one', '---\nlicense: [\n---'], ['one without a license', '---\ntags: [x]\n---']])('is not known from %s', async (_, card) =>
    expect(await origin(card)).toEqual({}));

  it('is read from a GGUF, where the card says nothing else', async () => {
    const path = join(directory, 'model.gguf');
    await writeGgufModel(path, { source: randomModel(), tokenizer, name: 'small', license: 'mit' }, 'f16');
    expect(await origin(undefined, path)).toEqual({ license: 'mit' });
    expect(await origin('---\nlicense: gpl-3.0\n---', path)).toEqual({ license: 'gpl-3.0' });
  });

  it('is the name on the hub, of a repository and of a built-in model', async () => {
    expect(await origin(undefined, empty, 'hf://owner/name@main')).toEqual({ hubName: 'owner/name' });
    expect(await origin(undefined, empty, 'smollm2-135m-instruct')).toEqual({ hubName: 'HuggingFaceTB/SmolLM2-135M-Instruct' });
    expect(baseReference({ uri: 'smollm2-135m-instruct', hubName: 'HuggingFaceTB/SmolLM2-135M-Instruct', files: [] })).toEqual({ name: 'HuggingFaceTB/SmolLM2-135M-Instruct' });
    expect(baseReference({ uri: 'file:model', files: [] })).toEqual({ name: 'file:model' });
  });
});

describe('what a model has that a GGUF has not', () => {
  const scaled = { ...smallConfig, ropeScaling: { type: 'dynamic', factor: 2, originalContextLength: 64 } as const };
  it('is a problem of the configuration that asks for one', async () => {
    expect(await exportProblems(someConfig({ export: { gguf: ['f16'] } }), { architecture: { ...scaled, vocabSize: 100 }, tokenizer })).toEqual([
      { path: 'export.gguf', message: 'this model cannot be a GGUF: rope scaling dynamic: llama.cpp has none' },
      { path: 'export.gguf', message: expect.stringMatching(/^this model cannot be a GGUF: tokenizer: token .*: expected an id below 100, the rows of the embedding, got \d+$/) },
    ]);
  });

  it('is none where no GGUF is asked for, or the model fits', async () => {
    expect(await exportProblems(someConfig(), { architecture: scaled, tokenizer })).toEqual([]);
    expect(await exportProblems(someConfig({ export: { gguf: ['q4_k_m'] } }), { architecture: smallConfig, tokenizer })).toEqual([]);
  });
});
