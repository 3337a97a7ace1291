import type { TrainerJob } from '../contracts/trainer-messages.js';
import { openModel } from '../engine/formats/open-model.js';
import { openTokenizer } from '../engine/formats/open-tokenizer.js';
import { mergeAdapter } from '../engine/model/merge.js';
import { loadPeft } from '../engine/model/peft.js';
import type { TrainerChannel } from './trainer-channel.js';
import { Interrupted, startBackend } from './trainer-load.js';

/** Adds an adapter to the model's own weights and writes a Hugging Face directory. */
export async function mergeJob(job: Extract<TrainerJob, { kind: 'merge' }>, channel: TrainerChannel): Promise<void> {
  await startBackend(job, { dtype: 'f32' }, channel); // W + scale·B·A in full float32
  const directory = job.outputDirectory;
  const source = await openModel(job.modelDirectory);
  try {
    const adapter = await loadPeft(source.config, job.adapterDirectory);
    const tokenizer = await openTokenizer(job.modelDirectory);
    await mergeAdapter(source, adapter, tokenizer, directory, {
      onTensor: (done, total) => {
        channel.emit({ event: 'progress', phase: 'merging', done, total });
        if (channel.isInterrupted()) throw new Interrupted(0);
      },
    });
  } finally {
    await source.close();
  }
  channel.emit({ event: 'done', result: { kind: 'merge', directory } });
}
