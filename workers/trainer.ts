/** The engine process: one job, then it ends. See contracts/trainer-messages.ts for the protocol. */
import type { TrainerJob } from '../contracts/trainer-messages.js';
import { evaluateJob } from './trainer-evaluate.js';
import { failedEvent } from './trainer-failure.js';
import { mergeJob } from './trainer-merge.js';
import { trainJob } from './trainer-train.js';
import { Interrupted } from './trainer-load.js';
import { openChannel, readJob, type TrainerChannel } from './trainer-channel.js';

const channel = openChannel();

async function run(job: TrainerJob, channel: TrainerChannel): Promise<void> {
  switch (job.kind) {
    case 'train':
      return trainJob(job, channel);
    case 'evaluate':
      return evaluateJob(job, channel);
    case 'merge':
      return mergeJob(job, channel);
  }
}

try {
  await run(await readJob(), channel);
  process.exit(0);
} catch (err) {
  if (err instanceof Interrupted) {
    channel.emit({ event: 'interrupted', step: err.step });
    process.exit(0);
  }
  channel.emit(failedEvent(err));
  process.exit(1);
}
