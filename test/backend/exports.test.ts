import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { openModel } from '../../engine/formats/open-model.js';
import { readSafetensors } from '../../engine/formats/safetensors.js';
import type { LoraAdapter } from '../../engine/model/adapter.js';
import { logits, type TokenBatch } from '../../engine/model/llama.js';
import { loadModel } from '../../engine/model/load.js';
import { loadPeft } from '../../engine/model/peft.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { writeExports } from '../kit/exports.js';
import { goldenPath, readGolden, relativeError } from '../kit/golden.js';
import { temporaryDirectory } from '../kit/temporary.js';

/** A weight near the middle of two bf16 values may go to the other one on another machine; merging itself changes the logits by 6e-3. */
const bf16Ties = 5e-4;

const directory = temporaryDirectory();
let batch: TokenBatch;
let expected: Awaited<ReturnType<typeof readGolden>>;

beforeAll(async () => {
  await selectBackend();
  await writeExports(directory);
  expected = await readGolden('exports.safetensors');
  const inputs = await readGolden('model/expected.safetensors');
  const { shape, data } = inputs('input_ids');
  const [rows, width] = shape;
  const segments = inputs('attention_mask').data as Int32Array;
  batch = { shape: [rows, width], inputIds: data as Int32Array, positions: Int32Array.from(data, (_, i) => i % width), segments };
});

/** Logits at the positions that are not padding. */
const unpadded = (values: ArrayLike<number>): number[] => {
  const vocabulary = values.length / batch.segments.length;
  return Array.from(values).filter((_, i) => batch.segments[Math.floor(i / vocabulary)] > 0);
};

async function errorOf(name: string, model: string, withAdapter = false): Promise<number> {
  const source = await openModel(model);
  const loaded = await loadModel(source, { dtype: 'f32' });
  await source.close();
  const adapter: LoraAdapter | undefined = withAdapter ? await loadPeft(loaded.config, join(directory, 'adapter')) : undefined;
  const actual = await logits({ model: loaded, adapter }, batch).data();
  return relativeError(unpadded(actual), unpadded(expected(name).data));
}

describe('what training hands to others', () => {
  it('is an adapter with the tensors that PEFT writes, in which PEFT sees our logits', async () => {
    const file = 'adapter/adapter_model.safetensors';
    const written = await readSafetensors(join(directory, file));
    const golden = await readSafetensors(goldenPath(`model/${file}`));
    expect(new Map([...written].sort())).toEqual(new Map([...golden].sort()));
    expect(await errorOf('adapter_logits', goldenPath('model/base'), true)).toBeLessThan(1e-5);
  });

  it('is a merged model in which transformers sees our logits', async () => {
    expect(await errorOf('merged_logits', join(directory, 'merged'))).toBeLessThan(bf16Ties);
  });

  it('is a merged model with a head of its own where the head was adapted and shared its weights', async () => {
    expect(await errorOf('untied_logits', join(directory, 'untied'))).toBeLessThan(bf16Ties);
  });
});
