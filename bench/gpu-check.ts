/**
 * Compares every op on `cuda` with the composed kernels on `cpu`, and prints what differs. Exit code 1 when something does.
 *   gpu-check [SEED] [PART OF A CASE'S NAME]
 */
import { selectBackend } from '../engine/tensor/backends.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import { poisonAllocations } from '../test/gpu/cases/poison.js';
import { adaptedCases } from '../test/gpu/cases/adapted.js';
import { blockCases } from '../test/gpu/cases/block.js';
import { worstError } from '../test/gpu/cases/compare.js';
import { genericCases } from '../test/gpu/cases/generic.js';
import { joinedCases } from '../test/gpu/cases/joined.js';
import { linearCases } from '../test/gpu/cases/linear.js';

registerCudaBackend();
console.log((await selectBackend('cuda')).description);
poisonAllocations();
let failures = 0;
const seed = Number(process.argv[2] ?? Date.now() % 2 ** 31), part = process.argv[3] ?? '';
for (const one of [...genericCases, ...blockCases, ...linearCases, ...joinedCases, ...adaptedCases].filter(({ name }) => name.includes(part))) {
  const limit = one.tolerance ?? 1e-2;
  try {
    const error = await worstError(one, seed);
    const good = error <= limit;
    if (!good) failures++;
    console.log(`${good ? 'ok  ' : 'FAIL'} ${error.toExponential(1)} (limit ${limit}) ${one.name}`);
  } catch (error) {
    failures++;
    console.log(`FAIL ${one.name}: ${error instanceof Error ? (error.stack ?? error.message).split('\n').slice(0, 4).join(' | ') : String(error)}`);
  }
}
console.log(`seed ${seed}: ${failures} failed`);
process.exit(failures > 0 ? 1 : 0);
