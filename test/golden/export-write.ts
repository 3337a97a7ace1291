/**
 * Trains the small model of model.py for 8 steps, writes the adapter and the merged model, and the logits that we compute with
 * each, for export-check.py to compare with PEFT and transformers.
 *
 * Run: npx tsx test/golden/export-write.ts DIRECTORY
 */
import { join } from 'node:path';
import { readTokenFile } from '../../engine/data/token-file.js';
import { openModel } from '../../engine/formats/open-model.js';
import { writeSafetensors, type SafetensorsTensor } from '../../engine/formats/safetensors.js';
import { loadModel } from '../../engine/model/load.js';
import { logits, type Llama } from '../../engine/model/llama.js';
import { mergeAdapter } from '../../engine/model/merge.js';
import { savePeft } from '../../engine/model/peft.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { trainAdapter } from '../../engine/train/train.js';
import { goldenPath } from '../kit/golden.js';
import { smallLora, smallTrain } from '../kit/small-model.js';

const [directory] = process.argv.slice(2);
if (!directory) throw new Error('usage: export-write.ts DIRECTORY');
await selectBackend();
const source = await openModel(goldenPath('model/base'));
const model = await loadModel(source, { dtype: 'f32' });
const rows = await readTokenFile(goldenPath('train/rows.safetensors'));
const { adapter } = await trainAdapter({ model, lora: smallLora(), train: smallTrain(), trainRows: rows, testRows: rows });
await savePeft(adapter, join(directory, 'adapter'), goldenPath('model/base'));
await mergeAdapter(source, adapter, { files: async () => new Map() }, join(directory, 'merged'));

const ids = rows.ids(0);
const batch = { shape: [1, ids.length] as [number, number], inputIds: ids, positions: ids.map((_, i) => i), segments: ids.map(() => 1) };
const shape = [ids.length, model.config.vocabSize];
const logitsOf = async (llama: Llama) => ({ dtype: 'F32' as const, shape, data: (await logits(llama, batch).data()) as Float32Array });
const merged = await openModel(join(directory, 'merged'));
await writeSafetensors(join(directory, 'logits.safetensors'), new Map<string, SafetensorsTensor>([
  ['ids', { dtype: 'I32' as const, shape: [ids.length], data: ids.slice() }],
  ['base', await logitsOf({ model })],
  ['adapter', await logitsOf({ model, adapter })],
  ['merged', await logitsOf({ model: await loadModel(merged, { dtype: 'f32' }) })],
]));
await Promise.all([source.close(), merged.close()]);
