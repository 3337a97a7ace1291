import { freemem } from 'node:os';
import type { BaseConfig } from '../contracts/fine-tune-config.js';
import type { TrainerJob } from '../contracts/trainer-messages.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import type { LlamaConfig } from '../engine/formats/llama-config.js';
import { openModel } from '../engine/formats/open-model.js';
import { loadModel, type LlamaModel } from '../engine/model/load.js';
import { planResidency } from '../engine/model/residency.js';
import { selectBackend, type BackendChoice, type BackendName } from '../engine/tensor/backends.js';
import { replayer } from '../engine/tensor/replay.js';
import { log, type TrainerChannel } from './trainer-channel.js';

/** SIGTERM ended the job after `step` steps, which its checkpoint holds. */
export class Interrupted extends Error {
  constructor(readonly step: number) {
    super(`interrupted at step ${step}`);
    this.name = 'Interrupted';
  }
}

/** Lets the event loop turn; throws `Interrupted` when SIGTERM has come. For phases that have nothing to save. */
export async function checkpointless(channel: TrainerChannel, step = 0): Promise<void> {
  await channel.breathe();
  if (channel.isInterrupted()) throw new Interrupted(step);
}

/**
 * Chooses the backend. A quantised or bf16 base computes its matrix products in bf16 where the processor has them (QLoRA's compute
 * dtype), which oneDNN decides by this variable when libtensorflow is loaded; an f32 base never does.
 */
export function chooseBackend(base: BaseConfig, wanted?: BackendName): Promise<BackendChoice> {
  if (base.dtype !== 'f32') process.env.TF_SET_ONEDNN_FPMATH_MODE ??= 'BF16';
  registerCudaBackend();
  return selectBackend(wanted);
}

/** Chooses the job's backend and says so. */
export async function startBackend(job: TrainerJob, base: BaseConfig, channel: TrainerChannel): Promise<string> {
  const { name, description } = await chooseBackend(base, job.backend);
  channel.emit({ event: 'started', backend: name, message: description });
  return name;
}

/** Loads the job's base model, with progress. */
export async function loadBase(modelDirectory: string, base: BaseConfig, channel: TrainerChannel): Promise<LlamaModel> {
  const source = await openModel(modelDirectory);
  try {
    return await loadModel(source, base, {
      resident: keepsCopies(source.config, base),
      onTensor: async (done, total) => {
        if (done % 30 !== 0 && done !== total) return;
        channel.emit({ event: 'progress', phase: 'loading the model', done, total });
        await checkpointless(channel);
      },
    });
  } finally {
    await source.close();
  }
}

/** Whether dequantised copies are kept from the start; a backend that plans its memory makes them itself. */
function keepsCopies(config: LlamaConfig, base: BaseConfig): boolean {
  if (replayer()) return false;
  const { resident, description } = planResidency(config, base, freeBytes());
  log('info', description);
  return resident;
}

/** Memory that tensors may still take: the machine's, or the control group's where that is less. */
export function freeBytes(): number {
  const limit = process.constrainedMemory();
  const left = limit > 0 && limit < 2 ** 60 ? limit - process.memoryUsage.rss() : Infinity;
  return Math.max(0, Math.min(freemem(), left));
}
