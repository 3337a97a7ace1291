import type { TrainerJob } from '../contracts/trainer-messages.js';
import { readTokenFile } from '../engine/data/token-file.js';
import { openModel } from '../engine/formats/open-model.js';
import { openTokenizer } from '../engine/formats/open-tokenizer.js';
import { loadPeft } from '../engine/model/peft.js';
import { mergeBetterWay } from '../engine/train/merge-ways.js';
import { exportGguf } from './export-gguf.js';
import type { TrainerChannel } from './trainer-channel.js';
import { checkpointless, startBackend } from './trainer-load.js';

type MergeJob = Extract<TrainerJob, { kind: 'merge' }>;

/** Adds an adapter to a model's weights: a Hugging Face directory, and GGUF files if they are asked for. */
export async function mergeJob(job: MergeJob, channel: TrainerChannel): Promise<void> {
  await startBackend(job, { dtype: 'f32' }, channel); // W + scale·B·A, and what is measured, in full float32
  const testRows = await readTokenFile(job.testTokens);
  const tokenizer = await openTokenizer(job.modelDirectory);
  const source = await openModel(job.modelDirectory);
  try {
    const adapter = await loadPeft(source.config, job.adapterDirectory);
    const onProgress = async (phase: string, done: number, total: number) => {
      channel.emit({ event: 'progress', phase, done, total });
      await checkpointless(channel);
    };
    const { directory, kept, measured } = await mergeBetterWay({
      source, base: job.base, adapter, tokenizer, testRows, merge: job.merge, directory: job.outputDirectory, onProgress,
    });
    const { files, notes } = job.export.gguf.length > 0 ? await exportGguf({ job, source, adapter, tokenizer, merged: directory, onProgress }) : { files: [], notes: [] };
    channel.emit({ event: 'done', result: { kind: 'merge', directory, kept, measured, gguf: files, notes } });
  } finally {
    await source.close();
  }
}
