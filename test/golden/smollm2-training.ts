/**
 * The course of a training of SmolLM2-135M-Instruct on the tensorflow backend in float32 products, which other backends follow.
 * Writes smollm2-training/course.json. The token files beside it are what the format stage makes of examples/quickstart.json.
 *   npx tsx test/golden/smollm2-training.ts
 */
import { writeFile } from 'node:fs/promises';
import { selectBackend } from '../../engine/tensor/backends.js';
import { goldenPath } from '../kit/golden.js';
import { fetchTestModel } from '../kit/model.js';
import { trainSmolLm2 } from '../kit/smollm2-training.js';

await selectBackend('tensorflow');
const course = await trainSmolLm2(await fetchTestModel(), (step) => console.log(`step ${step}`));
await writeFile(goldenPath('smollm2-training/course.json'), `${JSON.stringify(course)}\n`);
