import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { baseReference } from '../contracts/hub-pin.js';
import { describeTrainable } from '../contracts/trainable-parameters.js';
import type { TrainerJob } from '../contracts/trainer-messages.js';
import type { TokenRows } from '../engine/data/batches.js';
import { readTokenFile } from '../engine/data/token-file.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { readPeftAdapter } from '../engine/formats/peft-adapter.js';
import { planActivations } from '../engine/model/activations.js';
import { savePeft } from '../engine/model/peft.js';
import { replayer } from '../engine/tensor/replay.js';
import { checkpointName, readCheckpoint, writeCheckpoint } from '../engine/train/checkpoint.js';
import { longestOf } from '../engine/train/evaluate.js';
import { lastEval, meanTrainLoss, trainerStateJson } from '../engine/train/history.js';
import { digestOf, trainAdapter } from '../engine/train/train.js';
import { log, type TrainerChannel } from './trainer-channel.js';
import { freeBytes, Interrupted, loadBase, startBackend } from './trainer-load.js';
import { createPace } from './trainer-pace.js';

/** Trains an adapter; checkpoints and the result go to the job's output directory. */
export async function trainJob(job: Extract<TrainerJob, { kind: 'train' }>, channel: TrainerChannel): Promise<void> {
  const backend = await startBackend(job, job.base, channel);
  const trainRows = await readTokenFile(job.trainTokens);
  const testRows = await readTokenFile(job.testTokens);
  const model = await loadBase(job.modelDirectory, job.base, channel);
  const train = { ...job.train, checkpointing: job.train.checkpointing || mustRecompute(model.config, job.train.batchSize, trainRows) };
  const initial = job.adapterDirectory === undefined ? undefined : (await readPeftAdapter(job.adapterDirectory)).tensors;
  const training = digestOf({ ...job, model, trainRows, initial });
  const resume = job.resumeFrom === undefined ? undefined : await readCheckpoint(job.resumeFrom, training);
  const pace = createPace(resume?.history.num_input_tokens_seen ?? 0);

  const { adapter, history, finished } = await trainAdapter(
    { model, lora: job.lora, train, trainRows, testRows, resume, initial },
    {
      onStart: (adapter) => log('info', describeTrainable(adapter.size, model.parameters + adapter.added)),
      onPlan: (description) => log('info', description),
      isInterrupted: () => channel.isInterrupted(),
      onProgress: async (phase, done, total) => {
        channel.emit({ event: 'progress', phase, done, total });
        await channel.breathe();
      },
      onStep: ({ step, epoch, loss, learning_rate: learningRate, grad_norm: gradNorm, num_input_tokens_seen: tokens }, steps) => {
        channel.emit({ event: 'step', step, steps, epoch, loss, learningRate, gradNorm, tokens, ...pace.step(tokens, steps - step) });
      },
      onEval: ({ step, epoch, loss, tokens }) => {
        channel.emit({ event: 'eval', step, epoch, loss, tokens });
        pace.resume();
      },
      onCheckpoint: async (step, state) => {
        const directory = join(job.outputDirectory, checkpointName(step));
        await writeCheckpoint(directory, await state(), training);
        channel.emit({ event: 'checkpoint', step, directory });
        pace.resume();
      },
    },
  );
  if (!finished) throw new Interrupted(history.global_step);
  if (history.global_step < history.max_steps) {
    log('info', `stopped early, at step ${history.global_step} of ${history.max_steps}: ${train.earlyStopping!.patience} evaluations in a row brought no gain`);
  }

  const adapterDirectory = join(job.outputDirectory, 'adapter');
  const base = baseReference(job.model);
  await savePeft(adapter, adapterDirectory, base.name, base.revision);
  const trainLoss = meanTrainLoss(history);
  history.log_history.push({ epoch: history.epoch, step: history.global_step, train_loss: trainLoss });
  const historyFile = join(job.outputDirectory, 'trainer_state.json');
  await writeFile(historyFile, trainerStateJson(history));
  channel.emit({
    event: 'done',
    result: {
      kind: 'train', adapterDirectory, historyFile,
      summary: {
        steps: history.global_step, epochs: history.epoch, tokens: history.num_input_tokens_seen, trainLoss, keptStep: train.keep === 'best' ? history.best_global_step! : history.global_step,
        evalLoss: train.keep === 'best' ? history.best_metric! : lastEval(history)!.eval_loss,
        trainableParameters: adapter.size, totalParameters: model.parameters + adapter.added, backend,
      },
    },
  });
}

/** Whether memory is too short for a micro-batch's activations, by an estimate; a backend that plans its memory decides that itself. */
function mustRecompute(config: LlamaConfig, batchSize: number, rows: TokenRows): boolean {
  if (replayer()) return false;
  const { recompute, description } = planActivations(config, { rows: batchSize, longest: longestOf(rows) }, freeBytes());
  log('info', description);
  return recompute;
}
