import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openModel } from '../../engine/formats/open-model.js';
import { generate } from '../../engine/model/generate.js';
import { disposeModel, type LlamaModel } from '../../engine/model/load.js';
import { mergeAdapter } from '../../engine/model/merge.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { evaluateLoss } from '../../engine/train/evaluate.js';
import { trainAdapter, type TrainOutcome } from '../../engine/train/train.js';
import { goldenPath } from '../kit/golden.js';
import { loadSmallModel, smallLora, smallTrain } from '../kit/small-model.js';
import { randomRows } from '../kit/token-rows.js';

const rows = randomRows(6, { vocabulary: 128, longest: 12 });
const tokenizer = { eosTokenId: 2, decode: (ids: number[]) => ids.join(' '), decodeBatch: async (all: number[][]) => all.map((ids) => ids.join(' ')) };

/** A whole training on one backend: steps with dropout, clipping and evaluation, then answers and the merged model. */
async function pipeline(model: LlamaModel): Promise<{ losses: number[]; evalLoss: number; ids: number[] }> {
  const outcome: TrainOutcome = await trainAdapter({ model, lora: smallLora({ dropout: 0.1 }), train: smallTrain({ steps: 2 }), trainRows: rows, testRows: rows });
  const losses = outcome.history.log_history.flatMap((entry) => ('loss' in entry ? [entry.loss] : []));
  const llama = { model, adapter: outcome.adapter };
  const { loss } = await evaluateLoss(llama, rows);
  const [answer] = await generate(llama, tokenizer as unknown as Parameters<typeof generate>[1], [[5, 6, 7]], { maxNewTokens: 4 });
  const directory = await mkdtemp(join(tmpdir(), 'temper-portable-'));
  const source = await openModel(goldenPath('model/base'));
  await mergeAdapter(source, outcome.adapter, { files: async () => new Map() }, directory);
  await source.close();
  await rm(directory, { recursive: true });
  outcome.adapter.dispose();
  return { losses, evalLoss: loss, ids: answer.ids };
}

describe('training, evaluating, answering and merging', () => {
  let expected: Awaited<ReturnType<typeof pipeline>>;
  let model: LlamaModel;
  beforeAll(async () => {
    await selectBackend('cpu');
    model = await loadSmallModel({ dtype: 'nf4', doubleQuant: true });
    expected = await pipeline(model);
  });
  afterAll(() => disposeModel(model));

  it('gives on wasm what it gives on cpu', async () => {
    await selectBackend('wasm');
    const wasm = await loadSmallModel({ dtype: 'nf4', doubleQuant: true });
    const actual = await pipeline(wasm);
    actual.losses.forEach((loss, step) => expect(loss).toBeCloseTo(expected.losses[step], 4));
    expect(actual.losses).toHaveLength(2);
    expect(actual.evalLoss).toBeCloseTo(expected.evalLoss, 4);
    expect(actual.ids).toEqual(expected.ids);
    disposeModel(wasm);
  });
});
