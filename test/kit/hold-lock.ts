/** A process that takes a store's lock, says so and waits to be killed: argument DIRECTORY. */
import { setTimeout as sleep } from 'node:timers/promises';
import { withLock } from '../../store/file-lock.js';

await withLock(process.argv[2]!, async () => {
  process.send!('held');
  await sleep(600_000);
});
