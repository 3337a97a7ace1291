import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { openModel } from '../../engine/formats/open-model.js';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import { generate } from '../../engine/model/generate.js';
import { logits } from '../../engine/model/llama.js';
import { disposeModel, loadModel } from '../../engine/model/load.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { goldenPath } from '../kit/golden.js';
import { describeWithModel } from '../kit/model.js';

interface Expected {
  ids: number[];
  topIds: number[][];
  topLogits: number[][];
  lastLogits: number[];
  greedy: number[];
}

await describeWithModel('SmolLM2-135M-Instruct from its GGUF', (directory) => {
  it('gives the logits and the greedy tokens of transformers', async () => {
    const { ids, topIds, topLogits, lastLogits, greedy } = JSON.parse(await readFile(goldenPath('smollm2.json'), 'utf8')) as Expected;
    await selectBackend();
    const source = await openModel(directory);
    const model = await loadModel(source, { dtype: 'f32' });
    await source.close();

    const inputIds = Int32Array.from(ids);
    const batch = { shape: [1, ids.length] as [number, number], inputIds, positions: inputIds.map((_, i) => i), segments: inputIds.map(() => 1) };
    const actual = (await logits({ model }, batch).data()) as Float32Array;
    const { vocabSize } = model.config;
    topIds.forEach((row, position) => row.forEach((id, i) => expect(Math.abs(actual[position * vocabSize + id] - topLogits[position][i])).toBeLessThan(1e-3)));
    lastLogits.forEach((value, id) => expect(Math.abs(actual[(ids.length - 1) * vocabSize + id] - value)).toBeLessThan(1e-3));

    const [answer] = await generate({ model }, await openTokenizer(directory), [ids], { maxNewTokens: greedy.length });
    expect(answer.ids).toEqual(greedy);
    disposeModel(model);
  });
});
