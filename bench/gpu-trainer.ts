/** The GPU suite's checks of the trainer, without a test runner. Exit code 1 when one fails. */
import { registerCudaBackend } from '../engine/cuda/register.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { trainerCases } from '../test/gpu/cases/trainer.js';

registerCudaBackend();
console.log((await selectBackend('cuda')).description);
let failures = 0;
for (const { name, check } of trainerCases) {
  const started = performance.now();
  const error = await check().then(() => undefined, (err: unknown) => (err instanceof Error ? (err.stack ?? err.message) : String(err)));
  if (error !== undefined) failures++;
  console.log(`${error === undefined ? 'ok  ' : 'FAIL'} ${((performance.now() - started) / 1000).toFixed(1)} s ${name}${error === undefined ? '' : `: ${error.slice(0, 900)}`}`);
}
process.exit(failures > 0 ? 1 : 0);
