/**
 * A training in a process of its own: goes on from the checkpoint in the folder, where there is one, leaves one every other step, says
 * each step, and leaves the adapter's bytes (`adapter`) and the step it began with (`from`) in the end: killed-training FOLDER
 */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { registerCudaBackend } from '../../../engine/cuda/register.js';
import { selectBackend } from '../../../engine/tensor/backends.js';
import { readCheckpoint, writeCheckpoint } from '../../../engine/train/checkpoint.js';
import { train } from './trainer.js';

registerCudaBackend();
await selectBackend('cuda');
const path = join(process.argv[2], 'checkpoint');
const resume = existsSync(path) ? await readCheckpoint(path, 'this') : undefined;
const { bytes } = await train({ checkpointEvery: 2 }, {
  onStep: ({ step }) => console.log(`step ${step}`),
  onCheckpoint: async (_step, state) => writeCheckpoint(path, await state(), 'this'),
}, { resume });
await writeFile(join(process.argv[2], 'adapter'), bytes);
await writeFile(join(process.argv[2], 'from'), String(resume?.history.global_step ?? 0));
process.exit(0);
