/** Runs an endless fake trainer and prints its process id: a worker to be killed. Argument: a directory for its output. */
import { trainerOf } from './processes.js';
import { fakeTrainer, silentLog, trainJob } from './trainer-job.js';

let told = false;
await fakeTrainer('endless')(trainJob(process.argv[2]), {
  signal: new AbortController().signal,
  log: silentLog,
  onEvent: ({ event }) => {
    if (event !== 'step' || told) return;
    told = true;
    process.stdout.write(`${trainerOf(process.pid)}\n`);
  },
});
