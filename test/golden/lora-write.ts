/**
 * Writes what lora-check.py loads:  npx tsx test/golden/lora-write.ts OUT
 * Of each case of lora.py: the adapter that Temper's training ends in, its merged model, and the logits of the first row.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mergeAdapter } from '../../engine/model/merge.js';
import { savePeft } from '../../engine/model/peft.js';
import { selectBackend } from '../../engine/tensor/backends.js';
import { cases, firstLogits, openBase, trainCase } from '../kit/lora-cases.js';

const [out] = process.argv.slice(2);
await selectBackend();
for (const [name, { base }] of Object.entries(cases)) {
  const directory = join(out, name);
  mkdirSync(directory, { recursive: true });
  const { model, adapter } = await trainCase(name);
  await savePeft(adapter, join(directory, 'adapter'), 'base');
  const logits = await firstLogits({ model, adapter });
  writeFileSync(join(directory, 'logits.f32'), new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
  const source = await openBase(base);
  await mergeAdapter(source, adapter, { files: async () => new Map<string, Uint8Array>() }, join(directory, 'merged'), { dtype: 'f32' });
  await source.close();
}
