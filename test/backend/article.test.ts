import { readFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { checkConfig } from '../../contracts/check-config.js';
import { LoraAdapter } from '../../engine/model/adapter.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { modelShapes } from '../../bench/random-model.js';

beforeAll(() => selectBackend());
const load = async (name: string) => checkConfig(JSON.parse(await readFile(new URL(`../../examples/article/${name}.json`, import.meta.url), 'utf8')));

describe('the arms of the article on OpenLLaMA-3b-v2', () => {
  it.each([['arm-1', 2_662_400], ['arm-2', 5_324_800], ['arm-3', 12_994_560], ['arm-4', 12_994_560], ['modern', 25_425_920]])('%s trains %i parameters', async (name, count) => {
    const adapter = LoraAdapter.create(modelShapes['open-llama-3b-v2'], (await load(name)).lora, 0);
    expect(adapter.size).toBe(count);
    adapter.dispose();
  });

  it('differ in rank, targets and base alone', async () => {
    const arms = await Promise.all([1, 2, 3, 4].map((arm) => load(`arm-${arm}`)));
    const shared = arms.map((arm) => ({ ...arm, name: '', base: undefined, lora: { ...arm.lora, rank: 0, targetModules: [] } }));
    for (const config of shared) expect(config).toEqual(shared[0]);
    expect(arms.map(({ base, lora }) => [base.dtype, lora.rank, lora.targetModules.length])).toEqual([['nf4', 8, 2], ['nf4', 16, 2], ['nf4', 8, 8], ['int8', 8, 8]]);
  });
});
