/** Runs an endless fake trainer and prints its process id: a worker to be killed. Argument: a directory for its output. */
import { readdirSync, readFileSync } from 'node:fs';
import { fakeTrainer, silentLog, trainJob } from './trainer-job.js';

/** Processes whose parent is this one. */
const children = (): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')[1] === String(process.pid);
      } catch {
        return false; // it has just ended
      }
    })
    .map(Number);

let told = false;
await fakeTrainer('endless')(trainJob(process.argv[2]), {
  signal: new AbortController().signal,
  log: silentLog,
  onEvent: ({ event }) => {
    if (event !== 'step' || told) return;
    told = true;
    process.stdout.write(`${children().at(-1)}\n`);
  },
});
